"""Tools from Python functions: what the model is told of them, and what they are called with."""

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import BaseModel, Field

from gptoss_mlx import Tool, UsageError, make_tool
from gptoss_mlx.harmony.messages import ToolNamespace
from gptoss_mlx.harmony.system_text import tools_text
from gptoss_mlx.tools import ArgumentError, read_call_arguments


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


@dataclass
class Place:
    """A place."""

    city: str
    country: str | None = None


class Stay(TypedDict):
    place: Place
    nights: int


class Guest(BaseModel):
    name: str
    age: int = Field(ge=0, description="In years")


def weather(
    place: Place,
    unit: Unit = Unit.CELSIUS,
    days: Annotated[int, "How many days ahead"] = 1,
    detail: Literal["short", "long"] = "short",
) -> str:
    """Gets the weather.

    Not the climate.

    Args:
        place: Where to look
            for it.
        unit: Of the temperature.

    Returns:
        A text.
    """
    return f"{place.city} {unit.name} {days} {detail}"


TOLD = """\
# Tools

## functions

namespace functions {

// Gets the weather.
// Not the climate.
type weather = (_: {
// Where to look for it.
place:     // Where to look for it.
{
    city: string,
    country?: string | null, // default: null
    },
// Of the temperature.
unit?: "celsius" | "fahrenheit", // default: celsius
// How many days ahead
days?: number, // default: 1
detail?: "short" | "long", // default: short
}) => any;

} // namespace functions"""


def test_the_model_is_told_types_descriptions_and_defaults():
    assert tools_text([ToolNamespace.functions([make_tool(weather)])]) == TOLD


def test_a_function_gets_values_of_the_types_that_it_asks_for():
    tool = make_tool(weather)
    raw = '{"place": {"city": "Rome"}, "unit": "fahrenheit", "detail": "long"}'
    arguments = read_call_arguments(raw, tool)
    assert arguments == {"place": Place("Rome"), "unit": Unit.FAHRENHEIT, "detail": "long"}
    assert tool.function(**arguments) == "Rome FAHRENHEIT 1 long"


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (int | None, {"type": ["integer", "null"]}),
        (int | str | None, {"type": ["integer", "string", "null"]}),
        (int | float, {"type": ["integer", "number"]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (Literal["a"], {"type": "string", "enum": ["a"]}),
        (Literal[1, 2], {"type": "integer", "enum": [1, 2]}),
        (None, {"type": "null"}),
        (Any, {}),
        (Unit | None, {"oneOf": [{"type": "string", "enum": ["celsius", "fahrenheit"]}, {"type": "null"}]}),
        (list[Unit], {"type": "array", "items": {"type": "string", "enum": ["celsius", "fahrenheit"]}}),
    ],
)
def test_a_type_becomes_a_schema_that_harmony_can_show(hint: Any, schema: dict[str, Any]):
    def tool(x: Any) -> None: ...

    tool.__annotations__["x"] = hint
    parameters = make_tool(tool).parameters
    assert parameters == {
        "type": "object",
        "properties": {"x": schema},
        "required": ["x"],
        "additionalProperties": False,
    }


def test_typed_dicts_and_models_are_put_in_place_and_read():
    def book(stay: Stay, guests: list[Guest]) -> None: ...

    tool = make_tool(book)
    assert tool.parameters is not None
    assert "$ref" not in str(tool.parameters)
    guests = tool.parameters["properties"]["guests"]["items"]["properties"]
    assert guests["age"] == {"type": "integer", "minimum": 0, "description": "In years"}
    arguments = read_call_arguments(
        '{"stay": {"place": {"city": "Rome"}, "nights": 2}, "guests": [{"name": "Ada", "age": 36}]}', tool
    )
    assert arguments == {"stay": {"place": Place("Rome"), "nights": 2}, "guests": [Guest(name="Ada", age=36)]}


@dataclass
class Tree:
    value: int
    children: "list[Tree]"


def test_a_type_that_contains_itself_keeps_its_definition():
    def plant(tree: Tree) -> None: ...

    tool = make_tool(plant)
    assert tool.parameters is not None
    assert "Tree" in tool.parameters["$defs"]
    raw = '{"tree": {"value": 1, "children": [{"value": 2, "children": []}]}}'
    assert read_call_arguments(raw, tool) == {"tree": Tree(1, [Tree(2, [])])}


def test_a_function_without_parameters_takes_none():
    def now() -> str:
        """The time."""
        return "noon"

    tool = make_tool(now)
    assert (tool.name, tool.description, tool.parameters) == ("now", "The time.", None)
    assert read_call_arguments("", tool) == read_call_arguments("{}", tool) == {}
    with pytest.raises(ArgumentError, match="zone: there is no such parameter"):
        read_call_arguments('{"zone": "CET"}', tool)


def test_methods_partials_and_callable_objects_are_functions_too():
    class Scale:
        def weigh(self, grams: int) -> int:
            return grams

        def __call__(self, grams: int) -> int:
            return grams

    def add(a: int, b: int) -> int:
        return a + b

    assert make_tool(Scale().weigh).parameters == make_tool(Scale(), name="scale").parameters
    assert make_tool(Scale()).name == "Scale"
    partial = make_tool(functools.partial(add, b=2))
    assert partial.name == "add"
    assert read_call_arguments('{"a": 1}', partial) == {"a": 1}


def test_a_function_without_a_usable_name_needs_one():
    with pytest.raises(UsageError, match="has the name '<lambda>'; give the tool one"):
        make_tool(lambda x: x)
    assert make_tool(lambda x: x, name="same").name == "same"


def test_what_cannot_be_passed_by_name_or_said_in_json_is_refused():
    def many(*values: int) -> None: ...

    def odd(value: Callable[[], int]) -> None: ...

    def foreign(value: "Unheard") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    for function, message in ((many, "by name"), (odd, "JSON cannot express"), (foreign, "cannot be read")):
        with pytest.raises(UsageError, match=message):
            make_tool(function)


def test_a_json_schema_beside_a_function_is_checked_and_passed_as_it_is():
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 2}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = Tool("forecast", "The weather.", schema, function=lambda **arguments: arguments)
    assert read_call_arguments('{"city": "Rome", "days": 2}', tool) == {"city": "Rome", "days": 2}
    for raw, fault in (
        ('{"days": 2}', "'city' is a required property"),
        ('{"city": "R"}', "city: 'R' is too short"),
        ('{"city": "Rome", "days": "two"}', "days: 'two' is not of type 'integer'"),
        ('{"city": "Rome", "x": 1}', "'x' was unexpected"),
    ):
        with pytest.raises(ArgumentError, match=fault):
            read_call_arguments(raw, tool)


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "object", "properties": {"a": {"type": "thing"}}}])
def test_a_schema_that_is_none_of_an_object_is_refused(schema: dict[str, Any]):
    with pytest.raises(UsageError, match=r"of type object|is no JSON schema"):
        Tool("f", "", schema, function=print)


@pytest.mark.parametrize("name", ["", "a b", "a<|end|>", "9to5", "functions.f", "ü", "x" * 65])
def test_a_name_that_would_break_a_header_is_refused(name: str):
    with pytest.raises(UsageError, match="cannot name a tool"):
        Tool(name, "", function=print)


def shell(command: str) -> str:
    return command


@pytest.mark.parametrize(
    ("raw", "command"),
    [
        ('{"command": "ls -R"}', "ls -R"),
        ('"{\\"command\\": \\"ls -R\\"}"', "ls -R"),
        (' {"command":"ls -R"}\n', "ls -R"),
        ("ls -R", "ls -R"),
        ('"ls -R"', "ls -R"),
    ],
)
def test_arguments_are_read_kindly(raw: str, command: str):
    assert read_call_arguments(raw, make_tool(shell)) == {"command": command}


@pytest.mark.parametrize("raw", ['{"command": "ls', "[1]", "{]", '{"command": 1}', '{"command": null}'])
def test_arguments_that_do_not_fit_are_an_error(raw: str):
    with pytest.raises(ArgumentError):
        read_call_arguments(raw, make_tool(shell))
