"""Markdown as rows of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.content import Content

from gptoss_mlx.app.markdown.rows import markdown_rows, parse_markdown


def rows(text: str, width: int = 40) -> list[str]:
    return [row.content.plain for row in markdown_rows(parse_markdown(text), width)]


def styles(text: str) -> dict[str, set[str]]:
    """The styles of the first row, by the text that has them."""
    content: Content = markdown_rows(parse_markdown(text), 80)[0].content
    found: dict[str, set[str]] = {}
    for span in content.spans:
        found.setdefault(content.plain[span.start : span.end], set()).add(str(span.style))
    return found


def test_blocks_are_set_apart_by_one_blank_row() -> None:
    assert rows("# Title\nText\n\n---\n> said") == ["Title", "", "Text", "", "─" * 40, "", "▌ said"]


def test_paragraphs_wrap_and_items_hang() -> None:
    assert rows("- one two three four five\n- six", 16) == ["• one two three", "  four five", "• six"]


def test_lists_nest_and_number_from_where_they_say() -> None:
    assert rows("9. nine\n10. ten\n    - inner") == [" 9. nine", "10. ten", "    ◦ inner"]


def test_a_loose_list_keeps_its_gaps_and_a_tight_one_has_none() -> None:
    assert rows("- a\n\n- b") == ["• a", "", "• b"]
    assert rows("- a\n- b") == ["• a", "• b"]


def test_code_fills_the_width_and_is_folded_not_cut() -> None:
    assert rows("```\n" + "x" * 20 + "\n\ny\n```", 12) == [
        " xxxxxxxxxx ",
        " xxxxxxxxxx ",
        "            ",
        " y          ",
    ]


def test_code_in_an_unknown_language_is_shown_plain() -> None:
    assert rows("```no such{language\nx [b]y[/b]\n```")[0].strip() == "x [b]y[/b]"


def test_known_code_is_highlighted() -> None:
    row = markdown_rows(parse_markdown("```python\ndef f(): pass\n```"), 40)[0]
    assert {row.content.plain[span.start : span.end] for span in row.content.spans} >= {"def", "f"}


def test_a_table_stands_in_columns() -> None:
    assert rows("| a | long |\n|---|--:|\n| wide cell | 1 |") == [
        "a         │ long",
        "──────────┼─────",
        "wide cell │    1",
    ]


def test_a_table_that_is_too_wide_wraps_its_widest_column() -> None:
    table = rows("| a | b |\n|---|---|\n| x | one two three four |", 16)
    assert table == ["a │ b           ", "──┼─────────────", "x │ one two     ", "  │ three four  "]


def test_emphasis_code_and_links_have_styles() -> None:
    found = styles("a **b** *c* ~~d~~ `e` [f](https://g.org)")
    assert "bold" in found["b"]
    assert "italic" in found["c"]
    assert "strike" in found["d"]
    assert found["e"]
    assert any("underline" in style for style in found["f"])


def test_a_link_shows_where_it_goes_unless_its_text_says_so() -> None:
    assert rows("[it](https://a.org)", 80) == ["it (https://a.org)"]
    assert rows("<https://a.org> https://b.org", 80) == ["https://a.org https://b.org"]
    assert rows("![a picture](p.png)", 80) == ["a picture (p.png)"]


@pytest.mark.parametrize("text", ["<div>x</div>", "a <b>c</b> [red]d[/red]", "<|channel|>final", "[/] [@click=x]y[/]"])
def test_html_and_markup_are_text(text: str) -> None:
    assert rows(text, 80) == [text]


def test_deep_nesting_loses_no_text_and_stays_in_the_width() -> None:
    deep = rows(">" * 60 + " deep", 20)
    assert "deep" in deep[-1]
    assert all(len(row) <= 20 for row in deep)


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("\n`*#->|[]()_~ \t"), max_size=200
    )
)
def test_no_text_breaks_it_and_every_row_fits(text: str) -> None:
    for width in (12, 33):
        for row in markdown_rows(parse_markdown(text), width):
            assert row.content.cell_length <= width or row.content.plain.count("│")
