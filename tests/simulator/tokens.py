"""Tokens of preprocessed Metal source, and steps between them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<directive>^[ \t]*\#[^\n]*)
    |(?P<space>\s+)
    |(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<number>0[xX][0-9a-fA-F]+[uUlL]*|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?[a-zA-Z]*)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<symbol>::|->|<<=|>>=|\+\+|--|&&|\|\||[-+*/%&|^=!<>]=|.)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_LINE_MARKER: Final = re.compile(r'#\s*(?:line\s+)?(\d+)\s+"([^"]*)"')

OPENING: Final = {"(": ")", "[": "]", "{": "}"}


@dataclass(slots=True)
class Token:
    """One token. `kind` is `directive`, `space`, `string`, `number`, `word`, `symbol`, `attribute` or, for text that
    the rewriter put in, `made`."""

    kind: str
    text: str
    file: str
    line: int

    @property
    def is_code(self) -> bool:
        """Whether the language sees it."""
        return self.kind not in ("space", "directive")

    def becomes(self, text: str) -> None:
        """Puts `text` in its place, on as many lines."""
        self.text = text + "\n" * (self.text.count("\n") - text.count("\n"))
        self.kind = "made" if text else "space"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def lex(text: str) -> list[Token]:
    """The tokens of preprocessed `text`; a whole `[[...]]` is one, an `attribute`."""
    return _with_attributes(list(_simple_tokens(text)))


def _simple_tokens(text: str) -> Iterator[Token]:
    file, line = "source", 1
    for match in _TOKEN.finditer(text):
        token = Token(match.lastgroup or "symbol", match[0], file, line)
        yield token
        line += token.text.count("\n")
        if token.kind == "directive" and (marker := _LINE_MARKER.match(token.text.strip())):
            # The marker names the line that follows its own end of line.
            line, file = int(marker[1]) - 1, marker[2]


def _with_attributes(tokens: list[Token]) -> list[Token]:
    result: list[Token] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token.text == "[" and i + 1 < len(tokens) and tokens[i + 1].text == "[":
            depth, end = 0, i
            while True:
                depth += {"[": 1, "]": -1}.get(tokens[end].text, 0)
                end += 1
                if depth == 0:
                    break
            text = "".join(t.text for t in tokens[i:end])
            result.append(Token("attribute", text, token.file, token.line))
            i = end
        else:
            result.append(token)
            i += 1
    return result


class Cursor:
    """Looks around in a list of tokens, past spaces and directives."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens

    def text(self, i: int) -> str:
        """The text of token `i`; empty outside of the list."""
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def kind(self, i: int) -> str:
        return self.tokens[i].kind if 0 <= i < len(self.tokens) else ""

    def after(self, i: int) -> int:
        """The index of the next token of the language."""
        i += 1
        while i < len(self.tokens) and not self.tokens[i].is_code:
            i += 1
        return i

    def before(self, i: int) -> int:
        """The index of the previous one; -1 if there is none."""
        i -= 1
        while i >= 0 and not self.tokens[i].is_code:
            i -= 1
        return i

    def closing(self, i: int) -> int:
        """The index of the token that closes the bracket at `i`; `<` closes like one."""
        opening = self.tokens[i].text
        closing = ">" if opening == "<" else OPENING[opening]
        depth = 0
        while i < len(self.tokens):
            token = self.tokens[i]
            if token.kind == "symbol":
                depth += (token.text == opening) - (token.text == closing)
            if depth == 0:
                return i
            i += 1
        return len(self.tokens) - 1

    def opening(self, i: int) -> int:
        """The index of the token that opens the bracket that closes at `i`."""
        closing = self.tokens[i].text
        opening = next(key for key, value in OPENING.items() if value == closing)
        depth = 0
        while i >= 0:
            token = self.tokens[i]
            if token.kind == "symbol":
                depth += (token.text == closing) - (token.text == opening)
            if depth == 0:
                return i
            i -= 1
        return 0
