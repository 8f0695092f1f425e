"""JSON schemas of Python types, in the form in which gpt-oss reads them; and what a value lacks to fit one.

pydantic knows the types and jsonschema the schemas; both are imported when they are needed. Pydantic's schemas are made
plain here: references are put in place, generated titles are dropped, and unions get the form that harmony can show
(`typescript_type` knows lists of types and `oneOf`; everything else reads `any`).
"""

import functools
import json
import operator
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union

from gptoss_mlx.errors import UsageError

_PLAIN_KEYS = {"type", "description"}
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords of a schema that hold schemas by name."""
SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
"""Those that hold a list of schemas."""
SCHEMA_KEYS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
"""Those that hold one."""

MOST_PARTS = 20_000
"""Parts of a schema whose references are put in place, at most: a few of them, each with two more, make millions."""


def type_schema(hint: Any, what: str) -> dict[str, Any]:
    """The JSON schema of the type `hint`: plain types, Literal, Enum, unions, dataclasses, TypedDicts, pydantic models.

    Raises UsageError, which calls it `what`, for a type that JSON cannot express.
    """
    from pydantic import PydanticUserError, TypeAdapter

    try:
        schema = TypeAdapter(_for_pydantic(hint)).json_schema()
    except (PydanticUserError, TypeError, NameError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{what} has the type {hint!r}, which JSON cannot express ({reason}); expected plain types, Literal, Enum, "
            "lists, dicts, dataclasses, TypedDicts or pydantic models"
        ) from error
    return plain_schema(schema)


def type_reader(hint: Any) -> Callable[[Any], Any]:
    """A function from JSON values to values of the type `hint`. It raises pydantic's ValidationError."""
    from pydantic import TypeAdapter

    return TypeAdapter(_for_pydantic(hint)).validate_python


def _for_pydantic(hint: Any) -> Any:
    """The same type with typing's TypedDicts as those of typing_extensions, which is what pydantic reads before
    Python 3.12."""
    if sys.version_info >= (3, 12):
        return hint
    if typing.is_typeddict(hint):
        import typing_extensions as extended

        fields = {
            name: (extended.Required if name in hint.__required_keys__ else extended.NotRequired)[_for_pydantic(each)]
            for name, each in typing.get_type_hints(hint, include_extras=True).items()
        }
        return extended.TypedDict(hint.__name__, fields)  # type: ignore[operator]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is None or origin is Literal:
        return hint
    if origin is Annotated:
        return Annotated[(_for_pydantic(parts[0]), *parts[1:])]
    known = [_for_pydantic(part) for part in parts]
    if origin is Union or origin is types.UnionType:
        return functools.reduce(operator.or_, known)
    return origin[tuple(known)]


def plain_schema(schema: Mapping[str, Any], *, closed: bool = True) -> dict[str, Any]:
    """The same schema without references (but recursive ones), without titles, its unions in harmony's form.

    closed: an object takes what it names and nothing else, where it says nothing of that. Raises UsageError for a
    schema that grows beyond `MOST_PARTS` parts.
    """
    definitions = dict(schema.get("$defs", {}))
    plainer = _Plainer(definitions, closed)
    plain: dict[str, Any] = plainer.plain({key: value for key, value in schema.items() if key != "$defs"}, ())
    if "#/$defs/" in json.dumps(plain):
        plain["$defs"] = {name: plainer.plain(each, (name,)) for name, each in definitions.items()}
    return plain


class _Plainer:
    """Makes the parts of one schema plain."""

    def __init__(self, definitions: Mapping[str, Any], closed: bool) -> None:
        self._definitions = definitions
        self._closed = closed
        self._parts = 0

    def plain(self, schema: Any, inside: tuple[str, ...]) -> Any:
        """`schema`, which stands in the definitions named by `inside`."""
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise UsageError(f"a schema has more than {MOST_PARTS} parts; expected a smaller one")
        if not isinstance(schema, Mapping):
            return schema
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            name = reference.removeprefix("#/$defs/")
            definition = self._definitions.get(name)
            if isinstance(definition, Mapping) and name not in inside:
                beside = {key: value for key, value in schema.items() if key != "$ref"}
                return self.plain({**definition, **beside}, (*inside, name))
        plain: dict[str, Any] = {}
        for key, value in schema.items():
            if key == "title":
                continue
            if key in SCHEMA_MAPS and isinstance(value, Mapping):
                plain[key] = {each: self.plain(part, inside) for each, part in value.items()}
            elif key in SCHEMA_LISTS and isinstance(value, list):
                plain[key] = [self.plain(part, inside) for part in value]
            elif key in SCHEMA_KEYS:
                plain[key] = self.plain(value, inside)
            else:
                plain[key] = value
        if isinstance(plain.get("const"), str) and plain.get("type") == "string":
            plain["enum"] = [plain.pop("const")]
        if self._closed and plain.get("type") == "object" and "properties" in plain:
            # What the type does not name is of no use to it.
            plain.setdefault("additionalProperties", False)
        return _plain_union(plain)


def _plain_union(schema: dict[str, Any]) -> dict[str, Any]:
    """A union of plain types as a list of types; of types that differ, as `oneOf`; any other as it is."""
    variants = schema.get("anyOf")
    if not isinstance(variants, list) or not all(isinstance(v, dict) for v in variants):
        return schema
    kinds = [v.get("type") for v in variants]
    if len(set(map(str, kinds))) != len(kinds) or not all(isinstance(kind, str) for kind in kinds):
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if all(set(v) <= _PLAIN_KEYS for v in variants):
        return {"type": kinds, **rest}
    if {"integer", "number"} <= set(kinds):
        return schema
    return {"oneOf": variants, **rest}


def schema_faults(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with `value` under `schema` (draft 2020-12 unless it names another), one line for each fault."""
    from jsonschema.validators import Draft202012Validator, validator_for

    validator = validator_for(schema, default=Draft202012Validator)(schema)
    return [
        f"{error.json_path.removeprefix('$').removeprefix('.') or 'the arguments'}: {error.message}"
        for error in sorted(validator.iter_errors(value), key=lambda error: error.json_path)
    ]


def check_schema(schema: Mapping[str, Any], what: str) -> None:
    """Raises UsageError, which calls it `what`, when `schema` is no JSON schema."""
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(dict(schema))
    except SchemaError as error:
        raise UsageError(f"{what} is no JSON schema: {error.message}; expected one of draft 2020-12") from error
