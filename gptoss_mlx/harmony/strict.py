"""The strict machine: it takes and gives what openai-harmony 0.0.8's StreamableParser does, and raises where that does.

It serves as a yardstick: streams of a real model break its rules often (see tolerant.py).
"""

from io import StringIO

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony.messages import ROLES, Message, Role, TextContent
from gptoss_mlx.harmony.parser_events import (
    ContentDelta,
    Header,
    MessageFinished,
    MessageStarted,
    ParserEvent,
    Progress,
)
from gptoss_mlx.special_tokens import CHANNEL, CONSTRAIN, START
from gptoss_mlx.tokenizer import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a" + (
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's White_Space; str.isspace() has four more characters."""
_ROLES: dict[str, Role] = {role: role for role in ROLES}


class StrictMachine:
    """Reads one token at a time."""

    def __init__(self, tokenizer: Tokenizer, role: Role | None) -> None:
        self._tokenizer = tokenizer
        self._special = tokenizer.special
        self.progress = Progress(role, "outside" if role is None else "header")
        self._header_tokens: list[int] = []
        self._header_raw = "" if role is not None else START
        self._undecoded = b""
        if role is not None:
            self.progress.message_tokens = [self._special.start, *tokenizer.encode(role)]

    def feed(self, token: int) -> list[ParserEvent]:
        """The events of one more token. Raises HarmonyError."""
        progress = self.progress
        progress.message_tokens.append(token)
        match progress.state:
            case "outside":
                if token != self._special.start:
                    raise HarmonyError(
                        f"The stream has the token {token} ({self._tokenizer.decode([token])!r}) between messages; "
                        "expected <|start|>. Parse it without strict=True."
                    )
                progress.state = "header"
                self._header_tokens = []
                return []
            case "header":
                if token != self._special.message:
                    self._header_tokens.append(token)
                    return []
                progress.state = "outside"
                header, raw = self._read_header()
                progress.role = None
                progress.state = "content"
                progress.header = header
                return [MessageStarted.of(header, raw + self._tokenizer.decode([token]))]
            case "content":
                if token in self._special.message_end_ids:
                    return self._close(self._tokenizer.decode([token]))
                delta = self._decode(self._tokenizer.token_bytes(token))
                if not delta:
                    return []
                progress.content.write(delta)
                return [ContentDelta(delta, 1)]

    def finish(self) -> list[ParserEvent]:
        """The events of the stream's end. Raises HarmonyError if it comes within a header."""
        match self.progress.state:
            case "outside":
                return []
            case "header":
                raise HarmonyError(
                    "The stream ends within the header of a message; expected <|message|>. "
                    "Parse it without strict=True."
                )
            case "content":
                return self._close("")

    def _close(self, raw: str) -> list[ParserEvent]:
        progress = self.progress
        assert progress.header is not None
        events: list[ParserEvent] = []
        if rest := self._undecoded.decode("utf-8", errors="replace"):
            progress.content.write(rest)
            events.append(ContentDelta(rest, 0))
        header = progress.header
        message = Message(
            header.role,
            (TextContent(progress.content.getvalue()),),
            name=header.name,
            recipient=header.recipient,
            channel=header.channel,
            content_type=header.content_type,
            tokens=tuple(progress.message_tokens),
        )
        progress.messages.append(message)
        progress.state, progress.header, progress.content, progress.message_tokens = "outside", None, StringIO(), []
        self._undecoded = b""
        self._header_raw = START
        return [*events, MessageFinished(message, raw, False)]

    def _decode(self, data: bytes) -> str:
        """The newly complete text; at most one invalid sequence a step becomes U+FFFD, what follows it waits."""
        self._undecoded += data
        try:
            text = self._undecoded.decode("utf-8")
        except UnicodeDecodeError as error:
            text = self._undecoded[: error.start].decode("utf-8")
            if error.reason == "unexpected end of data":
                self._undecoded = self._undecoded[error.start :]
                return text
            self._undecoded = self._undecoded[error.end :]
            return text + _REPLACEMENT
        self._undecoded = b""
        return text

    def _read_header(self) -> tuple[Header, str]:
        data = self._tokenizer.decode_bytes(self._header_tokens)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise HarmonyError(
                f"The header {data!r} is not UTF-8; expected text. Parse the stream without strict=True."
            ) from error
        return read_strict_header(text, self.progress.role), self._header_raw + text


def read_strict_header(text: str, role: Role | None) -> Header:
    """The header of a message from its text, between `<|start|>` and `<|message|>`.

    role: the message's role if the text does not begin with one. Raises HarmonyError.
    """
    rest, channel = _take_channel(text)
    rest = rest.strip(_WHITE_SPACE).replace(CONSTRAIN, f" {CONSTRAIN}").strip(_WHITE_SPACE)
    words = rest.translate(_ASCII_SPACE).split(" ")
    words = [word for word in words if word]
    name: str | None = None
    if role is None:
        if not words:
            raise HarmonyError(f"The header {text!r} has no role; expected one. Parse the stream without strict=True.")
        first = words[0]
        role = _ROLES.get(first)
        if role is None:
            if len(words) == 1 and not first.startswith("to="):
                raise HarmonyError(
                    f"The header {text!r} has the unknown role {first!r}; expected one of {', '.join(_ROLES)}. "
                    "Parse the stream without strict=True."
                )
            words.pop(0)
            role = "tool"
        if role == "tool":
            name = first
    if words and words[0] == role:
        words.pop(0)
    recipient: str | None = None
    content_type: str | None = None
    if words:
        last = words.pop()
        if last.startswith("to=") or not words:
            recipient = last.removeprefix("to=")
        else:
            content_type = last
            recipient = words.pop().removeprefix("to=")
    if words:
        raise HarmonyError(
            f"The header {text!r} has {' '.join(words)!r} too much; expected role, recipient, channel and type. "
            "Parse the stream without strict=True."
        )
    return Header(role, name, channel, recipient, content_type)


_ASCII_SPACE = str.maketrans("\t\n\f\r", "    ")


def _take_channel(text: str) -> tuple[str, str | None]:
    before, marker, after = text.partition(CHANNEL)
    if not marker:
        return text, None
    end = next((i for i, char in enumerate(after) if char == "<" or char in _WHITE_SPACE), len(after))
    if end == 0:
        raise HarmonyError(
            f"The header {text!r} has no channel after <|channel|>; expected one. Parse the stream without strict=True."
        )
    return before + after[end:], after[:end]
