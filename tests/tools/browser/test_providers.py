"""Search providers against a stand-in of their service on loopback."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gptoss_mlx.errors import UsageError
from gptoss_mlx.tools.browser.backend import BrowseError
from gptoss_mlx.tools.browser.providers import PROVIDERS, BraveSearch, ExaSearch, SearchProvider, make_provider
from tests.tools.browser.web_server import Answer, StandIn, stand_in

EXA = {
    "results": [
        {"title": "One", "url": "https://one.example/", "summary": "The\nfirst."},
        {"title": None, "url": "https://two.example/", "summary": None},
        {"title": "no address"},
        {"title": "odd", "url": "file:///etc/passwd"},
        "nonsense",
    ]
}
BRAVE = {
    "web": {
        "results": [
            {"title": "One", "url": "https://one.example/", "description": "<strong>The</strong> first &amp; best"},
            {"title": "Two", "url": "https://two.example/"},
        ]
    }
}


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as server:
        yield server


def answers(value: Any) -> Answer:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda handler: handler.say(200, "application/json", data)


def provider(kind: type[SearchProvider], server: StandIn) -> SearchProvider:
    return kind("my-key", url=f"http://127.0.0.1:{server.port}/search")


def test_exa_is_asked_with_the_key_and_its_results_are_hits(server: StandIn):
    server.pages["/search"] = answers(EXA)
    hits = provider(ExaSearch, server).search("attention sinks", 7)
    (asked,) = server.asked
    assert (asked.command, asked.headers["x-api-key"]) == ("POST", "my-key")
    assert json.loads(asked.body) == {"query": "attention sinks", "numResults": 7, "contents": {"summary": True}}
    assert [(hit.title, hit.url, hit.summary) for hit in hits] == [
        ("One", "https://one.example/", "The first."),
        ("https://two.example/", "https://two.example/", ""),
    ]


def test_brave_is_asked_with_the_key_and_its_results_are_hits(server: StandIn):
    server.pages["/search"] = answers(BRAVE)
    hits = provider(BraveSearch, server).search("a & b", 1)
    (asked,) = server.asked
    assert (asked.command, asked.headers["x-subscription-token"]) == ("GET", "my-key")
    assert asked.path == "/search?q=a+%26+b&count=1"
    assert [(hit.title, hit.url, hit.summary) for hit in hits] == [("One", "https://one.example/", "The first & best")]


@pytest.mark.parametrize("kind", [ExaSearch, BraveSearch])
@pytest.mark.parametrize("value", [{}, [], None, {"results": {}, "web": 3}, {"web": {"results": None}}])
def test_answers_without_results_are_no_hits(server: StandIn, kind: type[SearchProvider], value: Any):
    server.pages["/search"] = answers(value)
    assert provider(kind, server).search("x", 5) == []


def test_a_service_that_fails_is_told_without_the_key(server: StandIn):
    exa = provider(ExaSearch, server)
    with pytest.raises(BrowseError, match=r"The search by Exa failed: .* the server says 404"):
        exa.search("x", 5)
    server.pages["/search"] = answers(b"{broken")
    with pytest.raises(BrowseError, match="its answer is no JSON"):
        exa.search("x", 5)
    # The key does not go where the service sends to.
    server.pages["/search"] = lambda handler: handler.say(302, "", b"", Location="/elsewhere")
    with pytest.raises(BrowseError, match="sends somewhere else, which is not followed") as raised:
        exa.search("x", 5)
    assert "my-key" not in str(raised.value)
    assert "/elsewhere" not in [handler.path for handler in server.asked]


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_needs_its_key(name: str, monkeypatch: pytest.MonkeyPatch):
    variable = f"{name.upper()}_API_KEY"
    for key in (None, "", "  ", "bad\nkey", "ключ"):
        monkeypatch.delenv(variable, raising=False) if key is None else monkeypatch.setenv(variable, key)
        with pytest.raises(UsageError, match=f"expected it in the environment variable {variable}"):
            make_provider(name)
    monkeypatch.setenv(variable, " my-key ")
    found = make_provider(name)
    assert (found.remote, found.searches, found.locate("https://x.org/")) == (True, True, None)
    with pytest.raises(BrowseError, match="only searches"):
        found.fetch("https://x.org/")


def test_an_unknown_provider_is_one_clear_sentence():
    with pytest.raises(UsageError, match="'ask' is no search provider; expected one of exa, brave"):
        make_provider("ask")
