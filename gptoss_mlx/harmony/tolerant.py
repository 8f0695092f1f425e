"""The tolerant machine: it takes any stream of tokens, raises for none, and loses no text.

`<|start|>`, `<|channel|>`, `<|message|>` and the ends have a meaning wherever they stand; what is missing around them
is filled in, what is too much is skipped, each with a warning. The rules come from what gpt-oss was seen to write;
tests/harmony/test_malformed.py has one case of each kind.
"""

import codecs
import re
from collections.abc import Set
from io import StringIO
from typing import TypeAlias

from gptoss_mlx.harmony.header import Item, Opening, content_start, read_header
from gptoss_mlx.harmony.messages import Message, Role, TextContent
from gptoss_mlx.harmony.parser_events import (
    ContentDelta,
    Header,
    MarkupSkipped,
    MessageFinished,
    MessageStarted,
    ParserEvent,
    Progress,
    StreamWarning,
)
from gptoss_mlx.special_tokens import CALL, CHANNEL, CONSTRAIN, END, ENDOFTEXT, MESSAGE, RETURN, START
from gptoss_mlx.tokenizer import Tokenizer

HEADER_LIMIT = 64
"""Tokens after which a header without `<|message|>` is taken for text. Real ones have 10, or 40 with a long name."""

_ENDS = (END, RETURN, CALL, ENDOFTEXT)
_LITERALS = (START, CHANNEL, CONSTRAIN, MESSAGE, END, RETURN, CALL)
_LITERAL = re.compile("|".join(re.escape(name) for name in _LITERALS))
_Piece: TypeAlias = tuple[str, int]


class TolerantMachine:
    """Reads one token at a time."""

    def __init__(self, tokenizer: Tokenizer, role: Role | None, tool_names: Set[str]) -> None:
        special = tokenizer.special
        self._tokenizer = tokenizer
        self._tool_names = tool_names
        self._role: Role | None = role
        self._marks = {
            special.start: START,
            special.channel: CHANNEL,
            special.constrain: CONSTRAIN,
            special.message: MESSAGE,
            special.end: END,
            special.return_: RETURN,
            special.call: CALL,
            special.endoftext: ENDOFTEXT,
        }
        self.progress = Progress(role, "outside" if role is None else "header")
        if role is not None:
            self.progress.message_tokens = [special.start, *tokenizer.encode(role)]
        self._opening: Opening = "none" if role is None else "implied"
        self._items: list[Item] = []
        """What came since the last message, without a `<|start|>` at its front."""
        self._raw_start = ""
        """Text of the `<|start|>` before the items."""
        self._repaired = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._waiting = 0
        """Tokens whose bytes are no complete code point yet."""
        self._held: _Piece = ("", 0)
        """Text that may be the beginning of a special token written in plain characters."""
        self._literal = False
        """Whether the running message was opened by special tokens in plain characters, which may then end it."""
        self._plain_marks = False
        """Whether special tokens came in plain characters so far."""
        self._events: list[ParserEvent] = []

    def feed(self, token: int) -> list[ParserEvent]:
        """The events of one more token. Raises TokenizerError for an id outside the vocabulary, and nothing else."""
        data = self._tokenizer.token_bytes(token)
        mark = self._marks.get(token)
        if mark is None:
            self.progress.message_tokens.append(token)
            self._waiting += 1
            if text := self._decoder.decode(data):
                tokens, self._waiting = self._waiting, 0
                self._plain(text, tokens)
            if self._tokenizer.is_special(token):
                self._warn("a token without a meaning in harmony stands in the text", data.decode())
        else:
            self._flush_text()
            self._mark(mark, token)
        return self._take_events()

    def finish(self) -> list[ParserEvent]:
        """The events of the stream's end."""
        self._flush_text()
        if self.progress.state == "content":
            self._close("")
        else:
            self._end_without_message("", cut=True)
        return self._take_events()

    # Text

    def _flush_text(self) -> None:
        """Bytes and characters that waited for more are now what they are."""
        rest = self._decoder.decode(b"", final=True)
        tokens, self._waiting = self._waiting, 0
        if rest:
            self._plain(rest, tokens)
        held, self._held = self._held, ("", 0)
        if held[0]:
            self._text(*held)

    def _plain(self, text: str, tokens: int) -> None:
        """Text of ordinary tokens; special tokens written in it count in headers and in messages opened so."""
        if self._held[0]:
            text, tokens = self._held[0] + text, self._held[1] + tokens
            self._held = ("", 0)
        if self.progress.state == "content" and not self._literal:
            self._text(text, tokens)
            return
        while match := _LITERAL.search(text):
            if match.start():
                self._text(text[: match.start()], tokens)
                tokens = 0
            self._warn("special tokens are written in plain characters", match[0])
            self._plain_marks = True
            self._mark(match[0], None)
            text = text[match.end() :]
            if self.progress.state == "content" and not self._literal:
                break
        kept = 0 if self.progress.state == "content" and not self._literal else _held_length(text)
        if len(text) > kept:
            self._text(text[: len(text) - kept], tokens)
            tokens = 0
        if kept:
            self._held = (text[len(text) - kept :], tokens)

    def _text(self, text: str, tokens: int) -> None:
        progress = self.progress
        if progress.state == "content":
            progress.content.write(text)
            self._events.append(ContentDelta(text, tokens))
            return
        self._items.append(Item(text, tokens))
        start = content_start(self._items, self._opening)
        if start is None and sum(item.tokens for item in self._items) > HEADER_LIMIT:
            if not self._header_raw().strip():
                self._end_without_message("")
                return
            start = content_start(self._items, self._opening, at_end=True)
        if start is not None:
            self._start_content_at(start)

    # Special tokens

    def _mark(self, mark: str, token: int | None) -> None:
        """A special token, or with token None its name in plain characters."""
        progress = self.progress
        opens = mark in (START, CHANNEL)
        if progress.state == "content" and opens:
            self._warn(f"the message is not closed before {mark}", mark)
            self._close("")
        if progress.state != "content" and mark == START:
            self._leave_header()
        if token is not None:
            progress.message_tokens.append(token)
        if progress.state == "content":
            if mark in _ENDS:
                if mark == ENDOFTEXT:
                    self._warn("the text ends within a message", mark)
                self._close(mark)
            else:
                self._warn(f"{mark} stands within a message", mark)
                self._events.append(MarkupSkipped(mark))
        elif mark == START:
            self._raw_start, self._opening = START, "start"
            progress.state = "header"
        elif mark == MESSAGE:
            self._complete_header(literal=token is None)
        elif mark in _ENDS:
            self._end_without_message(mark)
        else:
            self._items.append(Item(mark, 1 if token is not None else 0, mark=True))
            progress.state = "header"

    def _leave_header(self) -> None:
        """`<|start|>` comes: what stood before it is content without markup, or nothing."""
        if self._opening == "implied" and not self._items:
            self._warn("the message begins twice", START)
        self._end_without_message("")

    def _complete_header(self, *, literal: bool) -> None:
        raw = self._header_raw()
        reading = read_header(self._items, self._opening, self.progress.role, self._tool_names)
        for fault in reading.faults:
            self._warn(f"malformed header: {fault}", raw)
        if self._opening == "none":
            self._warn("<|start|> is missing", raw)
        self._literal = literal
        self._start_message(reading.header, raw + MESSAGE)

    def _header_raw(self) -> str:
        return self._raw_start + "".join(item.text for item in self._items)

    def _start_message(self, header: Header, raw: str) -> None:
        progress = self.progress
        progress.state, progress.header, progress.content = "content", header, StringIO()
        self._items, self._raw_start = [], ""
        self._events.append(MessageStarted.of(header, raw))

    def _end_without_message(self, mark: str, *, cut: bool = False) -> None:
        """A header, or text outside of messages, ends without `<|message|>`: its text, if any, is content."""
        start = content_start(self._items, self._opening, at_end=True, cut=cut)
        length = sum(len(item.text) for item in self._items)
        if start is not None and start < length:
            self._start_content_at(start)
            self._close(mark)
            return
        raw = self._header_raw()
        if raw or mark:
            if raw.strip() or mark not in ("", ENDOFTEXT):
                self._warn("a header without a message is skipped", raw + mark)
            self._events.append(MarkupSkipped(raw + mark))
        self._items, self._raw_start, self._opening = [], "", "none"
        self.progress.state = "outside"
        self.progress.role = None

    def _start_content_at(self, start: int) -> None:
        """Begin a message whose header ends at the character `start` of the items; the rest of them is content."""
        before, rest = _split_items(self._items, start)
        raw = self._raw_start + "".join(item.text for item in before)
        opening: Opening = "implied" if self._opening == "none" else self._opening
        role: Role = self.progress.role or self._role or "assistant"
        reading = read_header(before, opening, role, self._tool_names)
        self._warn("<|message|> is missing, so the text after the header is taken for the content", raw)
        self._literal = self._plain_marks
        self._start_message(reading.header, raw)
        for item in rest:
            if item.mark:
                self._events.append(MarkupSkipped(item.text))
            else:
                self._text(item.text, item.tokens)

    def _close(self, raw: str) -> None:
        progress = self.progress
        header = progress.header
        assert header is not None
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
        self._events.append(MessageFinished(message, raw, self._repaired))
        progress.state, progress.header, progress.content, progress.message_tokens = "outside", None, StringIO(), []
        progress.role = None
        self._opening, self._repaired, self._literal = "none", False, False

    # Bookkeeping

    def _warn(self, message: str, raw: str) -> None:
        warning = StreamWarning(message, raw)
        self.progress.warnings.append(warning)
        self._events.append(warning)
        self._repaired = True

    def _take_events(self) -> list[ParserEvent]:
        events, self._events = self._events, []
        return events


def _held_length(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a special token's name."""
    start = text.rfind("<")
    tail = text[start:] if start >= 0 else ""
    return len(tail) if tail and any(name.startswith(tail) and name != tail for name in _LITERALS) else 0


def _split_items(items: list[Item], position: int) -> tuple[list[Item], list[Item]]:
    """The items before and after a character of their joined text; one across is cut, its tokens count after."""
    before: list[Item] = []
    for index, item in enumerate(items):
        if position >= len(item.text):
            before.append(item)
            position -= len(item.text)
            continue
        if position == 0:
            return before, items[index:]
        before.append(Item(item.text[:position], 0))
        return before, [Item(item.text[position:], item.tokens), *items[index + 1 :]]
    return before, []
