"""Answers to many schemas, drawn wildly, and what an independent validator says of them."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from gptoss_mlx import GptOss, UsageError
from gptoss_mlx.structured import schema_grammar
from tests.structured.example_schemas import EXAMPLES, record

SUITE_FILE = Path(__file__).parent.parent / "data" / "json_schema_suite.json"
"""Schemas of the public JSON-Schema-Test-Suite; source and licence (MIT) stand in it."""
TOKENS = 24
"""After so many tokens an answer is brought to its end: at temperature 2 it seldom comes there by itself."""


def suite_schemas() -> dict[str, dict[str, Any]]:
    """The suite's schemas, each also as the property of an object where it does not refer to its own root."""
    schemas: dict[str, dict[str, Any]] = {}
    for group, description, schema in json.loads(SUITE_FILE.read_text())["schemas"]:
        name = f"{group}: {description}"
        schemas[name] = schema
        inner = {key: value for key, value in schema.items() if key != "$schema"}
        text = json.dumps(inner)
        if not any(word in text for word in ("$ref", "$defs", "$id", "$anchor")):
            schemas[f"{name}, as a property"] = record(value=inner)
    return schemas


def all_schemas() -> dict[str, dict[str, Any]]:
    """Every schema of the run."""
    return {**EXAMPLES, **{name: schema for name, schema in suite_schemas().items() if is_taken(schema)}}


def is_taken(schema: dict[str, Any]) -> bool:
    """Whether llguidance enforces it."""
    try:
        schema_grammar(schema, "schema")
    except UsageError:
        return False
    return True


def fault_of(model: GptOss, schema: dict[str, Any], seed: int) -> str | None:
    """What is wrong with an answer to `schema` at temperature 2, or None."""
    reply = model.ask("Tell me.", schema=schema, temperature=2.0, seed=seed, effort="none", max_tokens=TOKENS)
    if reply.finish_reason not in ("stop", "length"):
        return f"ended by {reply.finish_reason}"
    try:
        value = json.loads(reply.text)
    except ValueError as error:
        return f"no JSON ({error}): {reply.text!r}"
    if value != reply.parsed:
        return f"parsed {reply.parsed!r} from {reply.text!r}"
    checker = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return next((f"{error.message}: {reply.text!r}" for error in checker.iter_errors(value)), None)
