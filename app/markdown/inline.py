"""What stands within a paragraph, as styled text."""

from markdown_it.tree import SyntaxTreeNode
from textual.content import Content, Span
from textual.style import Style

CODE_STYLE = "$text-warning"
LINK_STYLE = "underline"
TARGET_STYLE = "$foreground 60%"

_OPENINGS = {"em_open": "italic", "strong_open": "bold", "s_open": "strike", "link_open": LINK_STYLE}


def inline_content(node: SyntaxTreeNode) -> Content:
    """An inline element as text. A link's target stands behind its text, if that is another."""
    text = ""
    spans: list[Span] = []
    opened: list[tuple[str, int, str]] = []
    """Style, beginning and target (of a link) of what is open."""
    for token in (node.token.children if node.token is not None else None) or ():
        begin = len(text)
        if token.type in _OPENINGS:
            opened.append((_OPENINGS[token.type], begin, str(token.attrs.get("href", ""))))
        elif token.type.endswith("_close") and opened:
            style, begin, target = opened.pop()
            spans.append(Span(begin, len(text), style))
            if target:
                text += _target(text[begin:], target, begin, spans)
        elif token.type == "code_inline":
            text += token.content
            spans.append(Span(begin, len(text), CODE_STYLE))
        elif token.type == "image":
            source = str(token.attrs.get("src", ""))
            text += token.content or "image"
            spans.append(Span(begin, len(text), LINK_STYLE))
            text += _target(text[begin:], source, begin, spans)
        elif token.type == "softbreak":
            text += " "
        elif token.type == "hardbreak":
            text += "\n"
        else:
            text += token.content
    return Content(text, spans)


def _target(shown: str, target: str, begin: int, spans: list[Span]) -> str:
    """What is written behind a link, as ` (https://…)`; makes the link clickable."""
    spans.append(Span(begin, begin + len(shown), Style.from_meta({"@click": f"link({target!r})"})))
    if shown in (target, target.removeprefix("mailto:"), target.removeprefix("http://")):
        return ""
    written = f" ({target})"
    spans.append(Span(begin + len(shown), begin + len(shown) + len(written), TARGET_STYLE))
    return written
