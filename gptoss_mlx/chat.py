"""A conversation that grows: its messages, its settings, and the turns that are taken in it.

The messages keep the token ids that the model sampled, so that what was read is rendered again exactly. Nothing is
added before a turn has ended, and nothing that the model said is lost when it is stopped. Saving is one JSON file,
written whole or not at all.
"""

import copy
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias, Unpack, cast

from gptoss_mlx.chat_file import SavedChat, chat_values, read_chat_file
from gptoss_mlx.engine import Engine
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import Reply, ToolCall
from gptoss_mlx.harmony import Message, render_text, tool_result
from gptoss_mlx.inputs import developer_message, system_message
from gptoss_mlx.kv_pool import KVPool
from gptoss_mlx.options import OptionArguments, Options, read_tools
from gptoss_mlx.stream import Stream
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tool_loop import open_turn
from gptoss_mlx.tools import OWN_FUNCTIONS, ToolSessions, ToolSource
from gptoss_mlx.transcript import render_transcript
from gptoss_mlx.turn import Turn, prepare_turn, read_arguments
from gptoss_mlx.whole_file import write_whole

_NOT_SAVED = frozenset(("tools", "tool_limits", "approve", "schema"))
"""Options that a file cannot hold."""

ExportFormat: TypeAlias = Literal["markdown", "json", "html", "harmony"]
"""For people (markdown, html), for programs (json), or as the model sees it (harmony)."""


class Host(Protocol):
    """What a chat needs of the model that it talks to (`GptOss` is one)."""

    engine: Engine
    tokenizer: Tokenizer
    context_limit: int
    name: str
    kv_pool: KVPool


class Chat:
    """A conversation with one model. Made by `GptOss.chat`.

    `send` waits for the reply, `stream` gives it as it comes. Starting a turn while another runs stops that one first
    and keeps what it said.
    """

    def __init__(
        self,
        host: Host,
        *,
        system: str | None = None,
        developer: str | None = None,
        defaults: OptionArguments | None = None,
        turns: Sequence[Message] = (),
        sessions: ToolSessions | None = None,
    ) -> None:
        """`system` is a word for `developer`: both are instructions of the developer (harmony's own system message
        holds settings).

        `defaults` are options for every turn; a turn's own go over them. `turns` is what was said before: messages of
        user, assistant and tools. `sessions` hold what tools keep between their calls, and are the caller's to close;
        by itself a chat has its own, which end with it. Raises UsageError for a wrong one.
        """
        if system is not None and developer is not None:
            raise UsageError(
                "both system and developer are given; expected one: both name the developer's instructions"
            )
        Options.from_arguments(defaults or {})
        self._host = host
        self.instructions: str | None = developer if developer is not None else system
        """The developer's instructions ("system prompt")."""
        self.defaults: OptionArguments = defaults or {}
        """Options for every turn, `tools` and `date` among them; the date was fixed when the chat began, so that
        midnight does not change the prompt."""
        for message in turns:
            if message.role in ("system", "developer"):
                raise UsageError(
                    f"a message of role {message.role} is among the turns; expected user, assistant and tool messages: "
                    "settings are options, instructions are `developer`"
                )
        self._turns: list[Message] = list(turns)
        self._sessions = self._own_sessions() if sessions is None else sessions
        self._running: Stream | None = None

    # What it holds

    @property
    def messages(self) -> list[Message]:
        """The whole conversation in harmony's terms: system and developer messages first. A copy."""
        return self._conversation(self._options({}))

    @property
    def turns(self) -> list[Message]:
        """What user, assistant and tools said. A copy; the running turn is in it when it has ended."""
        return list(self._turns)

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """Token ids of the conversation as the next turn would read it, up to the start of an answer."""
        return self._prepare(self._turns, self._options({})).prompt

    @property
    def context_used(self) -> int:
        """Tokens of the conversation as the next turn would read it."""
        return len(self.prompt_tokens)

    def would_use(self, text: str, **options: Unpack[OptionArguments]) -> int:
        """Tokens that would be there before the answer, were `text` said: at most `context_limit` - 1 can be sent."""
        return self._prepare([*self._turns, Message.user(text)], self._options(options)).prompt_tokens

    @property
    def context_limit(self) -> int:
        """Tokens that the model was loaded for."""
        return self._host.context_limit

    @property
    def pending_calls(self) -> list[ToolCall]:
        """Tool calls of the last turn that have no result yet. Their ids are those of the reply's `tool_calls`."""
        calls: list[ToolCall] = []
        number = 0
        answered: list[str] = []
        for message in self._turns:
            if message.tool_name is not None:
                number += 1
                calls.append(ToolCall(f"call_{number}", message.tool_name, read_arguments(message.text), message.text))
            elif message.role == "tool":
                answered.append(message.name or "")
            elif message.role == "user":
                calls.clear()
                answered.clear()
        for name in answered:
            found = next((call for call in calls if call.name == name), None)
            if found is not None:
                calls.remove(found)
        return calls

    # Taking turns

    def send(self, text: str, **options: Unpack[OptionArguments]) -> Reply:
        """Says `text` and waits for the reply.

        Raises ContextOverflow (the chat is unchanged) and what the engine raises.
        """
        return self.stream(text, **options).reply

    async def asend(self, text: str, **options: Unpack[OptionArguments]) -> Reply:
        """`send` for asyncio."""
        return await self.stream(text, **options).areply()

    def stream(self, text: str, **options: Unpack[OptionArguments]) -> Stream:
        """Says `text`; the reply comes out of the stream. The chat has grown when the stream's last event is there."""
        self._settle()
        return self._start(self._turns, [Message.user(text)], options)

    def answer_calls(self, results: Mapping[str, str], **options: Unpack[OptionArguments]) -> Stream:
        """Gives the results of tool calls (call id -> raw text) to the model, which goes on in the same turn.

        Raises UsageError for an id that is no pending call, or when a pending call is left without its result.
        """
        self._settle()
        pending = {call.id: call for call in self.pending_calls}
        for identifier in results:
            if identifier not in pending:
                known = ", ".join(pending) or "none"
                raise UsageError(f"{identifier!r} is no pending tool call; expected one of: {known}")
        missing = [identifier for identifier in pending if identifier not in results]
        if missing or not pending:
            raise UsageError(
                f"no result for the tool call {missing[0]!r}" if missing else "no tool call waits for a result"
            )
        added = [tool_result(self._turns, call.name, results[identifier]) for identifier, call in pending.items()]
        return self._start(self._turns, added, options)

    def regenerate(self, **options: Unpack[OptionArguments]) -> Reply:
        """Answers the last user message again; the old answer is replaced when the new one is there."""
        return self.stream_regenerate(**options).reply

    def stream_regenerate(self, **options: Unpack[OptionArguments]) -> Stream:
        """`regenerate` as a stream."""
        self._settle()
        at = self._user_positions()[-1]
        return self._start(self._turns[:at], [self._turns[at]], options)

    def edit(self, index: int, text: str, **options: Unpack[OptionArguments]) -> Reply:
        """Puts `text` in place of user message `index` (0 is the first, -1 the last), drops what followed, and answers
        it.

        `fork()` first to keep the old branch. Raises UsageError when there is no such message.
        """
        return self.stream_edit(index, text, **options).reply

    def stream_edit(self, index: int, text: str, **options: Unpack[OptionArguments]) -> Stream:
        """`edit` as a stream."""
        self._settle()
        positions = self._user_positions()
        if not -len(positions) <= index < len(positions):
            raise UsageError(f"there is no user message {index}; the chat has {len(positions)}")
        return self._start(self._turns[: positions[index]], [Message.user(text)], options)

    def continue_answer(self, **options: Unpack[OptionArguments]) -> Reply:
        """Goes on with an answer that was cut short: stopped, out of tokens, or edited. The reply is the whole of it.

        The model goes on after the last token that it said, within the same message: reasoning that was cut is taken
        up, an answer goes on in the final channel. After the result of a tool it begins a new message. Raises
        UsageError when the last answer is complete, or none is there.
        """
        return self.stream_continue(**options).reply

    def stream_continue(self, **options: Unpack[OptionArguments]) -> Stream:
        """`continue_answer` as a stream. Its events begin with what was said before, since the last tool's result."""
        self._settle()
        if self._turns and self._turns[-1].role == "tool" and not self.pending_calls:
            return self._start(self._turns, [], options)
        said = list(takewhile(lambda message: message.role == "assistant", reversed(self._turns)))[::-1]
        if not said:
            raise UsageError("there is no answer to go on with; send a message, or regenerate the answer")
        last = said[-1]
        if last.tool_name is not None:
            raise UsageError("the last answer ends with a tool call; give its result with answer_calls")
        if last.tokens and last.tokens[-1] in self._host.tokenizer.special.stop_ids:
            raise UsageError("the last answer is complete; only one that was cut short can go on")
        return self._start(self._turns[: len(self._turns) - len(said)], [], options, said)

    def undo(self) -> str:
        """Takes the last user message and all that followed back; gives its text."""
        self._settle()
        at = self._user_positions()[-1]
        text = self._turns[at].text
        self._turns = self._turns[:at]
        return text

    def clear(self) -> None:
        """Forgets all turns, and what tools kept; settings stay."""
        self._settle()
        self._turns = []
        self._sessions.close()

    def fork(self) -> "Chat":
        """A second chat with the same past; the two go their own ways from here."""
        self._settle()
        other = copy.copy(self)
        other._turns = list(self._turns)
        other.defaults = copy.copy(self.defaults)
        # What tools keep cannot be had twice: there it begins anew, which the model is told.
        other._sessions = other._own_sessions()
        other._running = None
        return other

    def stop(self) -> None:
        """Stops the running turn, if any, and waits until what it said is kept."""
        self._settle()

    def close(self) -> None:
        """Stops the running turn, and ends what tools keep (an interpreter). The chat can go on; they begin anew."""
        self._settle()
        self._sessions.close()

    # Keeping it

    def to_dict(self) -> dict[str, Any]:
        """The chat as JSON values; `from_dict` reads it back. Of functions it keeps what the model is told, not what
        runs: give the functions again when you go on (`defaults["tools"]`), and built-in tools and servers, of which it
        keeps nothing."""
        return chat_values(
            self._turns,
            model=self._host.name,
            vocab_size=self._host.tokenizer.vocab_size,
            instructions=self.instructions,
            options={key: value for key, value in self.defaults.items() if key not in _NOT_SAVED},
            tools=[
                tool
                for tool in read_tools(
                    each for each in self.defaults.get("tools", ()) if not isinstance(each, ToolSource)
                )
                if getattr(tool, "namespace", OWN_FUNCTIONS) == OWN_FUNCTIONS
            ],
        )

    @classmethod
    def from_dict(cls, host: Host, data: Any, *, source: str = "the chat") -> Self:
        """A chat from `to_dict`.

        Raises UsageError when it is something else, HarmonyError for a message that cannot be read.
        """
        return cls._from_saved(host, SavedChat.from_dict(data, source=source), source)

    @classmethod
    def _from_saved(cls, host: Host, saved: SavedChat, source: str) -> Self:
        defaults = cast(OptionArguments, dict(saved.options))
        defaults["tools"] = saved.tools
        turns = list(saved.messages)
        if saved.vocab_size != host.tokenizer.vocab_size:
            # Sampled ids belong to one vocabulary; for another model the text is encoded anew.
            turns = [replace(message, tokens=None) for message in turns]
        try:
            return cls(host, developer=saved.instructions, defaults=defaults, turns=turns)
        except TypeError as error:
            raise UsageError(f"{source} is damaged ({error!r}); expected a file written by Chat.save") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the chat to `path` as JSON: the whole file or, on any error, nothing (an older file stays)."""
        self._settle()
        write_whole(Path(path), json.dumps(self.to_dict(), ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, host: Host, path: str | os.PathLike[str]) -> Self:
        """A chat from a file written by `save`, to go on with `host`.

        Raises UsageError when the file is something else.
        """
        return cls._from_saved(host, read_chat_file(path), os.fspath(path))

    def export(self, fmt: ExportFormat = "markdown") -> str:
        """The conversation for people (markdown, html), for programs (json), or as the model sees it (harmony)."""
        self._settle()
        if fmt == "json":
            return json.dumps(self.to_dict(), ensure_ascii=False, indent=1)
        if fmt == "harmony":
            return render_text(self.messages)
        return render_transcript(self._turns, fmt, model=self._host.name, instructions=self.instructions)

    # How it works

    def _options(self, arguments: OptionArguments) -> Options:
        return Options.from_arguments(arguments, self.defaults)

    def _conversation(self, options: Options, turns: Sequence[Message] | None = None) -> list[Message]:
        developer = developer_message(self.instructions, options)
        return [
            system_message(options),
            *([] if developer is None else [developer]),
            *(self._turns if turns is None else turns),
        ]

    def _user_positions(self) -> list[int]:
        positions = [index for index, message in enumerate(self._turns) if message.role == "user"]
        if not positions:
            raise UsageError("the chat has no turn yet; send a message first")
        return positions

    def _start(
        self,
        before: list[Message],
        added: list[Message],
        arguments: OptionArguments,
        said: Sequence[Message] = (),
    ) -> Stream:
        options = self._options(arguments)
        base = [*before, *added]

        def commit(messages: list[Message]) -> None:
            self._turns = [*base, *messages]

        self._running = open_turn(
            self._host.engine,
            self._host.tokenizer,
            self._conversation(options, base),
            options,
            context_limit=self._host.context_limit,
            pool=self._host.kv_pool,
            call_number=sum(message.tool_name is not None for message in base) + 1,
            said=said,
            sessions=self._sessions,
            commit=commit,
        )
        return self._running

    def _prepare(self, turns: list[Message], options: Options, said: Sequence[Message] = ()) -> Turn:
        """The turn that would answer `turns`, or go on with what was `said` to them."""
        return prepare_turn(
            self._conversation(options, turns),
            self._host.tokenizer,
            options,
            context_limit=self._host.context_limit,
            call_number=sum(message.tool_name is not None for message in turns) + 1,
            said=said,
        )

    def _own_sessions(self) -> ToolSessions:
        """What tools keep, ended with the engine too."""
        sessions = ToolSessions()
        self._host.engine.closes(sessions)
        return sessions

    def _settle(self) -> None:
        """Ends the running turn, so that the chat's messages stand still."""
        running, self._running = self._running, None
        if running is not None and not running.finished:
            running.cancel()
            running.wait()


def today() -> str:
    """Today's date as harmony writes it."""
    return datetime.date.today().isoformat()
