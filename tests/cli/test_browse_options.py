"""`--browse`, `--browse-web` and `--search-provider` as a person meets them."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from gptoss_mlx.cli.arguments import make_parser
from gptoss_mlx.cli.terminal import CitationLabels, TurnPrinter
from gptoss_mlx.cli.tools import tool_options
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import ChannelStart, Done, Reply, Source, TextDelta, ToolCall, ToolResult
from gptoss_mlx.options import Options
from tests.cli.test_commands import GREEDY, gptoss

SOURCE = Source(1, "trip.md", "file://notes/trip.md", "/home/ann/notes/trip.md", 0, (0, 0, 1, 2, 3, 4))


def options(*words: str) -> Options:
    return Options.from_arguments(tool_options(make_parser().parse_args(["ask", "Hi", *words])))


def test_a_folder_is_browsed_without_anybody_to_ask(tmp_path: Path):
    (tmp_path / "notes").mkdir()
    found = options("--browse", str(tmp_path / "notes"), "--browse", str(tmp_path))
    assert [tool.full_name for tool in found.tools] == ["browser.search", "browser.open", "browser.find"]
    assert found.approve == "always"
    assert options().tools == ()


def test_the_web_needs_somebody_to_ask_or_yes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXA_API_KEY", "key")
    for words in (("--browse-web",), ("--search-provider", "exa")):
        with pytest.raises(UsageError, match="there is no terminal to ask at; --yes runs every call"):
            options(*words)
        found = options(*words, "--yes")
        assert {getattr(tool, "policy", None) for tool in found.tools} == {"always"}


def test_what_cannot_be_browsed_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="cannot be browsed: there is no such file or folder"):
        options("--browse", str(tmp_path / "nothing"))
    monkeypatch.delenv("BRAVE_API_KEY", raising=False)
    with pytest.raises(UsageError, match="needs your key; expected it in the environment variable BRAVE_API_KEY"):
        options("--search-provider", "brave")
    done = gptoss("ask", "Hi", "--browse", str(tmp_path / "nothing"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_ask_answers_with_a_folder_at_hand(tmp_path: Path):
    (tmp_path / "a.md").write_text("words")
    done = gptoss("ask", "What is 17 plus 25?", "--browse", str(tmp_path), *GREEDY, "-e", "high")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def printed(deltas: Sequence[str]) -> tuple[str, str]:
    out, aside = io.StringIO(), io.StringIO()
    printer = TurnPrinter(out, aside, show_reasoning=False, headings=False)
    printer.show(ToolCall("call_1", "browser.open", {"id": 0}, '{"id": 0}', about="https://x.org/\x1b[2J"))
    printer.show(ToolResult("call_1", "browser.open", "[1] trip.md", source=SOURCE))
    printer.show(ChannelStart("final", None))
    for text in deltas:
        printer.show(TextDelta("final", text, 1))
    printer.show(Done(Reply()))
    return out.getvalue(), aside.getvalue()


ANSWER = "At 9:40【1†L4】, then【1†L4-L5】; not【8†L1】 nor【1†\nL4】, and 【1†L"


def test_citations_are_printed_by_name_however_they_come():
    expected = "At 9:40[trip.md:3], then[trip.md:3-4]; not【8†L1】 nor【1†\nL4】, and 【1†L\n"
    for size in (1, 2, 5, 1000):
        out, aside = printed([ANSWER[at : at + size] for at in range(0, len(ANSWER), size)])
        assert out == expected, size
        assert '[call of browser.open: {"id": 0} (https://x.org/\\x1b[2J)]' in aside


def test_text_without_pages_is_not_held_back():
    labels = CitationLabels()
    assert labels.feed("a【1†L") == "a【1†L"
    labels.sources[1] = SOURCE
    assert labels.feed("b【1†") == "b"
    assert labels.feed("x" * 500) == "【1†" + "x" * 500
    assert labels.flush() == ""
