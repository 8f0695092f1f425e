"""Which tokens may come next in a whole turn: harmony's frame around what a grammar says of an answer or of arguments.

    after <|start|>assistant   one of the headers, token by token
    analysis, commentary       any text, then <|end|>: the turn cannot end here
    final                      the grammar's text (any text without one), then <|return|>
    a call                     the arguments' grammar for a strict tool (any text for others), then <|call|>
    after <|end|>              <|start|>assistant

So a turn ends with an answer or with a call, and an answer that ended is one that fits. Headers are held to the forms
that gpt-oss was trained to write, because a malformed one would let text in that no grammar has seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import ANALYSIS, COMMENTARY, FINAL, is_builtin
from gptoss_mlx.structured.grammar import Matcher
from gptoss_mlx.structured.vocabulary import Mask, vocabulary_of
from gptoss_mlx.tokenizer import Tokenizer

CLOSING_TOKENS = 128
"""How many tokens an answer that met a limit may take to come to its end."""

Kind: TypeAlias = Literal["analysis", "commentary", "final", "call"]


@dataclass(slots=True)
class _Node:
    """A place in the tree of headers."""

    following: "dict[int, _Node]" = field(default_factory=dict)
    kind: Kind | None = None
    """What begins here, where a header is complete."""
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class TurnForm:
    """What a turn is held to."""

    answer: str | None = None
    """Grammar of the final channel; None: any text."""
    answer_is_json: bool = False
    tools: Mapping[str, str | None] = field(default_factory=dict)
    """Full names of tools on offer -> grammar of their arguments, None: any text."""
    must_call: frozenset[str] = frozenset()
    """Full names of tools of which one has to be called, after at most one analysis; empty: the model is free."""


class TurnConstraint:
    """The state of one turn. `sampling.Constraint` is what generation sees of it."""

    def __init__(self, form: TurnForm, tokenizer: Tokenizer) -> None:
        """Begins after `<|start|>assistant`. Raises UsageError for a grammar that is too complex."""
        self._form = form
        self._tokenizer = tokenizer
        special = tokenizer.special
        self._ends: dict[Kind, int] = {
            "analysis": special.end,
            "commentary": special.end,
            "final": special.return_,
            "call": special.call,
        }
        self._vocabulary = vocabulary_of(tokenizer)
        self._free = {kind: _with(self._vocabulary.text, end) for kind, end in self._ends.items()}
        self._headers = self._make_headers(thinking=True)
        self._headers_after_thought = self._make_headers(thinking=False) if form.must_call else self._headers
        self._next_start = (special.start, *tokenizer.encode("assistant"))
        self._quote = _single(tokenizer, '"')
        self._brackets = (_single(tokenizer, "}"), _single(tokenizer, "]"))
        self._node: _Node | None = self._headers
        self._between = 0
        """How many tokens of the next message's start have come; counts only where there is no node and no kind."""
        self._kind: Kind | None = None
        self._matcher: Matcher | None = None
        self._in_string = self._escaped = False
        self.closing = False
        """Whether the answer is being brought to its end."""
        self.answered = False
        """Whether a final message has ended, as its grammar wants it."""

    def allowed(self) -> Mask:
        """[vocab]: the tokens that may come next."""
        if self._node is not None:
            return self._only(*self._node.following)
        if self._kind is None:
            return self._only(self._next_start[self._between])
        if self._matcher is None:
            return self._free[self._kind]
        mask = self._matcher.allowed()
        return self._narrowed(mask) if self.closing else mask

    def accept(self, token: int) -> None:
        """Takes a token, drawn or forced. Raises UsageError for one that does not fit (only a forced one can)."""
        if self._node is not None:
            self._step_in_header(token)
        elif self._kind is None:
            if token != self._next_start[self._between]:
                raise self._misfit(token)
            self._between += 1
            if self._between == len(self._next_start):
                self._node = self._headers_after_thought
        elif token == self._ends[self._kind]:
            self._end_message()
        elif self._matcher is not None:
            if not self._matcher.accept(token):
                raise self._misfit(token)
            self._scan(self._tokenizer.token_bytes(token))
        elif not self._free[self._kind][token]:
            raise self._misfit(token)

    def close(self, tokens_over: int) -> bool:
        """Asks for the end of an answer that met a limit `tokens_over` tokens ago. True while it may go on to it."""
        if self._kind != "final" or self._matcher is None or tokens_over >= CLOSING_TOKENS:
            return False
        self.closing = True
        return True

    def closing_of_analysis(self) -> tuple[int, ...]:
        """The tokens that end the reasoning and begin what has to follow it."""
        opened = () if self._form.must_call else self._header(FINAL)
        return (self._tokenizer.special.end, *self._next_start, *opened)

    # Steps

    def _step_in_header(self, token: int) -> None:
        assert self._node is not None
        node = self._node.following.get(token)
        if node is None:
            raise self._misfit(token)
        self._node = node
        if node.kind is None:
            return
        self._node, self._kind = None, node.kind
        grammar = self._form.answer if node.kind == "final" else self._form.tools.get(node.tool or "")
        self._in_string = self._escaped = False
        self._matcher = None if grammar is None else Matcher(grammar, self._tokenizer, self._ends[node.kind])

    def _end_message(self) -> None:
        if self._matcher is not None and not self._matcher.complete:
            raise UsageError("the answer was ended before it fits the form that was asked for")
        self.answered = self.answered or self._kind == "final"
        self._kind, self._matcher, self._between = None, None, 0

    def _scan(self, data: bytes) -> None:
        """Keeps track of whether a JSON string is open."""
        for byte in data:
            if self._escaped:
                self._escaped = False
            elif self._in_string and byte == 0x5C:
                self._escaped = True
            elif byte == 0x22:
                self._in_string = not self._in_string

    def _narrowed(self, mask: Mask) -> Mask:
        """Of what may come, what ends the text: its end, or the end of a string, an object or a list."""
        if mask[self._ends["final"]]:
            return self._only(self._ends["final"])
        if self._form.answer_is_json:
            wanted = (self._quote,) if self._in_string else self._brackets
            closers = [token for token in wanted if mask[token]]
            if closers:
                return self._only(*closers)
            if self._in_string and self._matcher is not None:
                path = self._matcher.path_to(self._quote)
                return self._only(path[0]) if path else mask
            without = mask & ~self._vocabulary.blanks
            return without if without.any() else mask
        return mask

    # Tokens

    def _make_headers(self, *, thinking: bool) -> _Node:
        root = _Node()
        form = self._form
        special, encode = self._tokenizer.special, self._tokenizer.encode
        json_type = (*encode(" "), special.constrain, *encode("json"))
        if thinking:
            self._plant(root, self._header(ANALYSIS), "analysis")
        if not form.must_call:
            self._plant(root, self._header(FINAL), "final")
            if form.answer_is_json:
                self._plant(root, self._header(FINAL, json_type), "final")
            if form.tools:
                self._plant(root, self._header(COMMENTARY), "commentary")
        for name in form.must_call or form.tools:
            recipient = encode(f" to={name}")
            # Built-in tools were trained with calls of type `code` in the analysis.
            builtin = is_builtin(name)
            types = (encode(" code"), json_type, ()) if builtin else (json_type, ())
            for channel in (ANALYSIS, COMMENTARY) if builtin else (COMMENTARY,):
                for content_type in types:
                    self._plant(root, (*recipient, *self._header(channel, content_type)), "call", name)
                    self._plant(root, self._header(channel, (*recipient, *content_type)), "call", name)
        return root

    def _header(self, channel: str, more: Sequence[int] = ()) -> tuple[int, ...]:
        special = self._tokenizer.special
        return (special.channel, *self._tokenizer.encode(channel), *more, special.message)

    def _plant(self, root: _Node, path: Sequence[int], kind: Kind, tool: str | None = None) -> None:
        node = root
        for token in path:
            node = node.following.setdefault(token, _Node())
        node.kind, node.tool = kind, tool

    def _only(self, *tokens: int) -> Mask:
        mask = np.zeros(self._vocabulary.size, dtype=np.bool_)
        mask[list(tokens)] = True
        return mask

    def _misfit(self, token: int) -> UsageError:
        text = self._tokenizer.decode([token])
        return UsageError(f"{text!r} cannot stand where it is in an answer of the form that was asked for")


def _with(mask: Mask, token: int) -> Mask:
    copy = mask.copy()
    copy[token] = True
    return copy


def _single(tokenizer: Tokenizer, text: str) -> int:
    (token,) = tokenizer.encode(text)
    return token
