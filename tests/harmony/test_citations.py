"""Citations and the heads of displays, as the model and its browser write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.harmony import DisplayHeader, find_marks, read_display_header


@pytest.mark.parametrize(
    ("mark", "cursor", "lines"),
    [
        ("【6†L9-L11】", 6, (9, 11)),
        ("【8†L3】", 8, (3, 3)),
        ("【8†L3-5】", 8, (3, 5)),
        ("【8†L3–L5】", 8, (3, 5)),
        ("【1†L9-L11, L20】", 1, (9, 20)),
        ("【1†L5-L2】", 1, (2, 5)),
        ("【12】", 12, None),
        ("【12†source】", 12, None),
        ("【0†L4†notes】", 0, (4, 4)),
    ],
)
def test_every_form_of_a_citation_is_found(mark: str, cursor: int, lines: tuple[int, int] | None):
    (found,) = find_marks(f"so{mark}.")
    assert (found.start, found.end, found.cursor, found.lines) == (2, 2 + len(mark), cursor, lines)


@pytest.mark.parametrize("text", ["【x†L1】", "【†L1】", "【1†L1", "1†L1】", "【1†\nL1】", "[1†L1]", "【-1†L1】", ""])
def test_what_is_no_citation_is_none(text: str):
    assert list(find_marks(text)) == []


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("【】†L0123456789-, \nx") | st.characters()))
def test_any_text_can_be_searched(text: str):
    for mark in find_marks(text):
        assert text[mark.start] == "【"
        assert text[mark.end - 1] == "】"
        assert list(find_marks(text[mark.start : mark.end])) != []


BAR = "\n**viewing lines [0 - 5] of 120**\n\nL0: "


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("[3] A (short) title (https://x.org/a b)", DisplayHeader(3, "A (short) title", "https://x.org/a b")),
        ("[0] attention sinks", DisplayHeader(0, "attention sinks", "")),
        ("[1]  (file://notes/a.md)", DisplayHeader(1, "", "file://notes/a.md")),
        ("[1] T (https://x.org/a_(b))", DisplayHeader(1, "T", "https://x.org/a_(b)")),
    ],
)
def test_the_head_of_a_display_is_read(head: str, expected: DisplayHeader):
    assert read_display_header(head + BAR) == expected


@pytest.mark.parametrize(
    "text", ["", "Error: no", "[1] title", f"[x] title{BAR}", f"x[1] title{BAR}", f"[1] a\nb{BAR}"]
)
def test_other_texts_have_none(text: str):
    assert read_display_header(text) is None
    assert read_display_header(text * 3000) is None
