"""Tables as rows: as wide as they need to be, columns shrunk from the widest where that is more than there is."""

from itertools import zip_longest

from markdown_it.tree import SyntaxTreeNode
from textual.content import Content

from gptoss_mlx.app.markdown.inline import inline_content
from gptoss_mlx.app.markdown.row import Row

RULE_STYLE = "$foreground 40%"
SEPARATOR = " │ "


def table_rows(node: SyntaxTreeNode, width: int) -> list[Row]:
    """The table; a cell that does not fit its column goes on in the next row."""
    lines = [
        [inline_content(cell.children[0]) if cell.children else Content() for cell in line.children]
        for part in node.children
        for line in part.children
    ]
    if not lines:
        return []
    aligned = [str(cell.attrs.get("style", "")) for cell in node.children[0].children[0].children]
    natural = [max(1, *(cell.cell_length for cell in column)) for column in zip_longest(*lines, fillvalue=Content())]
    widths = _fitted(natural, width - len(SEPARATOR) * (len(natural) - 1))
    rows: list[Row] = []
    for number, line in enumerate(lines):
        cells = [cell.stylize("bold") if number == 0 else cell for cell in line]
        rows += [Row(content) for content in _line(cells, widths, aligned)]
        if number == 0:
            rule = "─┼─".join("─" * column for column in widths)
            rows.append(Row(Content.styled(rule, RULE_STYLE)))
    return rows


def _fitted(natural: list[int], room: int) -> list[int]:
    """Widths of at most `room` cells in all, if each can have one: no column is shrunk below a narrower one."""
    limit = max(natural)
    while limit > 1 and sum(min(limit, column) for column in natural) > room:
        limit -= 1
    return [min(limit, column) for column in natural]


def _line(cells: list[Content], widths: list[int], aligned: list[str]) -> list[Content]:
    """One line of the table in as many rows as its highest cell has."""
    wrapped = [cell.wrap(max(2, width)) for cell, width in zip(cells, widths, strict=False)]
    separator = Content.styled(SEPARATOR, RULE_STYLE)
    return [
        separator.join(
            _placed(part or Content(), width, align)
            for part, width, align in zip_longest(parts, widths, aligned[: len(widths)])
            if width is not None
        )
        for parts in zip_longest(*wrapped)
    ]


def _placed(part: Content, width: int, align: str | None) -> Content:
    space = max(0, width - part.cell_length)
    if align == "text-align:right":
        return part.pad_left(space)
    if align == "text-align:center":
        return part.pad_left(space // 2).pad_right(space - space // 2)
    return part.pad_right(space)
