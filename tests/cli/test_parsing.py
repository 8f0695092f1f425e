"""The command line before any model: help, usage errors, questions from pipes, code blocks."""

import io

import pytest

from gptoss_mlx.cli import main
from gptoss_mlx.cli.ask import first_code_block, read_question
from gptoss_mlx.errors import UsageError


class Pipe(io.StringIO):
    """Standard input that is no terminal."""


class Terminal(io.StringIO):
    """Standard input that is one."""

    def isatty(self) -> bool:
        return True


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    out = capsys.readouterr().out
    for command in ("ask", "chat", "info", "bench", "evaluate", "compare"):
        assert f"\n    {command}" in out


@pytest.mark.parametrize("command", ["ask", "chat", "info", "bench", "evaluate", "compare"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert "usage: gptoss" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["ask", "-e", "much"], ["ask", "x", "--json", "-x"], ["--nonsense"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: gptoss" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["info", "20b"], ["ask", "hi", "-m", "120b"], ["chat", "20b"]])
def test_a_published_name_says_how_to_get_the_model(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", Terminal())
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "`gptoss pull " in error


@pytest.mark.parametrize(
    ("words", "piped", "question"),
    [
        (["two", "words"], "", "two words"),
        (["Sum up:"], "a\nb\n", "Sum up:\n\na\nb"),
        (["-"], "only this\n", "only this"),
        ([], "only this", "only this"),
    ],
)
def test_a_pipe_follows_the_question(words: list[str], piped: str, question: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", Pipe(piped))
    assert read_question(words) == question


def test_without_a_question_there_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(UsageError, match="no question"):
        read_question([])
    assert main(["ask"]) == 2
    assert capsys.readouterr().err.startswith("error: no question")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Look:\n```python\nprint(1)\n```\nand\n```\n2\n```\n", "print(1)\n"),
        ("~~~\na\n```\nb\n~~~", "a\n```\nb\n"),
        ("````md\n```\nx\n```\n````", "```\nx\n```\n"),
        ("```\n```", ""),
        ("no code, `x` at most", None),
        ("```python\nunfinished", None),
    ],
)
def test_the_first_code_block_is_found(text: str, code: str | None):
    assert first_code_block(text) == code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "8"], "expected --text FILE"),
        (["--text", "x", "--questions", "2"], "not both"),
        (["--text", "x", "--seed", "2"], "not both"),
        (["--text", "/nonexistent/text"], "cannot be read"),
        (["--questions", "0"], "questions is 0"),
    ],
)
def test_compare_refuses_options_that_do_not_go_together(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["compare", "pocket", "pocket", *options]) == 2
    assert message in capsys.readouterr().err
