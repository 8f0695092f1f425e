"""From what the model wrote between `<|message|>` and `<|call|>` to the arguments of a function.

Read kindly (JSON in a JSON string, one bare text for the only parameter that takes text, nothing for no arguments),
checked strictly: a function gets what its schema promises, or is not called.
"""

import json
from collections.abc import Mapping
from typing import Any

from gptoss_mlx.json_schema import schema_faults
from gptoss_mlx.tools.tool import Tool


class ArgumentError(ValueError):
    """The arguments do not fit; the text tells the model what is wrong."""


def read_call_arguments(raw: str, tool: Tool) -> dict[str, Any]:
    """The keyword arguments for `tool.function`. Raises ArgumentError."""
    if tool.read is not None:
        return tool.read(raw)
    arguments = _read_object(raw, tool)
    if tool.readers is None:
        if faults := schema_faults(arguments, tool.parameters or {"type": "object", "maxProperties": 0}):
            raise ArgumentError("; ".join(faults))
        return arguments
    return _convert(arguments, tool)


def _read_object(raw: str, tool: Tool) -> dict[str, Any]:
    text = raw.strip()
    if not text:
        return {}
    try:
        value = json.loads(text)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = json.loads(value)
    except (ValueError, RecursionError) as error:
        parameter = _only_text_parameter(tool)
        if parameter is not None and text[0] not in '{["':
            return {parameter: raw}
        raise ArgumentError(f"they are no JSON ({error})") from error
    if isinstance(value, dict):
        return value
    parameter = _only_text_parameter(tool)
    if isinstance(value, str) and parameter is not None:
        return {parameter: value}
    raise ArgumentError("they are no JSON object")


def _only_text_parameter(tool: Tool) -> str | None:
    """The parameter that one bare text can only be meant for."""
    properties = (tool.parameters or {}).get("properties")
    if not isinstance(properties, Mapping) or len(properties) != 1:
        return None
    name, schema = next(iter(properties.items()))
    return name if isinstance(schema, Mapping) and schema.get("type") == "string" else None


def _convert(arguments: dict[str, Any], tool: Tool) -> dict[str, Any]:
    from pydantic import ValidationError

    readers = tool.readers or {}
    faults = [f"{name}: there is no such parameter" for name in arguments if name not in readers]
    required = (tool.parameters or {}).get("required", ())
    faults += [f"{name}: missing" for name in required if name not in arguments]
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in readers:
            try:
                values[name] = readers[name](value)
            except ValidationError as error:
                faults += [
                    f"{'.'.join(map(str, (name, *each['loc'])))}: {each['msg']}"
                    for each in error.errors(include_url=False, include_context=False)
                ]
    if faults:
        raise ArgumentError("; ".join(faults))
    return values
