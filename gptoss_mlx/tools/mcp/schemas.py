"""A server's schema of arguments, made harmless: it stands in the developer message, and checks what the model writes.

What could break out of its line there is put into one line or taken out; what could make a check run for ever (regular
expressions), or ask the network (references to other documents), is not checked here: the server checks its arguments
itself.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.json_schema import SCHEMA_KEYS, SCHEMA_LISTS, SCHEMA_MAPS, check_schema, plain_schema

LONGEST_SCHEMA: Final = 20_000
"""Characters of a schema: they would be in every prompt."""

_WORDS: Final = ("title", "description", "$comment")
_PATTERNS: Final = ("pattern", "patternProperties")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


def tame_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema as it is shown and checked here; None where there are no arguments. Raises UsageError for one that
    cannot be used."""
    try:
        if len(json.dumps(schema)) > LONGEST_SCHEMA:
            raise UsageError(f"its schema is longer than {LONGEST_SCHEMA} characters")
        check_schema(schema, "its schema")
        plain = plain_schema(schema, closed=False)
        _check_references(plain)
        tame = _tame(plain)
        if len(json.dumps(tame)) > LONGEST_SCHEMA:
            raise UsageError(f"its schema is longer than {LONGEST_SCHEMA} characters with its references in place")
    except RecursionError as error:
        raise UsageError("its schema is nested too deeply") from error
    takes_none = tame.get("properties") == {} and not tame.get("additionalProperties") and not tame.get("required")
    return None if takes_none else tame


def _tame(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    tame: dict[str, Any] = {}
    for key, value in schema.items():
        if key in SCHEMA_MAPS and isinstance(value, Mapping):
            tame[key] = {_plain_key(name): _tame(part) for name, part in value.items()}
        elif key in SCHEMA_LISTS and isinstance(value, list):
            tame[key] = [_tame(part) for part in value]
        elif key in SCHEMA_KEYS:
            tame[key] = _tame(value)
        elif key in _WORDS:
            tame[key] = one_line(value) if isinstance(value, str) else value
        elif key == "examples" and isinstance(value, list):
            tame[key] = [one_line(each) if isinstance(each, str) else each for each in value]
        elif key not in ("default", "enum") or _is_one_line(value):
            tame[key] = value
    if any(key in schema for key in _PATTERNS):
        for key in (*_PATTERNS, *(("additionalProperties",) if "patternProperties" in schema else ())):
            tame.pop(key, None)
    return tame


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())


def _is_one_line(value: Any) -> bool:
    """Whether no text among these values begins a line of its own."""
    values = value if isinstance(value, list) else [value]
    return all(len(each.splitlines()) <= 1 and "\n" not in each for each in values if isinstance(each, str))


def _plain_key(name: str) -> str:
    if not name.isprintable():
        raise UsageError(f"its schema names the argument {name!r}; expected a name in one line")
    return name


def _check_references(schema: Mapping[str, Any]) -> None:
    """Raises UsageError for a reference that leads nowhere in the schema itself."""
    wanted = set(_references(schema))
    if not wanted:
        return
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resolver = Registry().with_resource("", DRAFT202012.create_resource(dict(schema))).resolver()
    for reference in wanted:
        try:
            if not reference.startswith("#"):
                raise UsageError(f"its schema refers to {reference!r}, which is outside of it")
            resolver.lookup(reference)
        except Unresolvable as error:
            raise UsageError(f"its schema refers to {reference!r}, which is not in it") from error


def _references(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [str(value[key]) for key in _REFERENCES if isinstance(value.get(key), str)]
        return own + [each for part in value.values() for each in _references(part)]
    if isinstance(value, list):
        return [each for part in value for each in _references(part)]
    return []
