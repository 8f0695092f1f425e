"""A conversation as a document for people: Markdown or HTML, reasoning folded away."""

import html
from collections.abc import Sequence
from typing import Literal

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import ANALYSIS, PYTHON, Message

_STYLE = (
    "body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:16px/1.55 system-ui,sans-serif;"
    "color:#1d1d1f;background:#fff}"
    "h2{font-size:.8rem;letter-spacing:.06em;text-transform:uppercase;color:#6e6e73;margin:2rem 0 .4rem}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:0}"
    "details{color:#6e6e73;margin:.4rem 0}details pre{padding-left:1rem;border-left:2px solid #d2d2d7}"
    "@media(prefers-color-scheme:dark){body{color:#f5f5f7;background:#1d1d1f}}"
)


def render_transcript(
    messages: Sequence[Message], fmt: Literal["markdown", "html"], *, model: str, instructions: str | None = None
) -> str:
    """The document. Raises UsageError for another format."""
    if fmt == "markdown":
        return _markdown(messages, model, instructions)
    if fmt == "html":
        return _html(messages, model, instructions)
    raise UsageError(f"cannot export as {fmt!r}; expected markdown, html, json or harmony")


def _title(message: Message) -> tuple[str, bool]:
    """A heading for the message, and whether its text is folded away."""
    if message.role == "user":
        return "You", False
    if message.role == "tool":
        return f"Result of {message.name}", True
    if message.tool_name is not None:
        return f"Call of {message.tool_name}", True
    if message.channel == ANALYSIS:
        return "Reasoning", True
    return "Answer" if message.channel != "commentary" else "Comment", False


def _markdown(messages: Sequence[Message], model: str, instructions: str | None) -> str:
    parts = [f"# Conversation with {model}"]
    if instructions is not None:
        parts.append(f"_Instructions:_ {instructions}")
    for message in messages:
        title, folded = _title(message)
        if folded:
            fence = _fence(message.text)
            language = PYTHON.name if message.tool_name == PYTHON.name else ""
            parts.append(
                f"<details><summary>{html.escape(title)}</summary>\n\n"
                f"{fence}{language}\n{message.text}\n{fence}\n\n</details>"
            )
        else:
            parts.append(f"## {title}\n\n{message.text}")
    return "\n\n".join(parts) + "\n"


def _fence(text: str) -> str:
    """A code fence longer than any run of backticks in `text`."""
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return "`" * max(3, longest + 1)


def _html(messages: Sequence[Message], model: str, instructions: str | None) -> str:
    title = html.escape(f"Conversation with {model}")
    parts = [f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"]
    if instructions is not None:
        parts.append(f"<details><summary>Instructions</summary><pre>{html.escape(instructions)}</pre></details>")
    for message in messages:
        heading, folded = _title(message)
        text = f"<pre>{html.escape(message.text)}</pre>"
        if folded:
            parts.append(f"<details><summary>{html.escape(heading)}</summary>{text}</details>")
        else:
            parts.append(f"<h2>{html.escape(heading)}</h2>{text}")
    return "\n".join(parts) + "\n"
