"""ApprovalPrompt: asks, between the conversation and the composer, whether a tool may run as the model calls it.

It shows exactly what would run: every member of the arguments, text of several lines as it is, each line behind a bar,
so that nothing in it looks like a part of the question; signs that nobody sees are spelt out. Keys decide only when it
has the focus, and not at once: what was meant for the composer goes there.
"""

import json
import unicodedata
from time import monotonic
from typing import TYPE_CHECKING, ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from gptoss_mlx.app.displayed_text import displayable
from gptoss_mlx.app.toolbox import PYTHON

if TYPE_CHECKING:
    from gptoss_mlx.app.approval import Question

PAUSE_SECONDS: Final = 0.4
"""After it took the focus, keys are still those of somebody who writes a message."""

_KEYS: Final = (
    ("y", "run once"),
    ("a", "always, until you quit"),
    ("n", "refuse"),
    ("r", "say why not"),
    ("Esc", "stop"),
)


class ApprovalPrompt(Vertical, can_focus=True):
    """The question; not on the screen while there is none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "decide(True)", "Run it once"),
        Binding("a", "always", "Always"),
        Binding("n", "decide(False)", "Refuse"),
        Binding("r", "reason", "Say why"),
        Binding("up", "scroll(-1)", show=False),
        Binding("down", "scroll(1)", show=False),
        Binding("pageup", "scroll(-8)", show=False),
        Binding("pagedown", "scroll(8)", show=False),
    ]

    class Always(Message):
        """The tool may run, now and from now on."""

        def __init__(self, question: "Question") -> None:
            super().__init__()
            self.question = question

    class Typed(Message):
        """A key that was meant for the composer."""

        def __init__(self, character: str) -> None:
            super().__init__()
            self.character = character

    def __init__(self) -> None:
        super().__init__()
        self.display = False
        self._question: Question | None = None
        self._focused_at = 0.0
        self._call = Static(markup=False)
        self._scroll = VerticalScroll(self._call, can_focus=False)
        self._keys = Static(
            Content("  ").join(
                Content.assemble((key, "$footer-key-foreground bold"), (f" {what}", "$foreground-muted"))
                for key, what in _KEYS
            ),
            classes="keys",
        )
        self._reason = Input(placeholder="Why not? Enter tells the model, Esc goes back", compact=True)
        self._reason.display = False

    def compose(self) -> ComposeResult:
        yield self._scroll
        yield self._keys
        yield self._reason

    @property
    def has_keys(self) -> bool:
        """Whether what is typed comes here."""
        return self.has_focus or self._reason.has_focus

    def show(self, question: "Question | None", place: str = "") -> None:
        """Asks this; None: nothing. `place` says where the tool comes from."""
        if question is self._question:
            return
        self._question = question
        self._close_reason()
        self.display = question is not None
        if question is not None:
            self.border_title = Content(f"May {exactly(question.tool)} run?")
            self.border_subtitle = Content(exactly(place))
            self._call.update(Content(shown_call(question.call.raw, question.call.name, question.call.about)))
            self._scroll.scroll_home(animate=False)

    def on_focus(self) -> None:
        # Who comes back from writing a reason knows what the keys are for.
        self._focused_at = 0.0 if self._reason.display else monotonic()
        self._close_reason()

    def on_key(self, event: events.Key) -> None:
        if self._reason.has_focus:
            if event.key == "escape":
                event.stop()
                self.focus()
        elif event.is_printable and event.character is not None:
            if monotonic() - self._focused_at < PAUSE_SECONDS:
                event.stop()
                self.post_message(self.Typed(event.character))
            elif event.character not in "yanr":
                event.stop()
                self._open_reason(event.character.strip())

    def on_paste(self, event: events.Paste) -> None:
        if self.has_focus:
            event.stop()
            self._open_reason(" ".join(event.text.split()))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._decide(event.value.strip() or False)

    def action_decide(self, verdict: bool) -> None:
        self._decide(verdict)

    def action_always(self) -> None:
        if self._question is not None:
            self.post_message(self.Always(self._question))

    def action_reason(self) -> None:
        self._open_reason("")

    def action_scroll(self, lines: int) -> None:
        self._scroll.scroll_relative(y=lines, animate=False)

    def _decide(self, verdict: bool | str) -> None:
        if self._question is not None:
            self._question.decide(verdict)

    def _open_reason(self, text: str) -> None:
        self._reason.display = True
        self._reason.value = text
        self._reason.focus()
        # What has the focus marks all of its text otherwise: the next key would replace it.
        self._reason.select_on_focus = False
        self._reason.cursor_position = len(text)

    def _close_reason(self) -> None:
        self._reason.value = ""
        self._reason.display = False


def shown_call(raw: str, name: str = "", about: str = "") -> str:
    """The arguments of a call for the person who decides: nothing left out, nothing hidden. Of Python, the code.
    `about`: what it is about, where they do not say it."""
    if name == PYTHON:
        # It is there when such a call is.
        from gptoss_mlx.python_sandbox.tool import read_code

        return _barred(read_code(raw))
    arguments = _shown_arguments(raw)
    return f"{_barred(about)}\n{arguments}" if about else arguments


def _shown_arguments(raw: str) -> str:
    try:
        arguments = json.loads(raw) if raw.strip() else {}
        # Read as the call is read: JSON in a JSON string.
        if isinstance(arguments, str) and arguments.lstrip().startswith("{"):
            arguments = json.loads(arguments)
    except (ValueError, RecursionError):
        return _barred(raw)
    if not isinstance(arguments, dict):
        return _barred(raw)
    if not arguments:
        return "without arguments"
    return "\n".join(_member(name, value) for name, value in arguments.items())


def exactly(text: str) -> str:
    """The text with every sign that cannot be seen spelt out; line ends stay."""
    shown = displayable(text)
    if shown.isascii():
        return shown
    return "".join(f"\\u{ord(sign):04x}" if unicodedata.category(sign) == "Cf" else sign for sign in shown)


def _member(name: str, value: object) -> str:
    if isinstance(value, str) and "\n" in value.strip("\n"):
        return f"{exactly(name)}:\n{_barred(value)}"
    text = json.dumps(value, indent=2, ensure_ascii=False)
    first, *rest = text.split("\n")
    return "\n".join([f"{exactly(name)}: {exactly(first)}", *(f"│ {exactly(line)}" for line in rest)])


def _barred(text: str) -> str:
    return "\n".join(f"│ {line}" for line in exactly(text).split("\n"))
