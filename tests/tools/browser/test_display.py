"""What the model sees of a page: exactly the form that it was trained on, whatever the text."""

import re
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.harmony import read_display_header
from gptoss_mlx.tools.browser.backend import BrowseError, Hit
from gptoss_mlx.tools.browser.display import show_page
from gptoss_mlx.tools.browser.find import SHOWN_LINES, find_in_page
from gptoss_mlx.tools.browser.page import WIDTH, Page, clean, make_page, without_links, wrap_line
from gptoss_mlx.tools.browser.results import results_page
from gptoss_mlx.tools.running import about_tokens

TEXTS = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("ab \n\t\r\x0b\x0c\u2028【】†-é字"))) | st.text(
    st.characters(), min_size=100, max_size=400
)


def page_of(text: str, title: str = "notes.md") -> Page:
    return make_page("file://notes/notes.md", title, clean(text), path="/home/ann/notes/notes.md", plain=True)


def shown(page: Page, first: int = 0, num_lines: int = 0, cursor: int = 0, **limits: int) -> str:
    return show_page(page, cursor, first, num_lines, count_tokens=about_tokens, **limits).text


def body(display: str) -> list[str]:
    return display.split("\n\n", 1)[1].split("\n")


def test_a_page_is_displayed_with_its_cursor_title_address_and_numbered_lines():
    page = make_page("https://example.org/a%20b", "A page", "First.\n\nSecond 【0†link†other.org】.")
    assert shown(page, cursor=3) == (
        "[3] A page (https://example.org/a b)\n"
        "**viewing lines [0 - 4] of 4**\n"
        "\n"
        "L0: \n"
        "L1: URL: https://example.org/a%20b\n"
        "L2: First.\n"
        "L3: \n"
        "L4: Second 【0†link†other.org】."
    )


def test_results_are_displayed_as_links_with_what_was_found():
    hits = [
        Hit("Sinks", "https://a.org/x", "What they\nare."),
        Hit("", "file://notes/b.md"),
        Hit("C†D", "https://c.org/"),
    ]
    page = results_page("attention sinks", hits)
    assert shown(page) == (
        "[0] attention sinks\n"
        "**viewing lines [0 - 6] of 6**\n"
        "\n"
        "L0: \n"
        "L1: URL: \n"
        "L2: # Search Results\n"
        "L3: \n"
        "L4:   * 【0†Sinks†a.org】 What they are.\n"
        "L5:   * 【1†file://notes/b.md†notes】\n"
        "L6:   * 【2†C‡D†c.org】"
    )
    assert {number: link.url for number, link in page.links.items()} == {0: hits[0].url, 1: hits[1].url, 2: hits[2].url}
    assert "Nothing was found for `x`." in shown(results_page("x", []))


def test_found_places_are_displayed_with_a_link_to_each():
    page = page_of("\n".join(["nothing"] * 9 + ["the Needle here", "and after", "x", "y", "z", "a second NEEDLE"]))
    found = find_in_page(page, "needle")
    assert shown(found, cursor=7) == (
        "[7] Find results for text: `needle` in `notes.md` (file://notes/notes.md/find?pattern=needle)\n"
        "**viewing lines [0 - 7] of 7**\n"
        "\n"
        "L0: # 【0†match at L11】\n"
        "L1: the Needle here\n"
        "L2: and after\n"
        "L3: x\n"
        "L4: y\n"
        "L5: \n"
        "L6: # 【1†match at L16】\n"
        "L7: a second NEEDLE"
    )
    assert [link.line for link in found.links.values()] == [11, 16]
    assert found.file_lines == (0, 10, 11, 12, 13, 0, 0, 15)
    nothing = find_in_page(page, "no such text")
    assert "L0: No `find` results for pattern: `no such text`" in shown(nothing)
    with pytest.raises(BrowseError, match="Cannot run `find` on search results page or find results page"):
        find_in_page(found, "needle")
    with pytest.raises(BrowseError, match="`pattern` is empty"):
        find_in_page(page, " \n ")


def test_lines_are_80_columns_and_a_file_knows_its_own():
    page = page_of("short\n" + "word " * 40 + "\nlast")
    assert max(map(len, page.lines)) <= WIDTH
    assert page.file_lines[:3] == (0, 0, 1)
    assert page.file_lines[-1] == 3
    assert set(page.file_lines[3:-1]) == {2}


def test_a_budget_of_tokens_ends_the_display_and_the_next_one_goes_on():
    page = page_of("\n".join(f"line {number} of many" for number in range(2000)))
    first = shown(page, view_tokens=100)
    lines = body(first)
    # The line in which the budget ends is the last.
    assert about_tokens("\n".join(lines[:-1])) <= 100 <= 1.5 * about_tokens("\n".join(lines))
    last = int(re.findall(r"viewing lines \[0 - (\d+)\] of 2001", first)[0])
    assert body(shown(page, last + 1))[0] == f"L{last + 1}: {page.lines[last + 1]}"


def test_num_lines_are_shown_within_what_a_result_may_hold():
    page = page_of("\n".join("x" * 60 for _ in range(5000)))
    assert len(body(shown(page, 10, 3))) == 3
    assert len(shown(page, 0, 5000, characters=8000)) <= 8000
    assert len(body(shown(page, 0, 5000, characters=10))) == 1
    assert len(body(shown(page, 4990, 5000))) == 12


@pytest.mark.parametrize("first", [-1, 5, 100])
def test_a_line_that_is_not_there_is_told(first: int):
    with pytest.raises(BrowseError, match=rf"Invalid location parameter: `{first}`. Cannot exceed page maximum of 4"):
        shown(page_of("a\nb\nc"), first)


@settings(deadline=None, max_examples=150)
@given(TEXTS, TEXTS, st.integers(0, 50), st.integers(-2, 30))
def test_any_text_can_be_displayed_from_any_line(text: str, title: str, first: int, num_lines: int):
    page = page_of(text, title)
    first %= len(page.lines)
    display = shown(page, first, num_lines, cursor=5)
    header = read_display_header(display)
    assert header is not None
    assert (header.cursor, header.url) == (5, "file://notes/notes.md")
    # However somebody splits it into lines: each is one line of the page.
    lines = body(display)
    assert "\n".join(lines).splitlines() == lines
    assert lines == [f"L{number}: {page.lines[number]}" for number in range(first, first + len(lines))]
    assert all(len(line) <= WIDTH for line in page.lines)
    assert not set("【】") & set("".join(page.lines))
    display.encode("utf-8")
    assert len(page.file_lines) == len(page.lines)


@settings(deadline=None, max_examples=150)
@given(TEXTS)
def test_wrapping_loses_nothing_and_lines_begin_where_the_page_says(text: str):
    page = page_of(text)
    for line in page.text.split("\n"):
        assert "".join(wrap_line(line)) == line
        short = line[:4000]
        assert wrap_line(short) == (
            textwrap.wrap(short, WIDTH, replace_whitespace=False, drop_whitespace=False) or [short]
        )
    for start, line in zip(page.starts, page.lines, strict=True):
        assert page.text[start : start + len(line)] == line


@settings(deadline=None, max_examples=150)
@given(TEXTS, st.integers(0, 500), st.integers(1, 60))
def test_find_finds_what_is_there(text: str, begin: int, length: int):
    page = page_of(text)
    begin %= len(page.text)
    pattern = page.text[begin : begin + length]
    if not pattern.split():
        return
    found = find_in_page(page, pattern)
    assert found.links, (pattern, page.text)
    at = begin + len(pattern) - len(pattern.lstrip())
    there = max(number for number, start in enumerate(page.starts) if start <= at)
    lines = [link.line for link in found.links.values() if link.line is not None]
    # At that place, or in the lines of a place before it.
    if len(lines) < 50:
        assert any(line <= there < line + SHOWN_LINES for line in lines)


def test_a_place_is_found_across_lines_and_in_the_words_of_links():
    words = "padding " * 9 + "the long way home"
    page = make_page("https://x.org/", "T", f"{words}\nsee 【12†the docs†other.org】 today")
    for pattern in ("the long way home", "LONG   WAY", "see the docs today"):
        assert find_in_page(page, pattern).links, pattern
    assert find_in_page(page, "【12†the docs†other.org】").links == {}
    assert without_links("a【1†b】c【2†d†e.org】")[0] == "abcd"


def test_long_words_take_no_time_to_wrap():
    # A quarter of a million characters: with the square of it, this takes minutes.
    for text in ("x" * 250_000, "-" * 250_000, "字" * 250_000, " " * 250_000):
        assert "".join(wrap_line(text)) == text


def test_a_page_that_is_too_long_says_so():
    page = page_of("long line\n" * 250_000)
    assert page.lines[-1].startswith("[the page was cut here")
