"""Preprocessed Metal source as C++ that clang compiles with the shim.

Works on tokens, a pass for each thing that C++ says otherwise; lines stay where they are, so that every message names
the kernel's own. What C++ would accept and Metal does not is refused first (`language`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.simulator.faults import CompileError
from tests.simulator.language import refuse_what_is_not_metal
from tests.simulator.tokens import Cursor, Token, lex

SCALARS: Final = ("float", "half", "bfloat", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "bool")
VECTORS: Final = frozenset(
    f"{packed}{scalar}{n}" for scalar in SCALARS for n in (2, 3, 4) for packed in ("", "packed_")
)
SPACES: Final = ("device", "constant", "threadgroup")

_DECIMAL_FLOAT: Final = re.compile(r"((?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)(\w*)")
_VECTOR_ALIAS: Final = re.compile(
    r"using\s+(?P<using>\w+)\s*=\s*(?:typename\s+)?(?:metal\s*::\s*)?vec\s*<.*>\s*"
    rf"|typedef\s+(?:metal\s*::\s*)?(?:vec\s*<.*>|{'|'.join(sorted(VECTORS))})\s+(?P<typedef>\w+)\s*",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a kernel: its name, its declaration without attributes, and those."""

    name: str
    declaration: str
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """C++ text, and the parameters of the kernels in it by name."""

    text: str
    kernels: Mapping[str, tuple[Parameter, ...]]


def rewrite(source: str, function_constants: Mapping[int, int | bool]) -> Rewritten:
    """`source` as C++. Raises `CompileError` for what is not Metal."""
    tokens = lex(source)
    refuse_what_is_not_metal(tokens)
    for token in tokens:
        if token.kind == "number":
            token.text = _literal(token)
        elif token.kind == "directive" and "METAL" in token.text:
            token.becomes("")
    _drop_instantiations(tokens)
    kernels, bodies = _find_kernels(tokens)
    _define_function_constants(tokens, function_constants)
    vectors = VECTORS | _vector_aliases(tokens)
    for token in tokens:
        if token.kind == "attribute":
            token.becomes("")
    _decay_array_parameters(tokens)
    _make_threadgroup_variables(tokens, bodies)
    _rewrite_expressions(tokens, vectors)
    return Rewritten("".join(token.text for token in tokens), kernels)


def attribute_names(token: Token) -> tuple[str, ...]:
    """The attributes of `[[a, b(1)]]`."""
    inner = token.text.strip()[2:-2]
    return tuple(part.strip() for part in re.split(r",(?![^(]*\))", inner) if part.strip())


def _literal(token: Token) -> str:
    """A float literal has type float in Metal, with `h` half, with `bf` bfloat."""
    match = _DECIMAL_FLOAT.fullmatch(token.text)
    if match is None:
        return token.text
    digits, suffix = match[1], match[2].lower()
    kinds = {"": f"{digits}f", "f": token.text, "h": f"((half){digits}f)", "bf": f"((bfloat){digits}f)"}
    if suffix not in kinds:
        raise CompileError(f"{token.place}: error: `{token.text}` is not available in Metal")
    return kinds[suffix]


def _drop_instantiations(tokens: list[Token]) -> None:
    """`template [[host_name("x")]] [[kernel]] decltype(f<float>) f<float>;`: the entry point instantiates."""
    at = Cursor(tokens)
    for i, token in enumerate(tokens):
        if token.kind != "word" or token.text != "template" or at.text(at.after(i)) == "<":
            continue
        end = i
        while at.text(end) != ";":
            end += 1
        span = tokens[i : end + 1]
        if any((t.kind == "attribute" and "host_name" in t.text) or t.text == "kernel" for t in span):
            for dropped in span:
                dropped.becomes("")


def _find_kernels(tokens: list[Token]) -> tuple[dict[str, tuple[Parameter, ...]], list[range]]:
    """Parameters of every kernel function by its name, and the token ranges of their bodies. The functions become
    `static`: those that nobody launches vanish, and their threadgroup memory with them."""
    at = Cursor(tokens)
    kernels: dict[str, tuple[Parameter, ...]] = {}
    bodies: list[range] = []
    for i, token in enumerate(tokens):
        marked = token.kind == "attribute" and "kernel" in attribute_names(token)
        if not marked and not (token.kind == "word" and token.text == "kernel"):
            continue
        name = at.after(i)
        while at.kind(name) == "attribute" or at.text(name) in ("void", "static", "inline"):
            name = at.after(name)
        first = at.after(name)
        if at.text(first) != "(":
            continue
        last = at.closing(first)
        kernels[at.text(name)] = _parameters(tokens[first + 1 : last])
        body = at.after(last)
        if at.text(body) == "{":
            bodies.append(range(body, at.closing(body)))
        token.becomes("static ")
    return kernels, bodies


def _parameters(tokens: list[Token]) -> tuple[Parameter, ...]:
    groups: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.kind == "symbol":
            depth += (token.text in "(<[") - (token.text in ")>]")
            if token.text == "," and depth == 0:
                groups.append([])
                continue
        groups[-1].append(token)
    result = []
    for group in groups:
        if not any(token.kind == "word" for token in group):
            continue
        attributes = tuple(name for t in group if t.kind == "attribute" for name in attribute_names(t))
        declaration = "".join(t.text for t in group if t.is_code or t.kind == "space" if t.kind != "attribute").strip()
        name = re.search(r"(\w+)\s*(\[[^\]]*\])?$", declaration)
        assert name is not None, declaration
        result.append(Parameter(name[1], declaration, attributes))
    return tuple(result)


def _define_function_constants(tokens: list[Token], values: Mapping[int, int | bool]) -> None:
    """`constant bool causal [[function_constant(22)]];` becomes a constant with its value."""
    at = Cursor(tokens)
    for i, token in enumerate(tokens):
        if token.kind != "attribute" or at.text(at.after(i)) != ";":
            continue
        index = re.fullmatch(r"\[\[\s*function_constant\s*\(\s*(\d+)\s*\)\s*\]\]", token.text.strip())
        if index is None:
            continue
        name = at.before(i)
        first = name
        while at.kind(at.before(first)) == "word":
            first = at.before(first)
        kind = " ".join(t.text for t in tokens[first:name] if t.kind == "word" and t.text not in ("constant", "const"))
        value = values.get(int(index[1]))
        text = "{}" if value is None else str(value).lower()
        known = str(value is not None).lower()
        constant = at.text(name)
        made = f"static constexpr {kind} {constant} = {text}; static constexpr bool is_defined_{constant} = {known}"
        for t in tokens[first : i + 1]:
            t.becomes("")
        tokens[first].becomes(made)


def _vector_aliases(tokens: list[Token]) -> frozenset[str]:
    """Names that the source gives to vector types: `typedef vec<T, 4> T4`."""
    names: set[str] = set()
    for i, token in enumerate(tokens):
        if token.kind != "word" or token.text not in ("using", "typedef"):
            continue
        end = i
        while end < len(tokens) and end - i < 40 and tokens[end].text != ";":
            end += 1
        if match := _VECTOR_ALIAS.fullmatch("".join(t.text for t in tokens[i:end])):
            names.add(match["using"] or match["typedef"])
    return frozenset(names)


def _decay_array_parameters(tokens: list[Token]) -> None:
    """`f(threadgroup float x[32])` takes a pointer; clang wants it said where there is an address space."""
    at = Cursor(tokens)
    for i, token in enumerate(tokens):
        if token.kind != "word" or token.text not in SPACES:
            continue
        previous = at.before(i)
        if at.text(previous) == "const":
            previous = at.before(previous)
        if at.text(previous) not in ("(", ","):
            continue
        end, points = i, False
        while end < len(tokens) and at.text(end) not in ("[", ",", ")", ";", "(", "{", "="):
            points = points or at.text(end) in ("*", "&")
            end += 1
        if at.text(end) != "[" or points:
            continue
        closing = at.closing(end)
        if at.text(at.after(closing)) not in (",", ")"):
            continue
        name = tokens[at.before(end)]
        name.text = f"* {name.text}"
        for dropped in tokens[end : closing + 1]:
            dropped.becomes("")


def _make_threadgroup_variables(tokens: list[Token], bodies: list[range]) -> None:
    """`threadgroup float x[32];` becomes a static variable in a section of its own, between guards."""
    at = Cursor(tokens)
    count = 0
    for i, token in enumerate(tokens):
        if token.kind != "word" or token.text != "threadgroup" or not _begins_declaration(at, i):
            continue
        end = at.after(i)
        depth = 0
        while depth or at.text(end) not in (";", "=", "[", "*", "&"):
            depth += (at.text(end) in ("(", "<")) - (at.text(end) in (")", ">"))
            if depth < 0:
                break
            end = at.after(end)
        if depth < 0 or at.text(end) in ("*", "&"):
            continue
        if not any(i in body for body in bodies):
            raise CompileError(
                f"{token.place}: error: threadgroup memory can be declared in a kernel function only, not in a "
                "function that it calls or outside of functions"
            )
        while at.text(end) not in (";", "="):
            end = at.closing(end) if at.text(end) in ("[", "(", "{") else end
            end = at.after(end)
        if at.text(end) == "=":
            raise CompileError(f"{token.place}: error: threadgroup memory cannot be initialised where it is declared")
        token.text = f"THREADGROUP_GUARD(threadgroup_guard_{count}) THREADGROUP_VARIABLE threadgroup"
        tokens[end].text = f"; THREADGROUP_GUARD(threadgroup_guard_{count + 1})"
        token.kind = tokens[end].kind = "made"
        count += 2


def _begins_declaration(at: Cursor, i: int) -> bool:
    previous = at.before(i)
    if at.text(previous) == ")":
        previous = at.before(at.opening(previous))
        return at.text(previous) == "alignas"
    return previous < 0 or at.text(previous) in (";", "{", "}") or at.kind(previous) == "made"


def _rewrite_expressions(tokens: list[Token], vectors: frozenset[str]) -> None:
    """Vector constructors and casts: see `shim/vectors.h`."""
    at = Cursor(tokens)
    for i, token in enumerate(tokens):
        following, previous = at.after(i), at.before(i)
        if token.kind == "symbol" and token.text == "(":
            _rewrite_vector_cast(tokens, i, vectors)
        if token.kind != "word":
            continue
        if token.text == "static_cast":
            token.text = "metal::convert"
        elif token.text == "is_function_constant_defined" and at.text(following) == "(":
            token.text = f"is_defined_{at.text(at.after(following))}"
            for dropped in tokens[following : at.closing(following) + 1]:
                dropped.becomes("")
        elif token.text in vectors and at.text(following) == "(":
            # `float4 (*f)(...)` and `float4 f(...)` declare; a type before the name does too.
            if at.kind(previous) != "word" or at.text(previous) in ("return", "case", "else"):
                _drop_qualifier(tokens, i)
                token.text = f"metal::construct<{token.text}>"
        elif token.text == "vec" and at.text(following) == "<":
            end = at.closing(following)
            if at.text(at.after(end)) != "(" or "operator" in (at.text(previous), at.text(at.before(previous))):
                continue
            _drop_qualifier(tokens, i)
            token.text = "metal::construct<metal::vec"
            tokens[end].text = ">>"


def _drop_qualifier(tokens: list[Token], i: int) -> None:
    """`metal::` before a name that gets one of its own."""
    at = Cursor(tokens)
    colons = at.before(i)
    if at.text(colons) == "::" and at.text(at.before(colons)) == "metal":
        tokens[colons].becomes("")
        tokens[at.before(colons)].becomes("")


def _rewrite_vector_cast(tokens: list[Token], i: int, vectors: frozenset[str]) -> None:
    at = Cursor(tokens)
    name = at.after(i)
    end = at.after(name)
    if at.text(name) not in vectors or at.text(end) != ")" or at.text(at.after(end)) in ("{", ")", ",", ";", ">"):
        return
    previous = at.before(i)
    if at.kind(previous) == "word" and at.text(previous) not in ("return", "case", "else"):
        return
    if at.text(previous) == ">":
        return
    tokens[i].becomes("metal::As<")
    tokens[end].becomes(">{}->*")
