"""Token ids to messages, while they stream in.

Owns the parser that the rest of the project uses. Its two machines are tolerant.py (the default) and strict.py.
"""

from collections.abc import Iterable, Sequence, Set

from gptoss_mlx.harmony.messages import Message, Role
from gptoss_mlx.harmony.parser_events import ParserEvent, ParserState, StreamWarning
from gptoss_mlx.harmony.strict import StrictMachine
from gptoss_mlx.harmony.tolerant import TolerantMachine
from gptoss_mlx.tokenizer import Tokenizer


class StreamParser:
    """Reads a stream of token ids into messages, one token at a time.

    role: the author that the prompt has already begun a message of (`render_for_completion` ends so), or None if the
    stream has whole messages. strict: raise HarmonyError for what openai-harmony's parser refuses, and read everything
    else as it does; without it any stream is read, and `warnings` says what was wrong. tool_names: the tools that
    exist, as recipients write them ("functions.get_weather"); with them a short or misspelt call can be mended.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        role: Role | None = "assistant",
        strict: bool = False,
        tool_names: Set[str] = frozenset(),
    ) -> None:
        machine = StrictMachine(tokenizer, role) if strict else TolerantMachine(tokenizer, role, tool_names)
        self._machine: StrictMachine | TolerantMachine = machine
        self._progress = machine.progress
        self.tokens: list[int] = []
        """Every token that was fed."""

    def feed(self, token: int) -> list[ParserEvent]:
        """What one more token brings. Raises TokenizerError for an id outside the vocabulary; strict: HarmonyError."""
        self.tokens.append(token)
        return self._machine.feed(token)

    def finish(self) -> list[ParserEvent]:
        """What the end of the stream brings: a message that is still open is closed. Strict: raises HarmonyError."""
        return self._machine.finish()

    @property
    def state(self) -> ParserState:
        """Whether the stream is between messages, in a header or in a content."""
        return self._progress.state

    @property
    def current_role(self) -> Role | None:
        """Role of the running message, as far as it is known."""
        header = self._progress.header
        return self._progress.role if header is None else header.role

    @property
    def current_channel(self) -> str | None:
        """Channel of the running message once its header is complete."""
        header = self._progress.header
        return None if header is None else header.channel

    @property
    def current_recipient(self) -> str | None:
        """Recipient of the running message once its header is complete."""
        header = self._progress.header
        return None if header is None else header.recipient

    @property
    def current_content_type(self) -> str | None:
        """Content type of the running message once its header is complete."""
        header = self._progress.header
        return None if header is None else header.content_type

    @property
    def current_content(self) -> str:
        """Text of the running message so far."""
        return self._progress.content.getvalue()

    @property
    def messages(self) -> Sequence[Message]:
        """The complete messages so far."""
        return self._progress.messages

    @property
    def warnings(self) -> Sequence[StreamWarning]:
        """What was malformed so far; always empty in strict mode."""
        return self._progress.warnings


def parse_tokens(
    tokens: Iterable[int],
    tokenizer: Tokenizer,
    *,
    role: Role | None = "assistant",
    strict: bool = False,
    tool_names: Set[str] = frozenset(),
) -> list[Message]:
    """The messages of a whole stream; the arguments and errors are those of StreamParser."""
    parser = StreamParser(tokenizer, role=role, strict=strict, tool_names=tool_names)
    for token in tokens:
        parser.feed(token)
    parser.finish()
    return list(parser.messages)
