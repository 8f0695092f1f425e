"""Conversations of every kind, made from a seed, and their form for openai-harmony."""

import json
from random import Random
from typing import Any

from gptoss_mlx.harmony import (
    BROWSER,
    PYTHON,
    REASONING_EFFORTS,
    ROLES,
    ChannelConfig,
    Content,
    DeveloperContent,
    Message,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespace,
)

SPECIAL_TEXTS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>json", "<|return|>", "<|call|>")
WORDS = (
    "hello", "What", " is", " 2 + 2?", "\n", "\r\n", "\r", "\t", "  ", "\n\n\n", "1234567", "don't", "Straße", "naïve",
    "你好", "こんにちは", "مرحبا", "שלום", "👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "\u202f", "\u2028", "\u0085", "\x0b", "\x0c",
    "\x1c", "\u3000", "\ufeff", "{\"a\": 1}", "// no comment",
    "def f(x):\n    return x", "】", "†", "\u0000", "\U0001f600",
    "<|endoftext|>", "<|reserved_200013|>", "<|", "|>", *SPECIAL_TEXTS,
)  # fmt: skip
CHANNELS = (None, None, "analysis", "analysis", "commentary", "final", "final", "", "other", "über")
RECIPIENTS = (
    None,
    None,
    None,
    "all",
    "assistant",
    "user",
    "functions.get_weather",
    "browser.search",
    "python",
    "",
    "x y",
)
CONTENT_TYPES = (
    None, None, None, "json", "code", "<|constrain|>json", "<|constrain|>", "x<|constrain|>json", " <|constrain|>", "",
    "application/json",
)  # fmt: skip
NAMES = ("functions.get_weather", "browser.search", "python", "a", "ünï", "two words", "<|end|>", "")


def text(random: Random, longest: int = 8) -> str:
    return "".join(random.choice(WORDS) for _ in range(random.randrange(longest + 1)))


def json_value(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(9 if depth < 2 else 7)
    if kind == 0:
        return text(random, 3)
    if kind == 1:
        return random.choice((0, 1, -1, 10, -(2**63), 2**63, 2**64 - 1, 2**64, 10**25, -(10**20)))
    if kind == 2:
        return random.choice(
            (0.0, -0.0, 1.0, 0.1, -2.5, 1e-5, 1.5e-5, 1e-7, 1e15, 1e16, 1.5e16, 123456.75, 1e100, 1e-300)
        )
    if kind == 3:
        return random.random() < 0.5
    if kind == 4:
        return None
    if kind in (5, 6):
        return random.choice(("a", "b", 'quote " and \\', "tab\t\x7f\x01", "é"))
    if kind == 7:
        return [json_value(random, depth + 1) for _ in range(random.randrange(3))]
    return {text(random, 2): json_value(random, depth + 1) for _ in range(random.randrange(3))}


def schema(random: Random, depth: int = 0) -> Any:
    """A JSON schema, often sound and sometimes odd."""
    if random.random() < 0.03:
        return random.choice((True, None, "string", [], 3))
    out: dict[str, Any] = {}
    kinds = ["string", "string", "number", "integer", "boolean", "array", "null", "nonsense", None]
    if depth < 3:
        kinds += ["object"] * (6 if depth == 0 else 2)
    kind: Any = random.choice(kinds)
    if random.random() < 0.1:
        kind = random.choice((["integer", "null"], ["string", "number"], [], [1], ["object"]))
    if kind is not None:
        out["type"] = kind
    if random.random() < 0.12 and depth < 3:
        out["oneOf"] = random.choice(([], [schema(random, depth + 1) for _ in range(random.randrange(1, 4))], 3, None))
    if random.random() < 0.4:
        out["description"] = random.choice((text(random, 3), "a note", "a note", 7))
    if random.random() < 0.3:
        out["default"] = json_value(random)
    if random.random() < 0.2:
        out["title"] = random.choice((text(random, 2), "Title", 1))
    if random.random() < 0.2:
        out["examples"] = random.choice(([], ["hello", 3, 'x"y'], "none", [text(random, 2)]))
    if random.random() < 0.2:
        out["nullable"] = random.choice((True, True, False, "yes"))
    if random.random() < 0.25:
        out["enum"] = random.choice(([], ["a", "b"], ["a", 1, None], [1, 2], "a", ["null"]))
    if kind == "array" and random.random() < 0.8:
        out["items"] = schema(random, depth + 1)
    if kind == "object" and random.random() < 0.9:
        keys = [
            random.choice(("city", "unit", "a b", "", "größe", text(random, 1))) for _ in range(random.randrange(4))
        ]
        out["properties"] = {key: schema(random, depth + 1) for key in keys}
        if random.random() < 0.7:
            out["required"] = random.choice(([key for key in keys if random.random() < 0.5], [1], "city", []))
    return out


def parameters(random: Random) -> dict[str, Any] | None:
    if random.random() < 0.15:
        return None
    made = schema(random)
    while not isinstance(made, dict):
        made = schema(random)
    return made


def namespaces(random: Random) -> tuple[ToolNamespace, ...]:
    out: dict[str, ToolNamespace] = {}
    for _ in range(random.randrange(4)):
        if random.random() < 0.2:
            made = random.choice((BROWSER, PYTHON))
        else:
            made = ToolNamespace(
                random.choice(("functions", "functions", "browser", "Zeta", "a", "ß", "", "<|end|>")),
                random.choice((None, None, "", text(random), "first\nsecond\r\n\nlast\r")),
                tuple(
                    ToolDescription(random.choice(("f", "get_weather", "ü")), text(random), parameters(random))
                    for _ in range(random.randrange(4))
                ),
            )
        out[made.name] = made
    return tuple(out.values())


def content(random: Random, role: Role) -> Content:
    if role == "system" and random.random() < 0.8:
        channels = tuple(random.choice(("analysis", "commentary", "final", "é")) for _ in range(random.randrange(4)))
        return SystemContent(
            model_identity=random.choice((None, "", "You are a test.", text(random))),
            reasoning_effort=random.choice((None, *REASONING_EFFORTS)),
            conversation_start_date=random.choice((None, "2026-11-23", "", text(random, 2))),
            knowledge_cutoff=random.choice((None, "2024-06", "")),
            channel_config=random.choice((None, ChannelConfig(), ChannelConfig(channels, random.random() < 0.5))),
            tools=namespaces(random) if random.random() < 0.5 else (),
        )
    if role == "developer" and random.random() < 0.8:
        return DeveloperContent(random.choice((None, "", "Be kind.", text(random))), namespaces(random))
    return TextContent(text(random))


def message(random: Random) -> Message:
    role = random.choice((*ROLES, "assistant", "assistant", "user"))
    return Message(
        role,
        tuple(content(random, role) for _ in range(random.choice((0, 1, 1, 1, 1, 2, 3)))),
        name=random.choice(NAMES) if role == "tool" or random.random() < 0.1 else None,
        recipient=random.choice(RECIPIENTS),
        channel=random.choice(CHANNELS),
        content_type=random.choice(CONTENT_TYPES),
    )


def conversation(random: Random) -> list[Message]:
    return [message(random) for _ in range(random.randrange(7))]


def oracle_json(messages: list[Message]) -> str:
    """The conversation as openai-harmony reads it."""
    out: list[dict[str, Any]] = []
    for item in messages:
        data = item.to_dict()
        for part in data["content"]:
            if part.get("reasoning_effort"):
                part["reasoning_effort"] = part["reasoning_effort"].capitalize()
        out.append(data)
    return json.dumps({"messages": out})
