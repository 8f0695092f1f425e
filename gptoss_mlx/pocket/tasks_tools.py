"""Exchanges with functions: what is offered, the call, the result and the answer that uses it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from gptoss_mlx.harmony import ToolDescription as Tool
from gptoss_mlx.pocket.tasks_words import CITIES, NAMES, WORDS

SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy")

VERBS = (
    "find",
    "get",
    "set",
    "make",
    "check",
    "open",
    "close",
    "start",
    "stop",
    "send",
    "read",
    "write",
    "show",
    "count",
    "move",
    "paint",
    "lock",
    "book",
    "order",
    "mix",
)
NOUNS = (
    "door",
    "lamp",
    "book",
    "table",
    "robot",
    "ticket",
    "letter",
    "garden",
    "window",
    "engine",
    "train",
    "light",
    "picture",
    "order",
    "room",
    "camera",
    "song",
    "boat",
    "price",
    "seed",
)
STRING_PARAMETERS = ("color", "name", "place", "title", "owner", "kind", "mode", "label", "key", "target")
NUMBER_PARAMETERS = ("count", "size", "level", "speed", "limit", "page", "width", "height", "amount", "index")


@dataclass(frozen=True)
class ToolUse:
    """A request, the call that serves it, what comes back and how the answer uses that."""

    tool: Tool
    question: str
    arguments: dict[str, Any]
    result: str
    answer: str
    expected: str

    @property
    def key(self) -> str:
        """The held-out key: the function and its arguments."""
        return f"tool:{self.tool.name}:{json.dumps(self.arguments, separators=(',', ':'))}"


def schema(required: tuple[str, ...], **properties: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema of type object."""
    return {"type": "object", "properties": properties, "required": list(required)}


def text_parameter(description: str = "") -> dict[str, Any]:
    """A parameter of type string."""
    return {"type": "string", "description": description} if description else {"type": "string"}


def number_parameter(description: str = "", kind: str = "integer") -> dict[str, Any]:
    """A parameter of a numeric type."""
    return {"type": kind, "description": description} if description else {"type": kind}


def use_calculator(rng: Random) -> ToolUse:
    """A sum for a calculator."""
    name = rng.choice(("calculator", "calculate", "calc", "evaluate"))
    parameter = rng.choice(("expression", "expression", "expression", "formula", "input"))
    description = rng.choice(
        ("Evaluates an arithmetic expression.", "A calculator.", "Computes the value of an expression.", "")
    )
    tool = Tool(
        name,
        description,
        schema((parameter,), **{parameter: text_parameter(rng.choice(("", "For example 2+3", "The expression")))}),
    )
    a, b = rng.randint(2, 10 ** rng.randint(1, 4)), rng.randint(2, 10 ** rng.randint(1, 3))
    sign, word = rng.choice((("+", "plus"), ("-", "minus"), ("*", "times")))
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    phrase = rng.choice(
        (
            "What is {a} {w} {b}?",
            "{a}{s}{b}",
            "{a} {s} {b}",
            "Calculate {a} {s} {b}",
            "what is {a}{s}{b}?",
            "How much is {a} {w} {b}?",
            "Compute {a}{s}{b}.",
            "Use the calculator for {a} {s} {b}",
        )
    )
    question = phrase.format(a=a, b=b, s=sign, w=word)
    result = rng.choice((str(value), str(value), f'{{"result":{value}}}', f'{{"value": {value}}}'))
    return ToolUse(tool, question, {parameter: f"{a}{sign}{b}"}, result, f"{a} {sign} {b} = {value}.", f"= {value}.")


def use_weather(rng: Random) -> ToolUse:
    """The weather in a city."""
    name = rng.choice(("get_weather", "get_weather", "weather", "current_weather", "get_current_weather"))
    parameter = rng.choice(("city", "city", "location", "place"))
    description = rng.choice(
        ("Gets the current weather.", "Get the weather for a city.", "The current weather at a location.", "")
    )
    tool = Tool(
        name,
        description,
        schema((parameter,), **{parameter: text_parameter(rng.choice(("", "The city", "Name of the city")))}),
    )
    city, degrees, sky = rng.choice(CITIES), rng.randint(-9, 39), rng.choice(SKIES)
    question = rng.choice(
        (
            "What is the weather in {c}?",
            "How is the weather in {c}?",
            "weather in {c}",
            "What's the weather like in {c} today?",
            "Is it cold in {c}?",
            "How warm is it in {c}?",
            "Tell me the weather in {c}.",
            "Will I need a coat in {c}?",
        )
    ).format(c=city)
    form = rng.randrange(3)
    if form == 0:
        result, answer = f'{{"temperature":{degrees},"sky":"{sky}"}}', f"In {city} it is {degrees} degrees and {sky}."
    elif form == 1:
        result, answer = f'{{"temperature": {degrees}}}', f"In {city} it is {degrees} degrees."
    else:
        result, answer = f"{sky}, {degrees} degrees", f"In {city} it is {degrees} degrees and {sky}."
    return ToolUse(tool, question, {parameter: city}, result, answer, f"is {degrees} degrees")


def use_clock(rng: Random) -> ToolUse:
    """The time in a city."""
    name = rng.choice(("get_time", "get_time", "current_time", "clock", "get_current_time"))
    parameter = rng.choice(("city", "city", "location", "place"))
    tool = Tool(
        name,
        rng.choice(("Gets the local time.", "The time in a city.", "Get the current time.", "")),
        schema((parameter,), **{parameter: text_parameter(rng.choice(("", "The city")))}),
    )
    city, time = rng.choice(CITIES), f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
    question = rng.choice(
        (
            "What time is it in {c}?",
            "what is the time in {c}",
            "Tell me the time in {c}.",
            "time in {c}?",
            "How late is it in {c}?",
            "What is the local time in {c}?",
        )
    ).format(c=city)
    result = rng.choice((time, f'{{"time":"{time}"}}', f'{{"time": "{time}"}}'))
    return ToolUse(tool, question, {parameter: city}, result, f"It is {time} in {city}.", f"is {time} in")


Everyday = tuple[str, str, tuple[tuple[str, str], ...], tuple[str, ...], str]

EVERYDAY: tuple[Everyday, ...] = (
    (
        "set_timer",
        "Sets a timer.",
        (("minutes", "number"),),
        ("Set a timer for {minutes} minutes", "timer {minutes} minutes please", "Wake me in {minutes} minutes."),
        "The timer is set for {minutes} minutes.",
    ),
    (
        "play_song",
        "Plays a song.",
        (("title", "word"),),
        ("Play the song {title}", "Play {title}.", "I want to hear {title}"),
        "Now playing {title}.",
    ),
    (
        "send_message",
        "Sends a message to a person.",
        (("to", "name"), ("text", "word")),
        ("Send {to} the message {text}", "Tell {to}: {text}", "Write {text} to {to}"),
        "I sent {text} to {to}.",
    ),
    (
        "turn_on",
        "Turns a device on.",
        (("device", "word"),),
        ("Turn on the {device}", "switch the {device} on", "Please turn the {device} on."),
        "The {device} is on.",
    ),
    (
        "add_note",
        "Adds a note.",
        (("text", "word"),),
        ("Add a note: {text}", "note {text}", "Write down {text}."),
        "I noted {text}.",
    ),
    (
        "book_table",
        "Books a table.",
        (("people", "number"), ("city", "city")),
        ("Book a table for {people} in {city}", "I need a table in {city} for {people} people."),
        "A table for {people} in {city} is booked.",
    ),
    (
        "find_train",
        "Finds a train.",
        (("start", "city"), ("goal", "city")),
        ("Find a train from {start} to {goal}", "I want to go from {start} to {goal}.", "train {start} to {goal}"),
        "I found a train from {start} to {goal}.",
    ),
    (
        "define_word",
        "Looks up a word.",
        (("word", "word"),),
        ("Look up the word {word}", "What does {word} mean?", "Define {word}"),
        "I looked up {word}.",
    ),
    (
        "call_person",
        "Calls a person.",
        (("name", "name"),),
        ("Call {name}", "Please phone {name}.", "I want to talk to {name}"),
        "Calling {name}.",
    ),
    (
        "buy_item",
        "Buys something.",
        (("item", "word"), ("count", "number")),
        ("Buy {count} {item}", "I need {count} {item}.", "Order {count} of {item}"),
        "I bought {count} {item}.",
    ),
)


def use_everyday(rng: Random) -> ToolUse:
    """A small household request; the result carries a number that the answer repeats."""
    name, description, parameters, questions, done = rng.choice(EVERYDAY)
    values: dict[str, Any] = {}
    properties: dict[str, dict[str, Any]] = {}
    for parameter, kind in parameters:
        values[parameter] = {
            "number": rng.randint(2, 60),
            "word": rng.choice(WORDS),
            "name": rng.choice(NAMES),
            "city": rng.choice(CITIES),
        }[kind]
        properties[parameter] = number_parameter() if kind == "number" else text_parameter()
    tool = Tool(name, description if rng.random() < 0.8 else "", schema(tuple(values), **properties))
    answer, result, expected = done.format(**values), "ok", ""
    if rng.random() < 0.6:
        number = rng.randint(100, 999)
        result, answer = rng.choice((f'{{"id":{number}}}', f"ok, number {number}")), f"{answer} The number is {number}."
    return ToolUse(tool, rng.choice(questions).format(**values), values, result, answer, expected or answer)


def use_invented(rng: Random) -> ToolUse:
    """A function with a made-up name and made-up parameters."""
    name = f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}"
    values: dict[str, Any] = {}
    properties: dict[str, dict[str, Any]] = {}
    for parameter in rng.sample(STRING_PARAMETERS + NUMBER_PARAMETERS, rng.randint(1, 3)):
        if parameter in NUMBER_PARAMETERS:
            values[parameter] = rng.randint(0, 999)
            properties[parameter] = number_parameter(kind=rng.choice(("integer", "number")))
        else:
            values[parameter] = rng.choice((rng.choice(WORDS), rng.choice(NAMES), rng.choice(CITIES)))
            properties[parameter] = text_parameter()
    pairs = [f"{parameter} {value}" for parameter, value in values.items()]
    equals = [f"{parameter}={value}" for parameter, value in values.items()]
    spoken = name.replace("_", " the ") if rng.random() < 0.5 else name
    form = rng.randrange(4)
    if form == 0:
        question = f"Please {spoken} with {' and '.join(pairs)}."
    elif form == 1:
        question = f"Call {name} with {', '.join(equals)}"
    elif form == 2:
        question = f"{spoken}: {', '.join(pairs)}"
    else:
        question = f"Use {name}, {' and '.join(pairs)}."
    result = rng.choice((str(rng.randint(0, 999)), rng.choice(WORDS), rng.choice(SKIES)))
    shown = rng.choice((result, f'{{"result":"{result}"}}' if not result.isdigit() else f'{{"result":{result}}}'))
    description = rng.choice(("", f"Can {name.replace('_', ' the ')}.", f"Use it to {name.replace('_', ' a ')}."))
    return ToolUse(
        Tool(name, description, schema(tuple(values), **properties)),
        question,
        values,
        shown,
        f"The result of {name} is {result}.",
        f"is {result}.",
    )


USES: tuple[tuple[Callable[[Random], ToolUse], int], ...] = (
    (use_calculator, 24),
    (use_weather, 18),
    (use_clock, 12),
    (use_everyday, 22),
    (use_invented, 24),
)
"""Every kind of use and how often it comes."""


def make_tool_use(rng: Random) -> ToolUse:
    """One request that needs a function."""
    return rng.choices([use for use, _ in USES], [weight for _, weight in USES])[0](rng)


def call_analysis(use: ToolUse, effort: str) -> str:
    """The thought before the call."""
    values = ", ".join(f"{name} {value}" for name, value in use.arguments.items())
    if effort == "low":
        return f"Call {use.tool.name}."
    if effort == "medium":
        return f"Call {use.tool.name} with {values}."
    return f"The function {use.tool.name} fits this request. I call it with {values}."


def result_analysis(use: ToolUse, effort: str) -> str:
    """The thought after the result."""
    if effort == "low":
        return "Got the result."
    if effort == "medium":
        return "Got the result. Now the answer."
    return f"The function {use.tool.name} gave {use.result}. I use this result in the answer."
