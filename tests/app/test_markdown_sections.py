"""Where growing Markdown is cut."""

from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.app.markdown.rows import markdown_rows, parse_markdown
from gptoss_mlx.app.markdown.sections import CODE_CHARACTERS, Section, SectionCutter, cut_sections

LINES = st.sampled_from(
    [
        "",
        "",
        "words and more",
        "# heading",
        "- item",
        "- other item",
        "  of the item",
        "    deep in it",
        "  - inner item",
        "1. first",
        "2. second",
        "1984. A year at the start of a line",
        "```python",
        "```",
        "   ```",
        "~~~",
        "x = 1",
        "> quoted",
        "| a | b |",
        "|---|---|",
        "---",
        "***",
        "<div>",
        "    indented",
    ]
)


def cut(text: str, *steps: int, least: int = 1, code: int | None = None) -> list[Section]:
    """Sections of a text that comes in pieces, the rest included."""
    cutter = SectionCutter(least, code)
    sections: list[Section] = []
    begin = 0
    for end in (*steps, len(text)):
        sections += cutter.feed(text[begin:end])
        begin = max(begin, end)
    return [*sections, Section(cutter.rest, False)] if cutter.rest else sections


def shown(text: str) -> list[str]:
    """What is written on the screen, without blank rows."""
    return [row.content.plain for row in markdown_rows(parse_markdown(text), 60) if row.content.plain.strip()]


@given(st.lists(LINES, max_size=30), st.integers(1, 60))
def test_sections_together_are_the_text(lines: list[str], least: int) -> None:
    text = "\n".join(lines)
    assert "".join(section.text for section in cut(text, least=least)) == text


@given(st.lists(LINES, max_size=30), st.lists(st.integers(0, 300), max_size=5).map(sorted))
def test_it_does_not_matter_in_which_pieces_the_text_came(lines: list[str], steps: list[int]) -> None:
    text = "\n".join(lines)
    assert cut(text, *steps) == cut(text)


@given(st.lists(LINES, max_size=20))
def test_sections_show_what_the_whole_text_shows(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert [row for section in cut(text) for row in shown(section.text)] == shown(text)


def test_a_growing_block_of_code_is_cut_and_both_parts_are_code() -> None:
    code = "".join(f"line_{n} = {n}\n" for n in range(40))
    sections = cut(f"Look:\n\n```python\n{code}```\nDone.\n", code=100)
    assert len(sections) > 3
    assert all(section.text.startswith("```python\n") for section in sections[1:-1])
    assert all(section.joins for section in sections[1:-2])
    rows = [row for section in sections for row in shown(section.text)]
    assert [row.strip() for row in rows] == ["Look:", *code.strip().split("\n"), "Done."]


def test_items_of_a_tight_list_follow_one_another_without_a_gap() -> None:
    sections = cut("- a\n- b\n\n- c\n\nEnd\n")
    assert [(section.text.strip(), section.joins) for section in sections] == [
        ("- a", True),
        ("- b", False),
        ("- c", False),
        ("End", False),
    ]


def test_a_text_with_a_link_definition_is_one_section() -> None:
    text = "See [it][1].\n\n" + "Words. " * 400 + "\n\n[1]: https://example.org\n"
    assert cut_sections(text) == [Section(text, False)]


def test_short_blocks_share_a_section() -> None:
    assert len(cut_sections("One.\n\nTwo.\n\nThree.\n")) == 1


def test_what_is_rendered_anew_stays_short_however_long_the_text_is() -> None:
    paragraphs = "A paragraph of some words that goes on for a while.\n\n" * 600
    items = "".join(f"{n}. item with some words\n" for n in range(1, 900))
    code = "```python\n" + "def f(x):\n    return x\n" * 900 + "```\n"
    for text in (paragraphs, items, code, code + items + paragraphs):
        cutter = SectionCutter(code_characters=CODE_CHARACTERS)
        longest = 0
        for begin in range(0, len(text), 50):
            cutter.feed(text[begin : begin + 50])
            longest = max(longest, len(cutter.rest))
        assert longest < 2 * CODE_CHARACTERS + 100
