"""Blocks of Markdown as rows of a given width."""

from collections.abc import Sequence
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from textual.content import Content

from gptoss_mlx.app.markdown.code import code_rows
from gptoss_mlx.app.markdown.inline import inline_content
from gptoss_mlx.app.markdown.row import LEAST_WIDTH, Row, prefixed, wrapped
from gptoss_mlx.app.markdown.table import table_rows

HEADING_STYLES = {"h1": "bold underline $text-primary", "h2": "bold $text-primary"}
"""The smaller ones are bold."""
BULLETS = ("• ", "◦ ", "▪ ")
"""By depth, over and over."""
BULLET_STYLE = "$text-primary"
RULE_STYLE = "$foreground 40%"
QUOTE_STYLE = "$text-primary"
NESTING = 100
"""Deeper blocks would be left out by the parser; its own limit of 20 is soon met by a quoted letter."""


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return MarkdownIt("gfm-like", {"html": False, "maxNesting": NESTING})


def parse_markdown(text: str) -> SyntaxTreeNode:
    """The blocks of the text."""
    return SyntaxTreeNode(_parser().parse(text))


def markdown_rows(tree: SyntaxTreeNode, width: int) -> list[Row]:
    """The blocks as rows of at most `width` cells, a blank one between two blocks."""
    return _blocks(tree.children, max(width, LEAST_WIDTH), 0)


def _blocks(nodes: Sequence[SyntaxTreeNode], width: int, depth: int) -> list[Row]:
    rows: list[Row] = []
    tight = True
    for node in nodes:
        if not tight:
            rows.append(Row(Content()))
        rows += _block(node, width, depth)
        # Paragraphs of a tight list are hidden: what follows them is not set apart.
        tight = node.type == "paragraph" and bool(node.hidden)
    return rows


def _block(node: SyntaxTreeNode, width: int, depth: int) -> list[Row]:
    match node.type:
        case "paragraph":
            return wrapped(_text(node), width)
        case "heading":
            return wrapped(_text(node).stylize(HEADING_STYLES.get(node.tag, "bold")), width)
        case "bullet_list" | "ordered_list":
            return _list(node, width, depth)
        case "blockquote":
            bar = Content.styled("▌ ", QUOTE_STYLE)
            return _within(node.children, width, depth, bar, bar)
        case "fence" | "code_block":
            return code_rows(node.content, node.info, width)
        case "hr":
            return [Row(Content.styled("─" * width, RULE_STYLE))]
        case "table":
            return table_rows(node, width)
        case _:
            # A kind of block that the parser knows and this list does not: its source.
            return wrapped(Content(node.content), width)


def _text(node: SyntaxTreeNode) -> Content:
    return Content("\n").join(map(inline_content, node.children))


def _list(node: SyntaxTreeNode, width: int, depth: int) -> list[Row]:
    number = int(node.attrs.get("start", 1))
    ordered = node.type == "ordered_list"
    loose = any(child.type == "paragraph" and not child.hidden for item in node.children for child in item.children)
    # One width for a list of up to 99: it may have been cut into sections, and its items are to stand in line.
    digits = max(2, len(str(number + len(node.children) - 1)))
    rows: list[Row] = []
    for place, item in enumerate(node.children):
        mark = f"{number + place}. ".rjust(digits + 2) if ordered else BULLETS[depth % len(BULLETS)]
        if rows and loose:
            rows.append(Row(Content()))
        rest = Content(" " * len(mark))
        rows += _within(item.children, width, depth + 1, Content.styled(mark, BULLET_STYLE), rest)
    return rows


def _within(nodes: Sequence[SyntaxTreeNode], width: int, depth: int, first: Content, rest: Content) -> list[Row]:
    """Blocks with something before each row, as long as there is room for it."""
    if width - len(first) < LEAST_WIDTH:
        return _blocks(nodes, width, depth)
    return prefixed(_blocks(nodes, width - len(first), depth) or [Row(Content())], first, rest)
