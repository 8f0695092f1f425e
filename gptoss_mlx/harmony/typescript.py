"""JSON schema to the TypeScript-like type in which gpt-oss was trained to read a tool's arguments.

The layout equals openai-harmony 0.0.8 to the byte, also where it looks accidental: it is what the model has seen.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def typescript_type(schema: Any, indent: str = "") -> str:
    """The type that a JSON schema describes, such as `{\\ncity: string,\\n}`.

    Anything that is no object, or whose kind is not known (`anyOf`, `$ref`, `const`, ...), is `any`.
    """
    variants = _get(schema, "oneOf")
    if isinstance(variants, list):
        return "".join(
            f"\n{indent} | {_variant_type(variant, indent)}{_comment(_root_variant_notes(variant))}"
            for variant in variants
        )
    kind = _get(schema, "type")
    if isinstance(kind, list):
        kinds = ["number" if item == "integer" else item for item in kind if isinstance(item, str)]
        return " | ".join(kinds) if kinds else "any"
    match kind:
        case "object":
            return _object_type(schema, indent)
        case "string":
            values = _get(schema, "enum")
            strings = [f'"{value}"' for value in values if isinstance(value, str)] if isinstance(values, list) else []
            return " | ".join(strings) if strings else "string"
        case "number" | "integer":
            return "number"
        case "boolean":
            return "boolean"
        case "array":
            return f"{typescript_type(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
        case _:
            return "any"


def _object_type(schema: Mapping[str, Any], indent: str) -> str:
    out: list[str] = []
    if isinstance(description := _get(schema, "description"), str):
        out.append(f"{indent}// {description}\n")
    out.append("{\n")
    properties = _get(schema, "properties")
    required = _get(schema, "required")
    needed = {key for key in required if isinstance(key, str)} if isinstance(required, list) else set()
    if isinstance(properties, Mapping):
        for key, value in properties.items():
            out.append(_property(f"{key}{'' if key in needed else '?'}:", value, indent))
    out.append(f"{indent}}}")
    return "".join(out)


def _property(label: str, schema: Any, indent: str) -> str:
    out: list[str] = []
    description = _get(schema, "description")
    has_variants = "oneOf" in schema if isinstance(schema, Mapping) else False
    if isinstance(title := _get(schema, "title"), str):
        out.append(f"{indent}// {title}\n{indent}//\n")
    if isinstance(description, str) and not has_variants:
        out.append(f"{indent}// {description}\n")
    examples = _get(schema, "examples")
    if isinstance(examples, list) and examples:
        out.append(f"{indent}// Examples:\n")
        out.extend(f'{indent}// - "{example}"\n' for example in examples if isinstance(example, str))
    variants = _get(schema, "oneOf")
    if isinstance(variants, list):
        out.append(_variants_property(label, schema, variants, indent))
    else:
        out.append(f"{indent}{label} {_nullable(schema, typescript_type(schema, indent + '    '))},")
        if not has_variants and "default" in _mapping(schema):
            out.append(f" // {_default(schema)}")
        out.append("\n")
    return "".join(out)


def _variants_property(label: str, schema: Any, variants: list[Any], indent: str) -> str:
    """A property of several alternative types: one line for each, and its notes behind it."""
    description = _get(schema, "description")
    text = description if isinstance(description, str) else None
    first = _get(variants[0], "description") if variants else None
    above = text is not None and text != first
    out: list[str] = []
    if above:
        out.append(f"{indent}// {text}\n")
    if "default" in _mapping(schema):
        out.append(f"{indent}// {_default(schema)}\n")
    out.append(f"{indent}{label}\n")
    for number, variant in enumerate(variants):
        notes: list[str] = []
        note = _get(variant, "description")
        if isinstance(note, str) and note != text and not (number == 0 and above):
            notes.append(note)
        if "default" in _mapping(variant):
            notes.append(_default(variant))
        out.append(f"{indent} | {_variant_type(variant, indent)}{_comment(notes)}\n")
    out.append(f"{indent},\n")
    return "".join(out)


def _root_variant_notes(variant: Any) -> list[str]:
    """Notes behind an alternative that does not stand directly in a property."""
    notes = [note] if isinstance(note := _get(variant, "description"), str) else []
    if "default" in _mapping(variant):
        default = variant["default"]
        plain = isinstance(default, str) and not _has_enum(variant)
        notes.append(f'default: "{default}"' if plain else f"default: {compact_json(default)}")
    return notes


def _variant_type(variant: Any, indent: str) -> str:
    return _nullable(variant, typescript_type(variant, indent + "   "))


def _nullable(schema: Any, type_text: str) -> str:
    return f"{type_text} | null" if _get(schema, "nullable") is True and "null" not in type_text else type_text


def _default(schema: Mapping[str, Any]) -> str:
    default = schema["default"]
    if not isinstance(default, str):
        return f"default: {compact_json(default)}"
    return f"default: {default}" if _has_enum(schema) else f'default: "{default}"'


def _comment(notes: list[str]) -> str:
    return f" // {' '.join(notes)}" if notes else ""


def _has_enum(schema: Any) -> bool:
    values = _get(schema, "enum")
    return isinstance(values, list) and bool(values)


def _mapping(schema: Any) -> Mapping[str, Any]:
    return schema if isinstance(schema, Mapping) else {}


def _get(schema: Any, key: str) -> Any:
    return _mapping(schema).get(key)


def compact_json(value: Any) -> str:
    """JSON without spaces, non-ASCII characters as they are, and numbers as Rust's serde_json writes them."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value) if -(2**63) <= value < 2**64 else _shortest_float(float(value))
    if isinstance(value, float):
        return _shortest_float(value)
    if isinstance(value, Mapping):
        members = (f"{json.dumps(str(key), ensure_ascii=False)}:{compact_json(item)}" for key, item in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(compact_json(item) for item in value) + "]"
    raise TypeError(f"{value!r} is no JSON value; expected what json.loads gives.")


def _shortest_float(value: float) -> str:
    """The shortest decimal that reads back as `value`; an exponent below 1e-5 and from 1e16 on.

    Source: the pretty format of the ryu crate.
    """
    if not math.isfinite(value):
        return "null"
    if value == 0:
        return "-0.0" if math.copysign(1.0, value) < 0 else "0.0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent_text = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent_text or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0") or "0"
    # `point` is where the decimal point stands, counted from the first digit: 0.d1d2... times 10**point.
    if len(digits) <= point <= 16:
        return f"{sign}{digits}{'0' * (point - len(digits))}.0"
    if 0 < point <= 16:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -5 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1}"
