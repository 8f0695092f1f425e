"""What a Python function says of itself: what it does, and its parameters as a JSON schema."""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from gptoss_mlx.errors import UsageError
from gptoss_mlx.json_schema import type_reader, type_schema


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's face towards the model."""

    description: str
    """Its docstring without the parts on parameters, results and exceptions."""
    parameters: dict[str, Any] | None
    """JSON schema of its arguments; None if it takes none."""
    readers: Mapping[str, Callable[[Any], Any]]
    """Parameter -> what makes its value out of JSON; raises pydantic's ValidationError."""


def read_signature(function: Callable[..., Any], name: str) -> Signature:
    """The face of `function`, which is to be called `name`.

    Raises UsageError for parameters that cannot be passed by name and for types that JSON cannot express.
    """
    import docstring_parser

    document = docstring_parser.parse(inspect.getdoc(function) or "")
    told = {each.arg_name: " ".join((each.description or "").split()) for each in document.params}
    hints = _type_hints(function, name)
    properties: dict[str, Any] = {}
    required: list[str] = []
    readers: dict[str, Callable[[Any], Any]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UsageError(
                f"tool {name!r} takes {str(parameter)!r}; expected parameters that can be passed by name, since the "
                "model names its arguments"
            )
        hint = hints.get(parameter.name, Any)
        schema = type_schema(hint, f"parameter {parameter.name!r} of tool {name!r}")
        description = _annotated_text(hint) or told.get(parameter.name)
        if description:
            schema = {**schema, "description": description}
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif parameter.default is not None:
            schema = _with_default(schema, parameter.default)
        properties[parameter.name] = schema
        readers[parameter.name] = type_reader(hint)
    parameters: dict[str, Any] | None = None
    if properties:
        parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        if any("$defs" in each for each in properties.values()):
            parameters["$defs"] = {}
            for each in properties.values():
                parameters["$defs"].update(each.pop("$defs", {}))
    said = (document.short_description, document.long_description)
    return Signature("\n".join(part for part in said if part), parameters, readers)


def _type_hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    described = function if inspect.isroutine(function) else getattr(function, "func", type(function).__call__)
    try:
        return typing.get_type_hints(described, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(
            f"the type hints of tool {name!r} cannot be read ({error}); expected types that are known where the "
            "function is defined, at the top of its module"
        ) from error


def _annotated_text(hint: Any) -> str | None:
    """The text in `Annotated[int, "how many"]`."""
    if get_origin(hint) is not Annotated:
        return None
    return next((extra for extra in get_args(hint)[1:] if isinstance(extra, str)), None)


def _with_default(schema: dict[str, Any], default: Any) -> dict[str, Any]:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        return {**schema, "default": to_jsonable_python(default)}
    except PydanticSerializationError:
        # A default that JSON cannot express need not be told: the parameter is optional all the same.
        return schema
