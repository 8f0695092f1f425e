"""Every command of the app in one table: what it is called, which keys and which word it has, and when it is hinted at.

The app's bindings, the command palette, the help screen, the line of keys at the bottom and the composer's /words are
all made from `COMMANDS`, so that none of them says what another does not. A command with `scope` "app" is bound by the
app. One with another scope is bound by the widget of that name while it has the focus, and stands here to be explained;
where it has an action, the palette runs that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from textual.binding import Binding, BindingType

from gptoss_mlx.errors import UsageError

Scope: TypeAlias = Literal["app", "composer", "transcript", "question"]

Moment: TypeAlias = Literal["writing", "answering", "reading", "asked"]
"""What the person does: writes a message, watches an answer come, moves about in the transcript, or decides whether a
tool may run."""

Group: TypeAlias = Literal["Conversation", "Answer", "Turns and copying", "Writing", "Tools", "Screens"]


@dataclass(frozen=True, slots=True)
class Command:
    """Something that a person can have done."""

    name: str
    """The app's action (`action_NAME`); for what only a widget does, a name of its own."""
    title: str
    """As the palette and the help screen call it."""
    help: str
    """One sentence, no full stop."""
    group: Group
    keys: tuple[str, ...] = ()
    """In Textual's words, the one to show first."""
    word: str | None = None
    """What may be typed after a slash."""
    hint: str = ""
    """What the line of keys says; empty: it is never hinted at."""
    scope: Scope = "app"
    action: bool = True
    """False where there is nothing for the palette to run."""


def _widget(
    name: str, title: str, help_text: str, group: Group, keys: tuple[str, ...], scope: Scope, hint: str = ""
) -> Command:
    """A command that only a widget with the focus carries out."""
    return Command(name, title, help_text, group, keys, hint=hint, scope=scope, action=False)


COMMANDS: Final[tuple[Command, ...]] = (
    Command(
        "new_chat",
        "New conversation",
        "begins an empty one; this one is kept",
        "Conversation",
        ("ctrl+n",),
        "new",
        "new",
    ),
    Command(
        "conversations",
        "Conversations",
        "lists, searches, opens, renames and deletes what was said",
        "Conversation",
        ("f3",),
        "chats",
        "chats",
    ),
    Command(
        "export", "Export this conversation", "writes it as Markdown, JSON or HTML", "Conversation", (), "export", ""
    ),
    Command(
        "copy_chat", "Copy the whole conversation", "as Markdown, to the clipboard", "Conversation", (), "copy-all"
    ),
    Command(
        "undo",
        "Take the last message back",
        "shows the conversation without it and its answer; nothing is deleted",
        "Conversation",
        (),
        "undo",
    ),
    Command("quit", "Quit", "everything is saved already", "Conversation", ("ctrl+q",), "quit", "quit"),
    Command("stop", "Stop the answer", "keeps what came, marked stopped", "Answer", ("escape",), "stop", "stop"),
    Command(
        "answer_now", "Answer now", "cuts the thinking short and answers", "Answer", ("ctrl+g",), "now", "answer now"
    ),
    Command(
        "cycle_effort",
        "Reasoning effort",
        "the next of none, low, medium and high, for this conversation",
        "Answer",
        ("ctrl+t",),
        "effort",
        "effort",
    ),
    Command(
        "toggle_reasoning",
        "Fold or unfold all reasoning",
        "Enter or a click does it for one",
        "Answer",
        ("ctrl+o",),
        "reasoning",
        "reasoning",
    ),
    Command(
        "regenerate",
        "Answer again",
        "makes a second answer beside the first one",
        "Answer",
        ("r",),
        "again",
        "again",
        "transcript",
    ),
    Command(
        "continue_answer",
        "Go on with a stopped answer",
        "from its last word",
        "Answer",
        ("g",),
        "continue",
        "go on",
        "transcript",
    ),
    Command(
        "edit_turn",
        "Edit the message",
        "puts it into the composer; what was said before stays as another branch",
        "Turns and copying",
        ("e",),
        "edit",
        "edit",
        "transcript",
    ),
    Command(
        "previous_branch",
        "Branch before",
        "shows the other message or answer",
        "Turns and copying",
        ("left_square_bracket",),
        None,
        "branch",
        "transcript",
    ),
    Command(
        "next_branch",
        "Branch after",
        "shows the other message or answer",
        "Turns and copying",
        ("right_square_bracket",),
        None,
        "branch",
        "transcript",
    ),
    Command(
        "copy_message",
        "Copy the message",
        "its source text: the selected one, or the last answer",
        "Turns and copying",
        ("y",),
        "copy",
        "copy",
        "transcript",
    ),
    Command(
        "copy_code",
        "Copy the code",
        "the last code block of the selected message, or of the last answer",
        "Turns and copying",
        ("c",),
        "copy-code",
        "code",
        "transcript",
    ),
    _widget("to_composer", "Back to writing", "", "Turns and copying", ("tab",), "transcript", "write"),
    _widget(
        "select",
        "Move from turn to turn",
        "Home and End go to the ends",
        "Turns and copying",
        ("up", "down"),
        "transcript",
        "move",
    ),
    _widget(
        "fold",
        "Fold or unfold",
        "reasoning and tool calls of the turn",
        "Turns and copying",
        ("enter",),
        "transcript",
        "fold",
    ),
    _widget("send", "Send", "the message in the composer", "Writing", ("enter",), "composer", "send"),
    _widget(
        "new_line",
        "New line",
        "Alt+Enter and a backslash before Enter do it, too",
        "Writing",
        ("ctrl+j", "alt+enter"),
        "composer",
        "new line",
    ),
    _widget(
        "recall",
        "Earlier messages",
        "at the first and the last line of the composer",
        "Writing",
        ("up", "down"),
        "composer",
    ),
    Command(
        "search_history",
        "Search earlier messages",
        "what you typed before, in any chat",
        "Writing",
        ("ctrl+r",),
        "history",
    ),
    _widget("attach", "Attach a file", "type @ and a path; the list completes it", "Writing", ("@",), "composer"),
    _widget("to_transcript", "To the transcript", "and its keys", "Writing", ("tab",), "composer", "transcript"),
    Command(
        "question",
        "Go to the question",
        "to the tool call that waits for your word, in whichever conversation",
        "Tools",
        ("f7",),
        "question",
        "question",
    ),
    _widget("run_once", "Let the tool run", "this call", "Tools", ("y",), "question", "run once"),
    _widget("run_always", "Let it always run", "this tool, while the app runs", "Tools", ("a",), "question", "always"),
    _widget("refuse", "Refuse", "the model goes on without it", "Tools", ("n",), "question", "refuse"),
    _widget("say_why", "Refuse and say why", "to the model", "Tools", ("r",), "question", "say why"),
    Command("help", "Help", "every key and command", "Screens", ("f1",), "help", "help"),
    Command("statistics", "Statistics", "of the last answer: tokens, times, speed", "Screens", ("f2",), "stats"),
    Command(
        "models", "Models", "what is here and what fits; get, load and remove", "Screens", ("f4",), "models", "models"
    ),
    Command("settings", "Settings", "instructions, effort, sampling, limits, theme", "Screens", ("f5",), "settings"),
    Command("tools", "Tools", "what the model may call, and whether it asks first", "Screens", ("f6",), "tools"),
    Command(
        "command_palette", "All commands", "find one by a part of its name", "Screens", ("ctrl+p",), None, "commands"
    ),
)
"""The table, in the order of the help screen within each group."""

BY_NAME: Final[Mapping[str, Command]] = {command.name: command for command in COMMANDS}

HINTS: Final[Mapping[Moment, tuple[str, ...]]] = {
    "writing": (
        "send",
        "new_line",
        "help",
        "conversations",
        "models",
        "cycle_effort",
        "command_palette",
        "to_transcript",
        "quit",
    ),
    "asked": ("run_once", "run_always", "refuse", "say_why", "stop", "help"),
    "answering": ("stop", "answer_now", "toggle_reasoning", "help", "command_palette"),
    "reading": (
        "select",
        "fold",
        "copy_message",
        "copy_code",
        "edit_turn",
        "regenerate",
        "continue_answer",
        "previous_branch",
        "to_composer",
        "help",
    ),
}
"""Names of the commands that matter at each moment, the most important first."""

_KEY_LABELS: Final[Mapping[str, str]] = {
    "escape": "Esc",
    "enter": "Enter",
    "tab": "Tab",
    "up": "↑",
    "down": "↓",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "delete": "Del",
}


def key_label(key: str) -> str:
    """A key as people read it: `ctrl+t` -> `Ctrl+T`, `f1` -> `F1`, `y` as it is."""
    if len(key) == 1:
        return key
    return "+".join(_KEY_LABELS.get(part, part.capitalize()) for part in key.split("+"))


def keys_label(command: Command) -> str:
    """All keys of a command."""
    return " ".join(key_label(key) for key in command.keys)


def app_bindings() -> list[BindingType]:
    """The app's own keys. Those with Ctrl and the function keys hold whatever has the focus."""
    return [
        Binding(key, command.name, command.title, show=False, priority="+" in key or key[1:].isdigit())
        for command in COMMANDS
        # The palette's key is Textual's.
        if command.scope == "app" and command.name not in ("command_palette", "search_history")
        for key in command.keys
    ]


def find_word(text: str) -> tuple[Command, str] | None:
    """The command that `/word` means, and what follows the word; None when the text is a message.

    A path (`/etc/hosts is what?`) is a message, and what has a space before the slash. Raises UsageError for a word
    that is no command.
    """
    word, _, rest = text.rstrip().partition(" ")
    if not _WORD.fullmatch(word) or "\n" in text.strip():
        return None
    for command in COMMANDS:
        if command.word == word[1:]:
            return command, rest.strip()
    raise UsageError(
        f"there is no command {word}; F1 lists them (put a space before a message that begins with a slash)"
    )


_WORD: Final = re.compile(r"/[a-z]+(-[a-z]+)*")
