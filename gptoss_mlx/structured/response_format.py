"""The form of an answer: what the model is told of it, what it is held to, and what its text becomes.

Three kinds: a JSON schema (a dict, a pydantic model, a dataclass, a TypedDict), a regular expression, a list of texts
to choose from.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptoss_mlx.errors import UsageError
from gptoss_mlx.json_schema import check_schema, type_reader, type_schema
from gptoss_mlx.structured.grammar import choices_grammar, regex_grammar, schema_grammar


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What an answer has to look like."""

    told: str
    """The text below harmony's "# Response Formats"."""
    grammar: str
    """llguidance's grammar of the answers that fit."""
    is_json: bool
    reader: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)
    """From JSON values to the type that was asked for; None: they are the result."""

    def parse(self, text: str) -> Any:
        """The value of an answer that fits. Raises ValueError where the type asks for more than its schema says."""
        if not self.is_json:
            return text
        value = json.loads(text)
        return value if self.reader is None else self.reader(value)


def make_response_format(
    schema: Mapping[str, Any] | type | None = None, regex: str | None = None, choices: Sequence[str] | None = None
) -> ResponseFormat | None:
    """The form that the options ask for; None where they ask for none.

    Raises UsageError for more than one, and for what cannot be enforced token by token.
    """
    given = [name for name, value in (("schema", schema), ("regex", regex), ("choices", choices)) if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given; expected one of them")
    if regex is not None:
        told = f"## answer\n\n// The whole answer is one text that this regular expression matches.\n{regex}"
        return ResponseFormat(told, regex_grammar(regex), is_json=False)
    if choices is not None:
        return _choice(choices)
    if schema is None:
        return None
    if isinstance(schema, Mapping):
        return _from_schema(schema)
    read = type_schema(schema, "schema")
    return _format(getattr(schema, "__name__", "answer"), read, type_reader(schema))


def _choice(choices: Sequence[str]) -> ResponseFormat:
    if isinstance(choices, str) or not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise UsageError(f"choices is {choices!r}; expected a list of texts, none of them empty")
    listed = "\n".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    told = f"## answer\n\n// The whole answer is exactly one of these texts, without the quotes.\n{listed}"
    return ResponseFormat(told, choices_grammar(choices), is_json=False)


def _from_schema(schema: Mapping[str, Any]) -> ResponseFormat:
    """A JSON schema, also in OpenAI's wrapping: {"type": "json_schema", "json_schema": {"name", "schema"}}."""
    inner = schema.get("json_schema", schema)
    name = "answer"
    if isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
        name, schema = str(inner.get("name") or name), inner["schema"]
    elif isinstance(schema.get("title"), str):
        name = re.sub(r"\W+", "_", schema["title"]).strip("_") or name
    check_schema(schema, "schema")
    return _format(name, schema, None)


def _format(name: str, schema: Mapping[str, Any], reader: Callable[[Any], Any] | None) -> ResponseFormat:
    description = schema.get("description")
    lines = inspect.cleandoc(description).splitlines() if isinstance(description, str) else []
    comment = "".join(f"// {line}\n" for line in lines)
    shown = json.dumps({key: value for key, value in schema.items() if key != "x-guidance"}, ensure_ascii=False)
    return ResponseFormat(f"## {name}\n\n{comment}{shown}", schema_grammar(schema, "schema"), True, reader)
