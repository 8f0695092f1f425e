"""What the browser may reach, and when somebody is asked before."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from gptoss_mlx import Browser, UrlBackend
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import Reply, ToolCall
from gptoss_mlx.options import Options
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools.browser.backend import Hit
from gptoss_mlx.tools.browser.folders import FolderBackend
from tests.scripted import scripted_chat
from tests.tools.browser.conversations import FakeWeb, call, final, play, results


def asked(tokenizer: Tokenizer, browser: Browser, *calls: tuple[str, str]) -> tuple[list[str], Reply]:
    questions: list[str] = []

    def approve(each: ToolCall) -> bool:
        questions.append(f"{each.name} {each.about}".strip())
        return True

    return questions, play(tokenizer, browser, *calls, approve=approve)


def test_files_are_read_without_asking(pocket_tokenizer: Tokenizer, notes: Path):
    browser = Browser(notes)
    assert browser.policy == "always"
    questions, reply = asked(pocket_tokenizer, browser, ("search", '{"query": "flight"}'), ("open", '{"id": 0}'))
    assert questions == []
    assert not any(result.failed for result in reply.tool_results)


def test_what_reaches_the_network_asks_and_says_where_to(pocket_tokenizer: Tokenizer, notes: Path):
    web = FakeWeb()
    calls = (
        ("search", '{"query": "flight"}'),
        ("open", '{"id": 0}'),
        ("open", '{"cursor": 0, "id": 1}'),
        ("open", '{"loc": 0}'),
        ("find", '{"pattern": "words"}'),
        ("open", '{"cursor": 0, "id": 1}'),
        ("open", '{"id": "https://other.example/"}'),
        ("open", '{"cursor": 0, "id": 1, "view_source": true}'),
        ("open", '{"id": 99}'),
    )
    questions, reply = asked(pocket_tokenizer, Browser(notes, web), *calls)
    assert questions == [
        "browser.search",
        "browser.open https://site.example/found",
        "browser.open",
        "browser.open https://site.example/found",
    ]
    assert web.fetched == ["https://site.example/found", "https://other.example/", "https://site.example/found"]
    # Results of both, in turn.
    assert "【0†trip.md†notes】" in results(reply)[0]
    assert "【1†Found†site.example】 in the web" in results(reply)[0]
    assert results(reply)[7].startswith("[7] A page (view-source:https://site.example/found)")
    assert "L2: <p>Words" in results(reply)[7]


def test_a_search_of_files_alone_does_not_ask_where_the_web_can_only_be_opened(
    pocket_tokenizer: Tokenizer, notes: Path
):
    browser = Browser(notes, FakeWeb(searches=False))
    questions, _ = asked(pocket_tokenizer, browser, ("search", '{"query": "flight"}'), ("open", '{"id": "trip.md"}'))
    assert questions == []


def test_who_wants_to_be_asked_always_is(pocket_tokenizer: Tokenizer, notes: Path):
    questions, _ = asked(pocket_tokenizer, Browser(notes, policy="ask"), ("open", '{"id": "trip.md"}'))
    assert questions == ["browser.open"]
    questions, reply = asked(pocket_tokenizer, Browser(notes, policy="never"), ("open", '{"id": "trip.md"}'))
    assert (questions, reply.tool_results[0].failed) == ([], True)


def test_a_refused_page_is_not_fetched(pocket_tokenizer: Tokenizer):
    web = FakeWeb()
    reply = play(
        pocket_tokenizer, Browser(web), ("open", '{"id": "https://site.example/"}'), approve=lambda each: "not that one"
    )
    assert results(reply) == ["Error: the call was refused: not that one. The tool did not run."]
    assert web.fetched == []


def test_a_page_of_the_web_that_is_not_at_hand_is_fetched_again_only_after_asking(pocket_tokenizer: Tokenizer):
    web = FakeWeb()
    chat = scripted_chat(
        pocket_tokenizer,
        call("open", '{"id": "https://site.example/"}'),
        final("1"),
        call("open", '{"loc": 1}'),
        final("2"),
        tools=[Browser(web, policy="always")],
    )
    chat.send("one")
    questions: list[str] = []

    def approve(each: ToolCall) -> bool:
        questions.append(each.about)
        return False

    chat.send("two", tools=[Browser(web)], approve=approve)
    assert questions == ["https://site.example/"]
    assert web.fetched == ["https://site.example/"]


def test_links_of_a_page_of_the_web_that_is_not_at_hand_lead_nowhere(pocket_tokenizer: Tokenizer):
    web = FakeWeb()
    chat = scripted_chat(
        pocket_tokenizer,
        call("open", '{"id": "https://site.example/"}'),
        final("1"),
        call("open", '{"id": 0}'),
        final("2"),
        tools=[Browser(web, policy="always")],
    )
    chat.send("one")
    questions: list[ToolCall] = []
    reply = chat.send("two", tools=[Browser(web)], approve=lambda each: questions.append(each) is None)
    assert results(reply) == [
        "Error: The page is not at hand any more; open it by its address first: `https://site.example/`."
    ]
    # Neither asking nor saying what it is about reached the network.
    assert (questions, web.fetched) == ([], ["https://site.example/"])


def test_a_browser_of_the_web_needs_somebody_to_ask(pocket_tokenizer: Tokenizer, notes: Path):
    with pytest.raises(UsageError, match=r"the tool 'browser.search' asks before it runs, and there is nobody to ask"):
        scripted_chat(pocket_tokenizer, tools=[Browser(notes, UrlBackend())])
    scripted_chat(pocket_tokenizer, tools=[Browser(notes, UrlBackend(), policy="always")])


# What can be given


def test_a_browser_without_anything_to_read_is_refused(notes: Path):
    with pytest.raises(UsageError, match="the browser has nothing to read"):
        Browser()
    with pytest.raises(UsageError, match="'/no/such/folder' cannot be browsed"):
        Browser("/no/such/folder")
    with pytest.raises(UsageError, match="the policy of the browser is 'sometimes'"):
        Browser(notes, policy="sometimes")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="view_tokens is 0"):
        Browser(notes, view_tokens=0)
    assert Browser(notes, FolderBackend(notes)).place == f"{notes}, {notes}"


def test_a_search_of_which_a_part_fails_says_so(pocket_tokenizer: Tokenizer, notes: Path):
    from gptoss_mlx.tools.browser.backend import BrowseError

    class Broken(FakeWeb):
        def search(self, query: str, count: int) -> Sequence[Hit]:
            raise BrowseError("The search by X failed")

    reply = play(pocket_tokenizer, Browser(notes, Broken(), policy="always"), ("search", '{"query": "flight"}'))
    assert "trip.md" in results(reply)[0]
    assert "[a part of the search failed]】 The search by X failed" in results(reply)[0]
    reply = play(pocket_tokenizer, Browser(Broken(), policy="always"), ("search", '{"query": "flight"}'))
    assert results(reply) == ["Error: The search by X failed"]
    reply = play(pocket_tokenizer, Browser(FakeWeb(searches=False), policy="always"), ("search", '{"query": "x"}'))
    assert results(reply)[0].startswith("Error: There is no search here.")


def test_a_call_can_be_asked_for(pocket_tokenizer: Tokenizer, notes: Path):
    arguments = '{"query":"flight"}'
    chat = scripted_chat(
        pocket_tokenizer,
        f"<|channel|>analysis to=browser.search code<|message|>{arguments}<|call|>",
        final("Done."),
        tools=[Browser(notes)],
        tool_choice="browser.search",
    )
    reply = chat.send("Look.")
    assert [each.name for each in reply.tool_calls] == ["browser.search"]
    assert results(reply)[0].startswith("[0] flight")
    with pytest.raises(UsageError, match=r"expected one of auto, none, required, browser\.search, browser\.open"):
        chat.send("Look.", tool_choice="look")


def test_two_browsers_are_refused(notes: Path):
    with pytest.raises(UsageError, match="two sources of tools called 'browser'"):
        Options.from_arguments({"tools": [Browser(notes), Browser(notes)]})
