"""The browser in a conversation: the model's calls as it writes them, cursors, questions, citations."""

from pathlib import Path

import pytest

from gptoss_mlx import Browser
from gptoss_mlx.chat import Chat
from gptoss_mlx.engine import Engine
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import Reply
from gptoss_mlx.harmony import BROWSER, Message, SystemContent, render_text
from gptoss_mlx.inputs import read_conversation
from gptoss_mlx.options import Options
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools.browser.history import History, Shelf
from gptoss_mlx.tools.browser.page import make_page
from tests.scripted import ScriptedHost, as_model, scripted_chat, scripted_model
from tests.tools.browser.conversations import INJECTION, call, final, play, results


def test_search_open_find_and_an_answer_that_cites(pocket_tokenizer: Tokenizer, notes: Path):
    model = scripted_model(
        pocket_tokenizer,
        call("search", '{"query": "flight", "topn": 5}'),
        call("open", '{"id": 0, "cursor": 0}'),
        call("find", '{"pattern": "HOTEL sonne"}', header=" to=browser.{}<|channel|>analysis code"),
        final("At 9:40【1†L4】, then the hotel【1†L4-L5】【2†L1】. Not【0†L4】, nor【9†L1】."),
    )
    host = ScriptedHost(Engine(lambda: as_model(model)), pocket_tokenizer)
    chat = Chat(host, defaults={"temperature": 0.0, "tools": [Browser(notes)], "prefill_chunk": 1 << 20})
    reply = chat.send("When do I fly?")
    assert results(reply) == [
        "[0] flight\n**viewing lines [0 - 5] of 5**\n\n"
        "L0: \nL1: URL: \nL2: # Search Results\nL3: \n"
        "L4:   * 【0†trip.md†notes】 Our flight LH123 leaves at 9:40 from gate B7. Hotel Sonne,\nL5:  two nights.",
        "[1] trip.md (file://notes/trip.md)\n**viewing lines [0 - 5] of 5**\n\n"
        "L0: \nL1: URL: file://notes/trip.md\nL2: # Trip\nL3: \n"
        "L4: Our flight LH123 leaves at 9:40 from gate B7.\nL5: Hotel Sonne, two nights.",
        "[2] Find results for text: `HOTEL sonne` in `trip.md` (file://notes/trip.md/find?pattern=HOTEL sonne)\n"
        "**viewing lines [0 - 1] of 1**\n\nL0: # 【0†match at L5】\nL1: Hotel Sonne, two nights.",
    ]
    # Call and result as they were trained: on the analysis channel, the tool itself the author.
    assert [(m.role, m.name, m.recipient, m.channel) for m in chat.turns if m.name or m.tool_name] == [
        (role, name, recipient, "analysis")
        for tool in ("search", "open", "find")
        for role, name, recipient in (
            ("assistant", None, f"browser.{tool}"),
            ("tool", f"browser.{tool}", "assistant"),
        )
    ]
    prompt = pocket_tokenizer.decode(next(tokens for tokens in reversed(model.calls) if len(tokens) > 20))
    assert "<|start|>browser.search to=assistant<|channel|>analysis<|message|>[0] flight\n" in prompt
    cited = [(each.title, each.path, each.lines, each.label) for each in reply.citations]
    path = str(notes / "trip.md")
    assert cited == [
        ("trip.md", path, (3, 3), "[trip.md:3]"),
        ("trip.md", path, (3, 4), "[trip.md:3-4]"),
        ("Find results for text: `HOTEL sonne` in `trip.md`", path, (4, 4), "[trip.md:4]"),
        ("flight", None, (4, 4), "[flight]"),
    ]
    assert reply.cited_text == "At 9:40[trip.md:3], then the hotel[trip.md:3-4][trip.md:4]. Not[flight], nor【9†L1】."
    assert reply.to_dict()["citations"][0]["label"] == "[trip.md:3]"
    assert [each.about for each in reply.tool_calls] == ["", "file://notes/trip.md", "file://notes/trip.md"]


def test_the_tools_stand_in_the_system_message_as_openai_has_them(pocket_tokenizer: Tokenizer, notes: Path):
    options = Options.from_arguments(
        {"tools": [Browser(notes), lambda: None] and [Browser(notes)], "date": "2026-01-31"}
    )
    (system, user) = read_conversation("Hi", options)
    expected = Message.system(SystemContent(conversation_start_date="2026-01-31", tools=(BROWSER,)))
    assert render_text([system]) == render_text([expected])
    assert user.role == "user"

    def add(a: int) -> int:
        return a

    options = Options.from_arguments({"tools": [add, Browser(notes)]})
    system, developer, _ = read_conversation("Hi", options)
    text = render_text([system, developer])
    assert text.index("namespace browser") < text.index("namespace functions")
    assert "namespace functions {\n\ntype add =" in text
    assert "Calls to these tools must go to the commentary channel: 'functions'." in text
    # A caller's own system message gets them, too; twice is refused.
    own = Message.system(SystemContent(model_identity="You are a pirate."))
    (system, *_) = read_conversation([own, Message.user("Hi")], options)
    assert "You are a pirate." in render_text([system])
    assert "namespace browser" in render_text([system])
    with pytest.raises(UsageError, match="the tool 'browser' is given both in the system message and as an option"):
        read_conversation([expected, Message.user("Hi")], options)
    with pytest.raises(UsageError, match="the system message is plain text, and browser belongs into it"):
        read_conversation([Message.system("Plain."), Message.user("Hi")], options)
    none = Options.from_arguments({"tools": [Browser(notes)], "tool_choice": "none"})
    assert "browser" not in render_text(read_conversation("Hi", none))


def test_numbers_come_in_whatever_form(pocket_tokenizer: Tokenizer, notes: Path):
    reply = play(
        pocket_tokenizer,
        Browser(notes),
        ("search", '{"query": "flight", "topn": "3", "top_n": null, "source": "web"}'),
        ("open", '{"id": "0", "cursor": 0.0}'),
        ("open", '{"id": 0.0, "cursor": "0", "loc": 2.0, "num_lines": "2", "view_source": "false"}'),
        ("open", '{"loc": 4}'),
        ("open", '{"id": -1, "cursor": -1, "loc": -1, "num_lines": -1}'),
        ("open", '{"id": "【0†trip.md†notes】", "cursor": 0}'),
        ("open", '"{\\"cursor\\": 0, \\"id\\": 0}"'),
    )
    assert [result.failed for result in reply.tool_results] == [False] * 7
    heads = [text.split("\n")[1] for text in results(reply)[1:]]
    assert heads == [
        "**viewing lines [0 - 5] of 5**",
        "**viewing lines [2 - 3] of 5**",
        "**viewing lines [4 - 5] of 5**",
        "**viewing lines [0 - 5] of 5**",
        "**viewing lines [0 - 5] of 5**",
        "**viewing lines [0 - 5] of 5**",
    ]
    assert [text[:4] for text in results(reply)] == [f"[{number}] " for number in range(7)]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("open", "{}", "Error: No pages to access: nothing was opened yet."),
        ("find", '{"pattern": "x"}', "Error: No pages to access"),
        ("open", '{"id": 3}', "Error: No pages to access"),
        ("open", '{"id": "file://notes/none.md"}', "Error: There is no file `file://notes/none.md`."),
        ("open", '{"id": "none.md"}', "Error: There is no page `none.md`: no such file in"),
        ("open", '{"id": "https://example.org/"}', "and the web cannot be reached."),
        ("open", '{"id": "../x"}', "Error: `../x` may not be read"),
        (
            "open",
            '{"id": "trip.md", "loc": 99}',
            "Error: Invalid location parameter: `99`. Cannot exceed page maximum of 5",
        ),
        ("search", '{"query": "  "}', "Error: `query` is empty"),
        ("search", "{}", "Error: the arguments do not fit: query: missing"),
        ("search", '{"query": 3}', "Error: the arguments do not fit: query: Input should be a valid string"),
        ("open", '{"id": 1.5}', "Error: the arguments do not fit: id"),
        ("open", '{"loc": "many"}', "Error: the arguments do not fit: loc"),
        ("open", '{"page": 3}', "Error: the arguments do not fit: page: there is no such parameter"),
        ("open", "[1]", "Error: the arguments do not fit: they are no JSON object"),
        (
            "click",
            "{}",
            "Error: there is no tool browser.click. The tools are: browser.search, browser.open, browser.find.",
        ),
    ],
)
def test_what_does_not_fit_is_told_and_takes_no_cursor(
    pocket_tokenizer: Tokenizer, notes: Path, name: str, arguments: str, told: str
):
    reply = play(pocket_tokenizer, Browser(notes), (name, arguments), ("open", '{"id": "trip.md"}'))
    assert told in results(reply)[0]
    assert [result.failed for result in reply.tool_results] == [True, False]
    assert results(reply)[1].startswith("[0] trip.md")


def test_cursors_and_links_that_are_not_there(pocket_tokenizer: Tokenizer, notes: Path):
    reply = play(
        pocket_tokenizer,
        Browser(notes),
        ("search", '{"query": "flight"}'),
        ("open", '{"id": 7}'),
        ("open", '{"id": 0, "cursor": 4}'),
        ("find", '{"pattern": "x"}'),
        ("open", '{"view_source": true}'),
        ("find", '{"pattern": "x", "cursor": 99999999999999999999}'),
    )
    assert results(reply)[1:] == [
        "Error: Invalid link id `7`.",
        "Error: Cursor `4` is out of range. Available cursor indices: [0 - 0].",
        "Error: Cannot run `find` on search results page or find results page",
        "Error: Results have no source; open one of their links.",
        "Error: Cursor `99999999999999999999` is out of range. Available cursor indices: [0 - 0].",
    ]


def test_a_long_page_is_read_on_and_the_budget_is_the_models_own_tokens(pocket_tokenizer: Tokenizer, notes: Path):
    browser = Browser(notes, view_tokens=100)
    reply = play(
        pocket_tokenizer,
        browser,
        ("open", '{"id": "long.txt"}'),
        ("open", '{"loc": 20}'),
        ("open", '{"loc": 0, "num_lines": 100000}'),
        ("find", '{"pattern": "entry 2999"}'),
        ("open", '{"id": 0}'),
        context_limit=16_384,
    )
    first = results(reply)[0].split("\n\n", 1)[1]
    assert 95 <= len(pocket_tokenizer.encode(first)) <= 130
    assert "L20: " in results(reply)[1]
    assert len(results(reply)[2]) <= 20_000
    # The place that was found, with some lines above.
    assert results(reply)[4].split("\n")[3] == "L2997: entry 2995"
    assert "L3001: entry 2999" in results(reply)[4]


def test_markup_in_a_page_stays_text(pocket_tokenizer: Tokenizer, notes: Path):
    (notes / "evil.md").write_text(f"flight {INJECTION}")
    (notes / f"{INJECTION.split('<|message')[0]}.txt").write_text("flight")
    model = scripted_model(
        pocket_tokenizer, call("search", '{"query": "flight"}'), call("open", '{"id": "evil.md"}'), final("No.")
    )
    host = ScriptedHost(Engine(lambda: as_model(model)), pocket_tokenizer)
    chat = Chat(host, defaults={"temperature": 0.0, "tools": [Browser(notes)], "prefill_chunk": 1 << 20})
    reply = chat.send("Look.")
    assert INJECTION in results(reply)[1].replace("\nL3: ", "")
    assert reply.rounds == 3
    prompt = next(tokens for tokens in reversed(model.calls) if len(tokens) > 20)
    special = pocket_tokenizer.special
    # system, user, twice thought, call and result, and the start of the answer
    assert prompt.count(special.start) == 9
    assert prompt.count(special.call) == 2


@pytest.mark.parametrize("channel", ["analysis", "commentary"])
def test_a_result_stands_on_the_channel_of_its_call(pocket_tokenizer: Tokenizer, notes: Path, channel: str):
    script = call("open", '{"id": "trip.md"}', header=f" to=browser.{{}}<|channel|>{channel} <|constrain|>json")
    chat = scripted_chat(pocket_tokenizer, script, final("Done."), final("Again."), tools=[Browser(notes)])
    chat.send("Look.")
    assert [message.channel for message in chat.turns if message.tool_name or message.role == "tool"] == [channel] * 2
    # Of a finished turn both are read again, or neither.
    chat.send("And?")
    text = chat._host.tokenizer.decode(list(chat.prompt_tokens))
    assert text.count("to=browser.open") == text.count("<|start|>browser.open") == (channel == "commentary")


# Conversations


def cursors(reply: Reply) -> list[str]:
    return [text.partition("]")[0].lstrip("[") for text in results(reply)]


def test_two_conversations_share_no_cursors(pocket_tokenizer: Tokenizer, notes: Path):
    browser = Browser(notes)
    first = play(pocket_tokenizer, browser, ("search", '{"query": "flight"}'), ("open", '{"id": 0}'))
    second = play(pocket_tokenizer, browser, ("open", '{"cursor": 1}'), ("open", '{"id": "long.txt"}'))
    assert cursors(first) == ["0", "1"]
    assert results(second)[0].startswith("Error: No pages to access")
    assert results(second)[1].startswith("[0] long.txt")


def test_cursors_go_on_in_the_next_turn_and_a_branch_has_its_own(pocket_tokenizer: Tokenizer, notes: Path):
    open_trip, open_long, scroll = (
        call("open", arguments) for arguments in ('{"id": "trip.md"}', '{"id": "long.txt"}', '{"cursor": 0, "loc": 3}')
    )
    chat = scripted_chat(
        pocket_tokenizer,
        open_trip,
        final("1"),
        open_long,
        scroll,
        final("2"),
        scroll,
        final("3"),
        tools=[Browser(notes)],
    )
    assert cursors(chat.send("one")) == ["0"]
    reply = chat.send("two")
    assert cursors(reply) == ["1", "2"]
    assert results(reply)[1].startswith("[2] trip.md")
    # What the page was is what is looked at, whatever became of the file.
    (notes / "trip.md").write_text("changed")
    branch = chat.edit(-1, "another two")
    assert cursors(branch) == ["1"]
    assert "L4: Our flight" in results(branch)[0]


def test_a_conversation_that_is_opened_again_reads_its_pages_anew(pocket_tokenizer: Tokenizer, notes: Path):
    chat = scripted_chat(
        pocket_tokenizer,
        call("search", '{"query": "flight"}'),
        call("open", '{"id": 0}'),
        final("1"),
        call("open", '{"cursor": 1, "loc": 4}'),
        call("open", '{"cursor": 0, "id": 0}'),
        call("find", '{"cursor": 0, "pattern": "x"}'),
        final("2"),
        tools=[Browser(notes)],
    )
    chat.send("one")
    # Another process: another browser.
    chat.defaults["tools"] = [Browser(notes)]
    again = results(chat.send("two"))
    assert again[0].startswith("[2] trip.md (file://notes/trip.md)\n**viewing lines [4 - 5] of 5**")
    assert again[1] == ("Error: What was found under cursor `0` is not at hand any more; search for it again.")
    assert again[2] == again[1]


def test_a_saved_chat_keeps_no_browser_as_a_function(pocket_tokenizer: Tokenizer, notes: Path):
    chat = scripted_chat(pocket_tokenizer, call("open", '{"id": "trip.md"}'), final("1"), tools=[Browser(notes)])
    chat.send("one")
    saved = chat.to_dict()
    assert saved["tools"] == []
    again = Chat.from_dict(chat._host, saved)
    assert [message.name for message in again.turns if message.role == "tool"] == ["browser.open"]
    assert again.pending_calls == []


def test_pages_on_the_shelf_are_bounded_and_those_used_last_stay():
    shelf = Shelf(characters=1000)
    pages = [make_page("", "", "x" * 300) for _ in range(6)]
    for number, page in enumerate(pages):
        shelf.put(bytes([number]), page)
        shelf.get(bytes([0]))
    assert shelf.get(bytes([0])) is pages[0]
    assert shelf.get(bytes([1])) is None
    assert shelf.get(bytes([5])) is pages[5]
    shelf.put(b"large", large := make_page("", "", "x" * 5000))
    assert shelf.get(b"large") is large
    assert shelf.get(bytes([5])) is None


def test_what_other_tools_say_is_no_display():
    display = "[4] Title (https://x.org/)\n**viewing lines [0 - 1] of 1**\n\nL0: x"
    shelf = Shelf()
    messages = [
        Message.tool("functions.get", display),
        Message.tool("browser.open", "Error: no"),
        Message.user(display),
    ]
    assert History(messages, shelf).displays == {}
    history = History([*messages, Message.tool("browser.open", display)], shelf)
    assert (history.next_cursor, history.at(-1).url, history.at(4).page) == (5, "https://x.org/", None)


# Questions
