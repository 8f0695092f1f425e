"""`gptoss chat --plain`: a conversation line by line, with nothing but text on the screen.

`--continue` goes on with the app's last conversation, and what is said goes into it; other chats are kept by `/save`.
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from gptoss_mlx.api import GptOss
from gptoss_mlx.chat import Chat, ExportFormat
from gptoss_mlx.cli.servers import Servers, open_servers
from gptoss_mlx.cli.terminal import Style, TurnPrinter, load_with_progress, shown_bytes, shown_count, turn_options
from gptoss_mlx.cli.tools import tool_options
from gptoss_mlx.errors import GptOssError, UsageError
from gptoss_mlx.kv_store import KVStore, key_of_file
from gptoss_mlx.models import POCKET
from gptoss_mlx.options import EFFORTS, Effort, OptionArguments
from gptoss_mlx.settings import history_file
from gptoss_mlx.stream import Stream

if TYPE_CHECKING:
    from gptoss_mlx.cli.last_conversation import LastConversation

SAMPLE_QUESTION = "What is 17 plus 25?"
"""Asked when there is neither a terminal nor a line on standard input."""

HISTORY_LINES = 1000

EXPORTS: dict[str, ExportFormat] = {".md": "markdown", ".html": "html", ".json": "json", ".txt": "harmony"}
"""File ending -> format of /export."""

HELP = """\
/effort LEVEL      how long to think: none, low, medium or high
/reasoning         show or hide the reasoning
/system [TEXT]     show or change the instructions for the model
/again             answer the last message again
/edit TEXT         say TEXT in place of the last message
/undo              take the last message and its answer back
/new               begin a new conversation
/stats             tokens, speed and memory of the last answer
/save FILE         write the chat to FILE (gptoss chat --resume FILE goes on with it)
/export FILE       write it as .md, .html, .json or .txt (harmony, as the model sees it)
/quit              leave (Ctrl-D does, too)
A line that ends in \\ goes on in the next. Ctrl-C stops an answer; what came is kept."""


def run(arguments: argparse.Namespace) -> int:
    """Holds the conversation; gives the exit code."""
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(open_servers(arguments))
        options: OptionArguments = {**turn_options(arguments), **tool_options(arguments, servers.all)}
        last = stack.enter_context(contextlib.closing(_last_conversation())) if arguments.go_on else None
        name = arguments.model or (last and last.model) or POCKET
        model = stack.enter_context(load_with_progress(name, options, arguments))
        servers.wait(needed=False)
        if arguments.resume is not None:
            chat = Chat.load(model, arguments.resume)
            chat.defaults = {**chat.defaults, **options}
            KVStore().load(model, key_of_file(arguments.resume))
        elif last is not None:
            chat = last.chat(model, options)
        else:
            chat = model.chat()
        stack.callback(chat.close)
        if arguments.system is not None:
            chat.instructions = arguments.system
        record: Callable[[Stream | None], None] | None = None
        if last is not None:
            record = partial(last.record, chat, model.name)
        session = PlainChat(
            model,
            chat,
            show_reasoning=not arguments.hide_reasoning,
            kv_bits=arguments.kv_bits,
            record=record,
            servers=servers,
        )
        if not sys.stdin.isatty():
            return session.answer_lines(sys.stdin)
        print(
            f"{model.name}: {shown_count(model.config.parameters)} parameters. /help lists the commands, Ctrl-D ends."
        )
        with _line_history():
            return session.converse()


def _last_conversation() -> "LastConversation":
    # SQLite comes in with it; no other chat of the line mode needs that.
    from gptoss_mlx.cli.last_conversation import LastConversation

    return LastConversation()


class PlainChat:
    """One conversation at the prompt."""

    def __init__(
        self,
        model: GptOss,
        chat: Chat,
        *,
        show_reasoning: bool,
        kv_bits: int | None = None,
        record: Callable[[Stream | None], None] | None = None,
        servers: Servers | None = None,
    ) -> None:
        """`record` is told, after everything that may have changed the chat, the stream of the last answer; what
        happens to `servers` is told after each answer."""
        self._model = model
        self._chat = chat
        self._kv_bits = kv_bits
        self._record = record
        self._servers = Servers() if servers is None else servers
        self._show_reasoning = show_reasoning
        self._style = Style(sys.stdout)
        self._last: Stream | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "effort": self._effort,
            "reasoning": self._reasoning,
            "system": self._system,
            "again": self._again,
            "edit": self._edit,
            "undo": self._undo,
            "new": self._new,
            "stats": self._stats,
            "save": self._save,
            "export": self._export,
        }

    def answer_lines(self, lines: Iterator[str]) -> int:
        """Answers each line, or the sample question when there are none: for pipes and for a first look."""
        asked = False
        for line in lines:
            if line.strip():
                asked = True
                self._answer_aloud(line.strip())
        if not asked:
            self._answer_aloud(SAMPLE_QUESTION)
        return 0

    def converse(self) -> int:
        """Reads and answers until the end of input."""
        interrupted = False
        while True:
            try:
                text = self._read_message()
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print()
                if interrupted:
                    return 0
                interrupted = True
                print(self._style.dim("Ctrl-C again, Ctrl-D or /quit leaves."))
                continue
            interrupted = False
            if text.strip() in ("/quit", "/exit"):
                return 0
            try:
                self._take(text)
                self._keep()
            except (GptOssError, OSError) as error:
                print(f"error: {error}", file=sys.stderr)

    def _read_message(self) -> str:
        line = input(self._prompt("> "))
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(self._prompt(". ")))
        return "\n".join(lines)

    def _prompt(self, mark: str) -> str:
        bold = self._style.bold(mark)
        # Readline counts what is printed; \x01 and \x02 take the colour codes out of the count.
        return (
            bold if bold == mark else bold.replace("\x1b[1m", "\x01\x1b[1m\x02").replace("\x1b[0m", "\x01\x1b[0m\x02")
        )

    def _take(self, text: str) -> None:
        """Acts on what was typed: a command, or a message."""
        if not text.strip():
            return
        if not text.startswith("/"):
            self._show(self._chat.stream(text))
            return
        name, _, rest = text[1:].partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise UsageError(
                f"there is no command /{name}; /help lists them (put a space before a message that begins with /)"
            )
        command(rest.strip())

    def _keep(self) -> None:
        if self._record is not None:
            self._record(self._last)

    def _show(self, stream: Stream) -> None:
        self._last = stream
        printer = TurnPrinter(sys.stdout, sys.stdout, show_reasoning=self._show_reasoning, headings=True)
        events = stream.events()
        try:
            for event in events:
                printer.show(event)
        except KeyboardInterrupt:
            stream.cancel()
            for event in stream.events():
                printer.show(event)
        finally:
            printer.close()
            self._servers.tell()

    def _answer_aloud(self, question: str) -> None:
        """The question as at a prompt, then the answer: the transcript of a pipe reads like a conversation."""
        print(f"> {question}", flush=True)
        self._show(self._chat.stream(question))
        self._keep()

    def _help(self, _: str) -> None:
        print(HELP)

    def _effort(self, word: str) -> None:
        levels: dict[str, Effort] = {effort: effort for effort in EFFORTS}
        if word not in levels:
            raise UsageError(f"{word!r} is no effort; expected one of {', '.join(EFFORTS)}")
        self._chat.defaults["effort"] = levels[word]
        print(self._style.dim(f"effort: {word}"))

    def _reasoning(self, _: str) -> None:
        self._show_reasoning = not self._show_reasoning
        print(self._style.dim(f"reasoning: {'shown' if self._show_reasoning else 'hidden'}"))

    def _system(self, text: str) -> None:
        if text:
            self._chat.instructions = text
        print(self._style.dim(f"instructions: {self._chat.instructions or 'none'}"))

    def _again(self, _: str) -> None:
        self._show(self._chat.stream_regenerate())

    def _edit(self, text: str) -> None:
        if not text:
            raise UsageError("/edit needs the new text of the last message")
        self._show(self._chat.stream_edit(-1, text))

    def _undo(self, _: str) -> None:
        print(self._style.dim(f"taken back: {self._chat.undo()}"))

    def _new(self, _: str) -> None:
        self._chat.clear()
        print(self._style.dim("a new conversation"))

    def _stats(self, _: str) -> None:
        if self._last is None:
            raise UsageError("there is no answer yet")
        stats = self._last.reply.stats
        used, limit = self._chat.context_used, self._chat.context_limit
        print(
            f"prompt      {stats.prompt_tokens} tokens, {stats.cached_tokens} of them read before, "
            f"{stats.prompt_tps:.1f} tok/s\n"
            f"generated   {stats.generated_tokens} tokens ({stats.reasoning_tokens} reasoning, "
            f"{stats.answer_tokens} answer), {stats.generation_tps:.1f} tok/s\n"
            f"first token after {stats.ttft_seconds:.2f} s\n"
            f"context     {used} of {limit} tokens\n"
            f"memory      {stats.peak_memory_bytes / (1 << 20):.0f} MiB at most"
        )

    def _save(self, word: str) -> None:
        path = _one_path(word, "/save")
        self._chat.save(path)
        said = f"saved to {path}"
        try:
            kept = KVStore().save(self._model, self._chat, key_of_file(path), bits=self._kv_bits)
            if kept.tokens:
                said += (
                    f"; it need not be read again when resumed: {shown_bytes(kept.file_bytes)} in {kept.path.parent}"
                )
        finally:
            # The chat is there, whatever became of the rest.
            print(self._style.dim(said))

    def _export(self, word: str) -> None:
        path = _one_path(word, "/export")
        ending = path[path.rfind(".") :]
        if ending not in EXPORTS:
            raise UsageError(f"{path!r} ends in no known format; expected {', '.join(EXPORTS)}")
        text = self._chat.export(EXPORTS[ending])
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        print(self._style.dim(f"written to {path}"))


def _one_path(word: str, command: str) -> str:
    try:
        parts = shlex.split(word)
    except ValueError as error:
        raise UsageError(f"{command} {word}: {error}") from error
    if len(parts) != 1:
        raise UsageError(f"{command} needs one file name")
    return parts[0]


@contextlib.contextmanager
def _line_history() -> Iterator[None]:
    """Line editing with the history of earlier chats, where Python was built with it."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = history_file()
    # An unreadable or unwritable history is no reason not to chat.
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
