"""Answers of a given form: with the pocket model at its wildest, and with scripted ones."""

import asyncio
import enum
import json
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel, field_validator

from gptoss_mlx import GptOss, UsageError, make_tool
from gptoss_mlx.chat import Chat
from gptoss_mlx.engine import Engine
from gptoss_mlx.structured import CLOSING_TOKENS
from gptoss_mlx.tokenizer import Tokenizer
from tests.scripted import ScriptedHost, as_model, scripted_model
from tests.structured.schema_run import all_schemas, fault_of

WILD: dict[str, Any] = {"temperature": 2.0, "max_reasoning_tokens": 8, "max_tokens": 60}
ASKED = "What is 17 plus 25?"


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Sum:
    """A sum and its parts."""

    a: int
    b: int
    color: Color = Color.RED


class Parts(TypedDict):
    a: int
    b: int


class Model(BaseModel):
    a: int
    name: str | None


@pytest.mark.parametrize("form", [Sum, Parts, Model])
def test_an_answer_is_an_instance_of_the_class_that_was_asked_for(pocket: GptOss, form: type):
    for seed in range(2):
        reply = pocket.ask(ASKED, schema=form, seed=seed, **WILD)
        assert type(reply.parsed) is (dict if form is Parts else form), reply.text
        assert set(json.loads(reply.text)) <= {"a", "b", "color", "name"}
        json.dumps(reply.to_dict())


def test_the_reasoning_stays_free_and_the_answer_fits(pocket: GptOss):
    free = pocket.ask(ASKED, temperature=0, effort="high")
    bound = pocket.ask(ASKED, temperature=0, effort="high", regex="[0-9]{2}")
    assert bound.reasoning
    assert bound.parsed == bound.text
    assert (len(bound.text), bound.text.isdigit(), bound.finish_reason) == (2, True, "stop")
    assert not bound.warnings
    assert free.text != bound.text


def test_a_choice_is_one_of_the_choices(pocket: GptOss):
    choices = ["red wine", 'a "quoted" one', "rötlich", "re"]
    seen = {pocket.ask("?", choices=choices, seed=seed, effort="none", temperature=2.0).parsed for seed in range(6)}
    assert seen <= set(choices)
    assert len(seen) > 1


def test_the_model_is_told_the_form_at_the_end_of_the_developers_message(pocket: GptOss):
    schema = {"title": "Two Numbers", "description": "What was\nadded.", "type": "object", "properties": {"a": {}}}
    told = pocket.render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}], schema=schema)
    developer = told[told.index("<|start|>developer") : told.index("<|start|>user")]
    assert developer == (
        "<|start|>developer<|message|># Instructions\n\nBe brief.\n\n# Response Formats\n\n## Two_Numbers\n\n"
        f"// What was\n// added.\n{json.dumps(schema)}<|end|>"
    )
    wrapped = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": {"type": "object"}}}
    assert '## numbers\n\n{"type": "object"}<|end|>' in pocket.render("hi", schema=wrapped)
    assert '"a"\n"b"<|end|>' in pocket.render("hi", choices=["a", "b"])


def test_tools_and_a_form_stand_in_one_developers_message(pocket: GptOss):
    def add(a: int, b: int) -> int:
        return a + b

    text = pocket.render("hi", tools=[add], schema=Parts)
    assert text.count("<|start|>developer") == 1
    assert text.index("# Tools") < text.index("# Response Formats")


@pytest.mark.parametrize("max_tokens", [1, 4, 9, 20])
def test_an_answer_that_meets_the_token_limit_is_brought_to_its_end(pocket: GptOss, max_tokens: int):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "list": {"type": "array", "items": {"type": "string"}}},
        "required": ["name", "list"],
        "additionalProperties": False,
    }
    for seed in range(2):
        reply = pocket.ask(ASKED, schema=schema, effort="none", temperature=2, seed=seed, max_tokens=max_tokens)
        assert set(reply.parsed) == {"name", "list"}
        assert reply.finish_reason == "length"
        assert reply.stats.generated_tokens <= max_tokens + CLOSING_TOKENS


def test_an_answer_that_would_fill_the_context_is_brought_to_its_end_before_it(pocket_tokenizer: Tokenizer):
    chat = scripted(pocket_tokenizer, "word " * 400, context_limit=330)
    reply = chat.send("hi", schema={"type": "string"}, effort="none")
    assert (reply.finish_reason, type(reply.parsed)) == ("context", str)
    assert reply.stats.prompt_tokens + reply.stats.generated_tokens <= 330


def test_a_limit_within_the_reasoning_leaves_nothing_to_parse(pocket: GptOss):
    reply = pocket.ask(ASKED, schema=Parts, effort="high", temperature=0, max_tokens=5)
    assert (reply.parsed, reply.text, reply.finish_reason) == (None, "", "length")


def test_a_stopped_answer_is_not_parsed(pocket: GptOss):
    stream = pocket.stream(ASKED, schema={"type": "string", "minLength": 3000}, effort="none", temperature=2)
    for _ in zip(stream, range(3), strict=False):
        pass
    stream.cancel()
    assert (stream.reply.parsed, stream.reply.finish_reason) == (None, "cancelled")


def scripted(tokenizer: Tokenizer, *texts: str, context_limit: int = 4096, runs_apart: bool = True) -> Chat:
    model = scripted_model(tokenizer, *texts)
    model.runs_apart = runs_apart
    host = ScriptedHost(Engine(lambda: as_model(model)), tokenizer, context_limit)
    return Chat(host, defaults={"temperature": 0.0})


@pytest.mark.parametrize("runs_apart", [True, False])
@pytest.mark.parametrize("header", ["<|channel|>final<|message|>", "<|channel|>final <|constrain|>json<|message|>"])
def test_what_fits_is_said_as_the_model_says_it(pocket_tokenizer: Tokenizer, header: str, runs_apart: bool):
    text = '{"a": 1,\n  "b": 2}'
    script = f"<|channel|>analysis<|message|>So {{.<|end|><|start|>assistant{header}{text}<|return|>"
    chat = scripted(pocket_tokenizer, script, runs_apart=runs_apart)
    reply = chat.send("hi", schema=Parts)
    assert (reply.raw, reply.text, reply.parsed) == (script, text, {"a": 1, "b": 2})
    assert (reply.reasoning, reply.finish_reason) == ("So {.", "stop")


@pytest.mark.parametrize(
    "script",
    [
        "<|channel|>analysis<|message|>Done.<|return|>",
        "<|return|>",
        "hello<|return|>",
        "<|channel|>final json{}<|return|>",
        "<|channel|>commentary<|message|>Well.<|end|>",
        "<|channel|>analysis<|message|>Done.<|channel|>final<|message|>{}",
    ],
)
def test_a_model_that_would_end_without_an_answer_is_led_into_one(pocket_tokenizer: Tokenizer, script: str):
    chat = scripted(pocket_tokenizer, script)
    reply = chat.send("hi", choices=["yes", "no"], max_tokens=60, max_reasoning_tokens=20)
    assert reply.parsed in ("yes", "no")
    assert not reply.warnings


def test_answer_now_closes_the_reasoning_and_the_answer_still_fits(pocket_tokenizer: Tokenizer):
    stream = scripted(pocket_tokenizer, "<|channel|>analysis<|message|>Hmm").stream("hi", choices=["yes", "no"])
    stream.answer_now()
    assert stream.reply.parsed in ("yes", "no")
    assert stream.reply.reasoning_truncated


def test_an_answer_that_was_cut_goes_on_within_its_form(pocket: GptOss):
    chat = pocket.chat(schema={"type": "string", "minLength": 40}, effort="none", temperature=2.0, seed=3)
    stream = chat.stream("hi")
    for _ in zip(stream, range(4), strict=False):
        pass
    stream.cancel()
    begun = stream.reply.text
    reply = chat.continue_answer(max_tokens=40)
    assert reply.text.startswith(begun)
    assert len(reply.parsed) >= 40


def test_what_only_the_type_refuses_is_a_warning(pocket_tokenizer: Tokenizer):
    class Even(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def even(cls, value: int) -> int:
            if value % 2:
                raise ValueError("odd")
            return value

    reply = scripted(pocket_tokenizer, '{"n":3}<|return|>').send("hi", schema=Even, effort="none")
    assert (reply.parsed, reply.text) == (None, '{"n":3}')
    assert "its type refuses it" in reply.warnings[0].message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schema": {"type": "thing"}}, "schema is no JSON schema"),
        ({"schema": {"not": {"type": "string"}}}, "schema cannot be enforced while the model writes"),
        ({"schema": {"type": "array", "uniqueItems": True}}, "cannot be enforced"),
        ({"regex": "(unclosed"}, "the regular expression '.unclosed' cannot be enforced"),
        ({"choices": []}, "expected a list of texts"),
        ({"choices": "ab"}, "expected a list of texts"),
        ({"regex": "a", "choices": ["a"]}, "regex and choices are given; expected one of them"),
        ({"schema": {}, "stop": "x"}, "the form ends the answer"),
        ({"schema": int.__add__}, "JSON cannot express"),
    ],
)
def test_a_form_that_cannot_be_held_is_one_clear_sentence(pocket: GptOss, options: Any, message: str):
    with pytest.raises(UsageError, match=message):
        pocket.stream("hi", **options)


def test_asyncio_gets_parsed_answers_too(pocket: GptOss):
    assert asyncio.run(pocket.aask("Which?", choices=["yes", "no"], **WILD)).parsed in ("yes", "no")


# Calls


def test_arguments_of_a_strict_tool_fit_its_schema(pocket: GptOss):
    seen: list[tuple[str, int]] = []

    def paint(color: Color, coats: int = 1) -> str:
        """Paints the room."""
        seen.append((color.value, coats))
        return "done"

    for seed in range(2):
        reply = pocket.ask(
            "Paint!", tools=[make_tool(paint, strict=True)], tool_choice="paint", seed=seed, temperature=2.0,
            max_reasoning_tokens=5, max_tokens=80,
        )  # fmt: skip
        called = [call for call in reply.tool_calls if call.name == "functions.paint"]
        assert called
        assert not reply.tool_results[0].failed
    assert len(seen) >= 2
    assert {color for color, _ in seen} <= {"red", "blue"}


@pytest.mark.parametrize("effort", ["high", "none"])
@pytest.mark.parametrize("choice", ["required", "get_time", "functions.get_time"])
def test_a_call_that_is_demanded_is_made_and_then_the_model_is_free(pocket: GptOss, choice: str, effort: Any):
    def get_time(city: str) -> str:
        """The time in a city."""
        return "12:30"

    def get_weather(city: str) -> str:
        """The weather in a city."""
        return "sunny, 20 degrees"

    tools = [get_weather, get_time]
    asked = "What is 17 plus 25?"
    reply = pocket.ask(asked, tools=tools, tool_choice=choice, effort=effort, temperature=0, max_tokens=60)
    assert reply.tool_calls
    assert bool(reply.reasoning) or effort == "none"
    if choice != "required":
        assert reply.tool_calls[0].name == "functions.get_time"
    assert reply.rounds >= 2


def test_a_demanded_call_survives_a_budget_for_the_reasoning(pocket: GptOss):
    def get_time(city: str) -> str:
        return "12:30"

    reply = pocket.ask(
        "Who are you?", tools=[get_time], tool_choice="required", max_reasoning_tokens=0, temperature=0, max_tokens=60
    )
    assert [call.name for call in reply.tool_calls][:1] == ["functions.get_time"]


def test_a_tool_runs_and_the_answer_after_it_fits_its_form(pocket: GptOss):
    def calculator(expression: str) -> str:
        """Evaluates an arithmetic expression.

        Args:
            expression: For example 2+3
        """
        return "391"

    reply = pocket.ask(
        "What is 17 times 23?", tools=[calculator], regex="[0-9]{3}", temperature=0, effort="high", max_tokens=200
    )
    assert [result.content for result in reply.tool_results] == ["391"]
    assert reply.parsed == reply.text
    assert len(reply.text) == 3


# Many schemas


@pytest.mark.parametrize("part", range(2))
def test_a_sample_of_schemas_is_answered_as_an_independent_validator_wants_it(pocket: GptOss, part: int):
    schemas = list(all_schemas().items())[part * 7 :: 40]
    faults = {name: fault_of(pocket, schema, seed=part) for name, schema in schemas}
    assert {name: fault for name, fault in faults.items() if fault} == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_300_schemas_are_answered_at_temperature_2_as_an_independent_validator_wants_it(pocket: GptOss):
    schemas = all_schemas()
    assert len(schemas) >= 300
    faults = {name: fault_of(pocket, schema, seed=number) for number, (name, schema) in enumerate(schemas.items())}
    assert {name: fault for name, fault in faults.items() if fault} == {}
