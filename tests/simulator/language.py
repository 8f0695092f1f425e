"""What C++ accepts and Metal's compiler does not."""

from typing import Final

from tests.simulator.faults import CompileError
from tests.simulator.tokens import Cursor, Token

REFUSED_WORDS: Final = frozenset(
    {"double", "new", "delete", "throw", "try", "catch", "virtual", "dynamic_cast", "typeid", "goto", "register"}
    | {"thread_local", "wchar_t", "std", "mutable", "asm"}
)
"""Words of C++ that Metal does not have."""

UNCHECKED_WORDS: Final = frozenset({"long4", "ulong4"})
"""Types whose loads clang's instrumentation passes over, being 32 bytes."""

_NO_VARIABLE: Final = frozenset(
    {
        "using",
        "typedef",
        "struct",
        "class",
        "union",
        "enum",
        "static_assert",
        "namespace",
        "extern",
        "_Pragma",
        "friend",
    }
)
_BEFORE_A_LAMBDA: Final = frozenset({"(", ",", "=", "{", "}", ";", "return", "&&", "||", "?", ":"})


def refuse_what_is_not_metal(tokens: list[Token]) -> None:
    """Raises `CompileError` for what clang would let pass."""
    _refuse_words(tokens)
    _refuse_lambdas(tokens)
    _refuse_program_scope_variables(tokens)


def _refuse_words(tokens: list[Token]) -> None:
    for token in tokens:
        if token.kind == "word" and token.text in REFUSED_WORDS:
            raise CompileError(f"{token.place}: error: `{token.text}` is not available in Metal")
        if token.kind == "word" and token.text in UNCHECKED_WORDS:
            raise CompileError(f"{token.place}: error: the simulator cannot check loads of `{token.text}`")


def _refuse_lambdas(tokens: list[Token]) -> None:
    at = Cursor(tokens)
    for i, token in enumerate(tokens):
        if token.text == "[" and token.kind == "symbol" and at.text(at.before(i)) in _BEFORE_A_LAMBDA:
            raise CompileError(f"{token.place}: error: lambda expressions are not available in Metal")


def _refuse_program_scope_variables(tokens: list[Token]) -> None:
    """Outside of functions a variable has to be `constant`, a `constexpr` one too."""
    inner = 0  # depth of braces that are no namespace's
    namespaces: list[int] = []
    statement: list[Token] = []
    parentheses = 0
    for token in tokens:
        if not token.is_code or token.kind == "attribute":
            continue
        if token.text in ("(", ")"):
            parentheses += 1 if token.text == "(" else -1
        if token.text == "{":
            if not inner and any(t.text == "namespace" for t in statement):
                namespaces.append(inner)
                statement = []
                continue
            if not inner:
                _check_declaration(statement)
            inner += 1
        elif token.text == "}":
            if inner:
                inner -= 1
            elif namespaces:
                namespaces.pop()
            statement = []
        elif token.text == ";" and not parentheses:
            if not inner:
                _check_declaration(statement)
            statement = []
        elif not inner:
            statement.append(token)


def _check_declaration(statement: list[Token]) -> None:
    at = Cursor(statement)
    i = 0
    while at.text(i) == "template" and at.text(i + 1) == "<":
        i = at.closing(i + 1) + 1
    declaration = statement[i:]
    words = [token.text for token in declaration]
    end = next((n for n, text in enumerate(words) if text in ("=", "(", "[")), len(words))
    # A function has its parentheses before anything else; a variable is a type and a name at least.
    if end < len(words) and words[end] == "(":
        return
    if len(words[:end]) < 2 or _NO_VARIABLE & set(words) or "constant" in words or "operator" in words:
        return
    raise CompileError(f"{declaration[0].place}: error: a variable outside of functions has to be `constant`")
