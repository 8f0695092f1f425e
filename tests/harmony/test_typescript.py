"""JSON schema as the TypeScript that the model reads, one rule each. The oracle test covers their mixtures."""

from typing import Any

import pytest

from gptoss_mlx.harmony.system_text import split_lines
from gptoss_mlx.harmony.typescript import compact_json, typescript_type


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "string"),
        ({"type": "string", "enum": ["a", 'say "b"', 3]}, '"a" | "say "b""'),
        ({"type": "string", "enum": [1]}, "string"),
        ({"type": "number"}, "number"),
        ({"type": "integer", "enum": [1, 2]}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({"type": "array"}, "Array<any>"),
        ({"type": "array", "items": {"type": "integer"}}, "number[]"),
        ({"type": "array", "items": {"type": "array"}}, "Array<any>[]"),
        ({"type": ["integer", "null"]}, "number | null"),
        ({"type": []}, "any"),
        ({"type": "null"}, "any"),
        ({"anyOf": [{"type": "string"}]}, "any"),
        ({"const": 3}, "any"),
        ({}, "any"),
        (True, "any"),
        ({"type": "object"}, "{\n}"),
        (
            {"oneOf": [{"type": "string"}, {"type": "number", "description": "n", "default": 1}]},
            "\n | string\n | number // n default: 1",
        ),
        ({"oneOf": [{"type": "string", "enum": ["a"], "default": "a"}]}, '\n | "a" // default: "a"'),
        ({"oneOf": [{"type": "string", "nullable": True, "default": "a"}]}, '\n | string | null // default: "a"'),
    ],
)
def test_each_kind_of_schema_has_its_type(schema: Any, expected: str) -> None:
    assert typescript_type(schema) == expected


def properties(**schemas: Any) -> str:
    return typescript_type({"type": "object", "properties": schemas, "required": ["must"]})


def test_properties_are_optional_unless_required() -> None:
    assert properties(must={"type": "string"}, may={"type": "number"}) == "{\nmust: string,\nmay?: number,\n}"


def test_a_property_has_its_notes_above_and_its_default_behind() -> None:
    schema = {"type": "string", "title": "T", "description": "d", "examples": ["x", 1], "default": 'a "b"'}
    assert properties(p=schema) == '{\n// T\n//\n// d\n// Examples:\n// - "x"\np?: string, // default: "a "b""\n}'


def test_the_default_of_an_enum_is_bare() -> None:
    assert properties(p={"type": "string", "enum": ["a"], "default": "a"}) == '{\np?: "a", // default: a\n}'


def test_a_default_of_null_is_printed() -> None:
    assert properties(p={"type": "string", "default": None}) == "{\np?: string, // default: null\n}"


def test_nullable_adds_null_once() -> None:
    assert properties(p={"type": "string", "nullable": True}) == "{\np?: string | null,\n}"
    assert properties(p={"type": ["string", "null"], "nullable": True}) == "{\np?: string | null,\n}"


def test_nested_objects_are_indented_and_described() -> None:
    inner = {"type": "object", "description": "inner", "properties": {"q": {"type": "boolean"}}}
    assert properties(p=inner) == "{\n// inner\np?:     // inner\n{\n    q?: boolean,\n    },\n}"


def test_alternatives_of_a_property_stand_on_lines_of_their_own() -> None:
    schema = {
        "description": "either",
        "default": 1,
        "oneOf": [{"type": "string", "description": "text"}, {"type": "number", "description": "either", "default": 2}],
    }
    assert properties(p=schema) == "{\n// either\n// default: 1\np?:\n | string\n | number // default: 2\n,\n}"


def test_a_description_that_the_first_alternative_repeats_is_printed_nowhere() -> None:
    schema = {"description": "same", "oneOf": [{"type": "string", "description": "same"}]}
    assert properties(p=schema) == "{\np?:\n | string\n,\n}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, "1.0"), (0.1, "0.1"), (-2.5, "-2.5"), (0.0, "0.0"), (-0.0, "-0.0"), (1e-5, "0.00001"),
        (1.5e-5, "0.000015"), (1e-6, "1e-6"), (1.25e-7, "1.25e-7"), (1e15, "1000000000000000.0"),
        (1e16, "1e16"), (1.5e16, "1.5e16"),
        (123456.75, "123456.75"), (1e22, "1e22"), (1.7976931348623157e308, "1.7976931348623157e308"),
        (5e-324, "5e-324"), (2**63, "9223372036854775808"), (2**64, "1.8446744073709552e19"),
        (-(2**63), "-9223372036854775808"),
        (float("inf"), "null"), (None, "null"), (True, "true"), ("ü\n\"\x01\x7f", '"ü\\n\\"\\u0001\x7f"'),
        ({"a": [1, {"b": None}], "ü": "x y"}, '{"a":[1,{"b":null}],"ü":"x y"}'), ([], "[]"), ({}, "{}"),
    ],
)  # fmt: skip
def test_json_is_written_as_serde_json_writes_it(value: Any, expected: str) -> None:
    assert compact_json(value) == expected


def test_a_value_that_json_does_not_have_is_an_error() -> None:
    with pytest.raises(TypeError, match="is no JSON value"):
        compact_json({"a": {1, 2}})


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\r\nb\r", ["a", "b\r"]),
        ("\n\n", ["", ""]),
        ("a\x0bb\u2028c\x85d", ["a\x0bb\u2028c\x85d"]),
    ],
)
def test_lines_end_at_line_feeds_only(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines
