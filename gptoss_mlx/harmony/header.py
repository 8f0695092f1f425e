"""Reading the header of a message that need not be well-formed.

A header is a list of items: texts, and the special tokens between them. Owns the words that a header may have, and the
decision where a header ends that no `<|message|>` ends.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gptoss_mlx.harmony.messages import ANALYSIS, COMMENTARY, FINAL, FUNCTIONS, ROLES, Role, is_tool
from gptoss_mlx.harmony.parser_events import Header
from gptoss_mlx.special_tokens import CHANNEL, CONSTRAIN

CHANNELS = (ANALYSIS, COMMENTARY, FINAL)
TYPES = frozenset(("json", "code", "text"))
"""Words that are a content type also without `<|constrain|>`."""
_TO = "to="
_CUSTOM_CHANNEL = re.compile(r"[^\W\d][\w-]*\Z")
_PLAIN_WORD = re.compile(r"[A-Za-z][\w./+-]*\Z")
_WORDS = re.compile(r"\S+")

Opening: TypeAlias = Literal["implied", "start", "none"]
"""How a header began: by the role that the caller gave, by `<|start|>`, or not at all."""


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of a header: text, or one special token."""

    text: str
    tokens: int
    """Number of tokens behind it."""
    mark: bool = False
    """Whether `text` is the name of a special token."""


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    start: int
    """Where it begins in the text of the header."""
    end: int
    after: str
    """The special token before it if no other word is in between, else nothing."""


@dataclass(frozen=True, slots=True)
class HeaderReading:
    """What a header says, and what about it was wrong."""

    header: Header
    faults: tuple[str, ...]


def read_header(items: Sequence[Item], opening: Opening, role: Role | None, tool_names: Set[str]) -> HeaderReading:
    """The header that `items` say, which `<|message|>` has ended. Never raises; what has no meaning is a fault."""
    reader = _Reader(opening, role, tool_names)
    words = _words(items)
    expects_recipient = False
    for position, word in enumerate(words):
        if expects_recipient and not word.after:
            reader.set_recipient(word.text)
            expects_recipient = False
            continue
        expects_recipient = reader.take(word.text, word.after, first=position == 0, last=word is words[-1])
    return reader.reading()


class _Reader:
    """Gathers what the words of a header say."""

    def __init__(self, opening: Opening, role: Role | None, tool_names: Set[str]) -> None:
        self._opening = opening
        self._tool_names = tool_names
        self._role: Role | None = role if opening == "implied" else None
        self._name: str | None = None
        self._channel: str | None = None
        self._recipient: str | None = None
        self._type: str | None = None
        self._faults: list[str] = []

    def take(self, word: str, after: str, *, first: bool, last: bool) -> bool:
        """Read one word; True if the next word is a recipient."""
        if after == CONSTRAIN:
            self._set_type(CONSTRAIN + word)
        elif word.startswith(_TO):
            recipient = word.removeprefix(_TO).partition("<|")[0]
            if not recipient:
                return True
            self.set_recipient(recipient)
        elif after == CHANNEL:
            return self._take_channel(word, last=last)
        elif (role := _role(word)) is not None and (self._role is None or role[0] == self._role):
            if self._role is not None:
                self._faults.append(f"the role {word!r} stands twice")
            self._role, self._name = role
        elif first and self._opening == "start" and not _is_glued_role(word) and word not in CHANNELS:
            self._role, self._name = "tool", word
        elif self._type is None and (word in TYPES or (last and self._recipient and _PLAIN_WORD.match(word))):
            self._type = word
        elif first and _is_glued_role(word):
            self._role = "assistant"
            self._faults.append(f"{word!r} is glued to the role")
            return self.take(word.removeprefix("assistant"), "", first=False, last=last)
        elif word in CHANNELS and self._channel is None:
            self._faults.append(f"the channel {word!r} stands without <|channel|>")
            self._channel = word
        else:
            self._faults.append(f"{word!r} has no meaning here")
        return False

    def _take_channel(self, word: str, *, last: bool) -> bool:
        known = known_channel(word)
        if known is None:
            if _CUSTOM_CHANNEL.match(word) is None:
                self._faults.append(f"{word!r} is no channel")
                return False
            self._channel = word
            return False
        if self._channel is not None:
            self._faults.append("there are two channels")
        self._channel = known
        rest = word.removeprefix(known)
        return self.take(rest, "", first=False, last=last) if rest else False

    def set_recipient(self, recipient: str) -> None:
        """The recipient, of which the first one counts."""
        if self._recipient is not None:
            self._faults.append("there are two recipients")
            return
        names = self._tool_names
        if names and recipient not in names and is_tool(recipient):
            recipient = self._meant(recipient)
        self._recipient = recipient

    def _meant(self, recipient: str) -> str:
        """The tool that a recipient, which is none, can only mean; else the recipient as it is."""
        if (tool := _tool_called(recipient, self._tool_names)) is not None:
            self._faults.append(f"{recipient!r} stands for the tool {tool!r}")
            return tool
        for ending in TYPES:
            stem = recipient.removesuffix(ending)
            tool = None if stem == recipient else _tool_called(stem, self._tool_names)
            if tool is not None:
                self._faults.append(f"{ending!r} is glued to the tool {tool!r}")
                self._type = self._type or ending
                return tool
        return recipient

    def _set_type(self, content_type: str) -> None:
        if self._type is None:
            self._type = content_type
        else:
            self._faults.append("there are two content types")

    def reading(self) -> HeaderReading:
        """What was read. An assistant's message without a channel is a call's commentary or final."""
        role: Role = self._role or "assistant"
        channel = self._channel
        if self._role is None:
            self._faults.append("there is no role")
        if role == "assistant" and channel is None:
            channel = COMMENTARY if is_tool(self._recipient) else FINAL
            self._faults.append(f"there is no channel, so it is {channel}")
        header = Header(role, self._name, channel, self._recipient, self._type)
        return HeaderReading(header, tuple(self._faults))


def _tool_called(word: str, names: Set[str]) -> str | None:
    """The tool with this full name, or the only one that is called so without its namespace, or as a function."""
    bare = word.removeprefix(f"{FUNCTIONS}.")
    for name in (word, f"{FUNCTIONS}.{bare}", bare):
        if name in names:
            return name
    # A tool that is its namespace's only one (`python`) may be called as if it were a function of it.
    if (stem := bare.partition(".")[0]) in names:
        return stem
    found = [name for name in names if name.rpartition(".")[2] == bare]
    return found[0] if len(found) == 1 else None


def content_start(items: Sequence[Item], opening: Opening, *, at_end: bool = False, cut: bool = False) -> int | None:
    """Where in the joined text of `items` a content begins although no `<|message|>` has come, or None if nowhere yet.

    at_end: whether the header is over, so that its last word is a whole one; then the text's length means: no content.
    cut: whether it is over because the stream is, so that its last word may be a part of one.
    """
    length = sum(len(item.text) for item in items)
    words = _words(items)
    for position, word in enumerate(words):
        if word.after == CHANNEL:
            return _content_after_channel(words[position:], length, at_end=at_end, cut=cut)
    addressed = any(word.text.startswith(_TO) for word in words)
    names_may_come = opening == "start" and (addressed or cut or not at_end)
    for position, word in enumerate(words):
        is_open = not at_end and word.end == length
        brace = word.text.find("{")
        if addressed and brace > 0 and (word.after == CONSTRAIN or _is_header_word(word.text[:brace])):
            return word.start + brace
        if word.after or _is_header_word(word.text) or (is_open and _may_become_header_word(word.text)):
            continue
        if position == 0 and names_may_come and word.text[0] not in "{[":
            continue  # it may be the name of a tool
        return word.start if addressed else _prose_start(words, opening)
    if not at_end:
        return None
    only_roles = opening == "none" and all(_role(word.text) for word in words)
    start = None if addressed or only_roles or names_may_come else _prose_start(words, opening)
    return length if start is None else start


def _prose_start(words: Sequence[_Word], opening: Opening) -> int | None:
    """Where the prose begins, when these words are no header: it may begin with a word that headers have too.

    Only what a header's opening makes likely is taken for one: the role, and a channel that is no common word.
    """
    for position, word in enumerate(words):
        is_role = _role(word.text) is not None and (opening == "start" or word.text == "assistant") and position == 0
        if opening != "none" and (is_role or word.text in (ANALYSIS, COMMENTARY)):
            continue
        return word.start
    return None


def _content_after_channel(words: Sequence[_Word], length: int, *, at_end: bool, cut: bool) -> int | None:
    """The same for the words from the first `<|channel|>` on: a header until it ends, or until JSON begins."""
    for word in words:
        is_open = cut and word.end == length
        brace = word.text.find("{")
        whole = word.text if brace < 0 else word.text[:brace]
        is_channel = word.after == CHANNEL and known_channel(whole) is not None
        if word.after == CONSTRAIN or is_channel or _is_header_word(whole) or not whole:
            if brace >= 0:
                return word.start + brace
            continue
        if at_end and is_open and _may_become_header_word(whole):
            continue
        if at_end or any("{" in word.text for word in words):
            return word.start
    return length if at_end else None


def known_channel(word: str) -> str | None:
    """The channel that a word begins with."""
    return next((channel for channel in CHANNELS if word.startswith(channel)), None)


def _role(word: str) -> tuple[Role, str | None] | None:
    for role in ROLES:
        if word == role:
            return role, "tool" if role == "tool" else None
        if word.startswith(f"{role}:") and role != "tool":
            return role, word.removeprefix(f"{role}:")
    return None


def _is_glued_role(word: str) -> bool:
    rest = word.removeprefix("assistant")
    return rest != word and (rest in CHANNELS or rest.startswith(_TO))


def _is_header_word(word: str) -> bool:
    return word in CHANNELS or word in TYPES or word.startswith(_TO) or _role(word) is not None


def _may_become_header_word(word: str) -> bool:
    return any(whole.startswith(word) for whole in (*CHANNELS, *TYPES, *ROLES, _TO, "<|"))


def _words(items: Sequence[Item]) -> list[_Word]:
    """The words of the texts, split at white space and special tokens."""
    words: list[_Word] = []
    position = 0
    after = ""
    run, run_start = "", 0

    def close_run() -> None:
        nonlocal after
        for match in _WORDS.finditer(run):
            words.append(_Word(match[0], run_start + match.start(), run_start + match.end(), after))
            after = ""

    for item in items:
        if item.mark:
            close_run()
            run, run_start, after = "", position + len(item.text), item.text
        else:
            run += item.text
        position += len(item.text)
    close_run()
    return words
