"""Highlighted code as rows."""

from functools import lru_cache

from textual.content import Content

from gptoss_mlx.app.markdown.row import Row

CODE_BACKGROUND = "on $surface"


@lru_cache(maxsize=8)
def highlighted(code: str, language: str) -> Content:
    """The code in colours of the theme; plain if its language is not named or not known."""
    # Pygments takes a tenth of a second to import.
    from textual.highlight import highlight

    # An empty language would be guessed, by trying all of them.
    return highlight(code, language=language or "text")


def code_rows(code: str, info: str, width: int) -> list[Row]:
    """The code in rows that fill the width, so that its background is a block; long lines are folded."""
    words = info.split()
    rows: list[Row] = []
    for line in highlighted(code.rstrip("\n"), words[0] if words else "").split(allow_blank=True):
        for number, part in enumerate(line.expand_tabs(4).fold(max(2, width - 2))):
            content = Content.assemble(" ", part, " " * max(1, width - 1 - part.cell_length))
            rows.append(Row(content.stylize_before(CODE_BACKGROUND), "" if number else None, 1))
    return rows
