"""Tools of several places in one turn: which one runs, who is asked, and what changes between turns."""

from collections.abc import Sequence
from typing import Any

import pytest

from gptoss_mlx import Tool
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import ToolCall
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import Namespace, ToolSource
from tests.scripted import scripted_chat
from tests.test_tool_loop import ANSWER, results

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def call(name: str) -> str:
    return f' to={name}<|channel|>commentary <|constrain|>json<|message|>{{"a": 1}}<|call|>'


class Shelf(ToolSource):
    """A source whose tools change."""

    def __init__(self, name: str, *tools: str, **settings: Any) -> None:
        self._name = name
        self.names = tools
        self._settings = settings

    @property
    def name(self) -> str:
        return self._name

    def offered_tools(self) -> Sequence[Tool]:
        return [
            Tool(
                name,
                "",
                SCHEMA,
                function=lambda a, name=name: f"{self.name} {name} {a}",
                namespace=Namespace(self.name),
                **self._settings,
            )
            for name in self.names
        ]


def test_the_tool_of_the_place_that_is_named_runs(pocket_tokenizer: Tokenizer):
    calls = [call(name) for name in ("north.add", "south.add", "functions.north.add", "sub", "add")]
    asked: list[str] = []

    def approve(call: ToolCall) -> bool:
        asked.append(call.name)
        return True

    chat = scripted_chat(
        pocket_tokenizer,
        *calls,
        ANSWER,
        tools=[Shelf("north", "add"), Shelf("south", "add", "sub", policy="ask")],
        approve=approve,
    )
    reply = chat.send("go")
    assert results(reply) == [
        "north add 1",
        "south add 1",
        "north add 1",
        "south sub 1",
        "Error: there is no tool add. The tools are: north.add, south.add, south.sub.",
    ]
    # Who decides sees which tool it is, and so does the transcript.
    assert asked == ["north.add", "south.add", "north.add", "south.sub"]
    assert [m.tool_name for m in chat.turns if m.tool_name] == [*asked, "add"]
    assert [m.name for m in chat.turns if m.role == "tool"] == [*asked, "add"]


def test_a_source_is_asked_at_each_turn_for_its_tools(pocket_tokenizer: Tokenizer):
    shelf = Shelf("north", "add")
    chat = scripted_chat(pocket_tokenizer, call("north.sub"), ANSWER, call("north.sub"), ANSWER, tools=[shelf])
    assert results(chat.send("go")) == ["Error: there is no tool north.sub. The tools are: north.add."]
    shelf.names = ("sub",)
    assert results(chat.send("go")) == ["north sub 1"]


def test_a_choice_may_name_a_tool_with_its_place(pocket_tokenizer: Tokenizer):
    tools = [Shelf("north", "add"), Shelf("south", "add", "sub")]
    for choice, meant in (("south.add", "south.add"), ("sub", "south.sub")):
        chat = scripted_chat(pocket_tokenizer, call(meant), ANSWER, tools=tools)
        assert results(chat.send("go", tool_choice=choice)) == [f"{meant.replace('.', ' ')} 1"]
    with pytest.raises(UsageError, match=r"expected one of auto, none, required, north\.add, south\.add, south\.sub"):
        scripted_chat(pocket_tokenizer, tools=tools, tool_choice="north.sub")


def test_two_places_of_one_name_are_refused(pocket_tokenizer: Tokenizer):
    with pytest.raises(UsageError, match="two sources of tools called 'north'"):
        scripted_chat(pocket_tokenizer, tools=[Shelf("north", "add"), Shelf("north", "sub")])


@pytest.mark.parametrize("name", ["functions", "browser", "python", "assistant", "json", "a b", "", "a.b", "1a"])
def test_what_means_something_else_names_no_place(name: str):
    with pytest.raises(UsageError, match="cannot name a namespace of tools"):
        Namespace(name, "of one's own")


def test_a_saved_chat_holds_no_tools_of_a_source(pocket_tokenizer: Tokenizer):
    def own(a: int) -> int:
        return a

    chat = scripted_chat(pocket_tokenizer, tools=[Shelf("north", "add"), own], approve="always")
    assert [tool["name"] for tool in chat.to_dict()["tools"]] == ["own"]
