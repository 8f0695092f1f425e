"""Copying takes the first way that works, and says "copied" only when it was."""

import asyncio
import base64
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.app.clipboard import OSC52_LIMIT, copy_text, programs, terminal_sequence
from gptoss_mlx.errors import UsageError


class Machine:
    """A folder of programs that take what they are given into a file of their name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[str] = []

    def install(self, name: str, body: str = "", code: int = 0) -> None:
        script = self.folder / name
        script.write_text(
            f'#!/bin/sh\n{body}\n/bin/cat > "{script}.taken"\necho "$@" > "{script}.arguments"\nexit {code}\n'
        )
        script.chmod(0o755)

    def taken(self, name: str) -> str | None:
        file = self.folder / f"{name}.taken"
        return file.read_text(encoding="utf-8") if file.exists() else None

    def copy(self, text: str, platform: str = "linux", **environment: str) -> str:
        return asyncio.run(copy_text(text, self.sent.append, {"PATH": str(self.folder), **environment}, platform))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


TEXT = "line one\n\tindented é 東\n\n"


def test_on_a_mac_pbcopy_takes_the_text_as_utf_8(machine: Machine):
    machine.install("pbcopy", 'test "$LC_ALL" = en_US.UTF-8 || exit 1')
    assert machine.copy(TEXT, "darwin", LC_ALL="C") == f"Copied {len(TEXT)} characters"
    assert machine.taken("pbcopy") == TEXT
    assert machine.sent == []


def test_over_ssh_the_text_goes_to_the_terminal_and_not_to_the_far_clipboard(machine: Machine):
    machine.install("pbcopy")
    sentence = machine.copy(TEXT, "darwin", SSH_CONNECTION="10.0.0.1 1 10.0.0.2 22")
    assert machine.taken("pbcopy") is None
    assert machine.sent == [terminal_sequence(TEXT, {})]
    assert not sentence.startswith("Copied")
    assert "does not say whether it took" in sentence


@pytest.mark.parametrize(
    ("display", "program", "arguments"),
    [
        ("WAYLAND_DISPLAY", "wl-copy", ""),
        ("DISPLAY", "xclip", "-selection clipboard"),
        ("DISPLAY", "xsel", "--clipboard --input"),
    ],
)
def test_on_linux_the_program_of_the_display_takes_it(machine: Machine, display: str, program: str, arguments: str):
    machine.install(program)
    assert machine.copy(TEXT).startswith("Sent ")
    assert machine.taken(program) is None
    assert machine.copy(TEXT, **{display: ":0"}).startswith("Copied ")
    assert machine.taken(program) == TEXT
    assert (machine.folder / f"{program}.arguments").read_text().strip() == arguments


def test_a_program_that_fails_leaves_it_to_the_next(machine: Machine):
    machine.install("xclip", code=1)
    machine.install("xsel")
    assert machine.copy(TEXT, DISPLAY=":0") == f"Copied {len(TEXT)} characters"
    assert machine.taken("xsel") == TEXT
    machine.install("xsel", code=1)
    assert machine.copy(TEXT, DISPLAY=":0").startswith("Sent ")


def test_a_program_that_stays_to_serve_the_clipboard_is_not_waited_for(machine: Machine):
    machine.install("wl-copy", "(/bin/sleep 5) &")
    assert machine.copy(TEXT, WAYLAND_DISPLAY="wayland-0").startswith("Copied ")


def test_in_tmux_its_own_buffer_takes_it(machine: Machine):
    machine.install("tmux")
    sentence = machine.copy(TEXT, TMUX="/tmp/tmux-0/default,1,0")
    assert machine.taken("tmux") == TEXT
    assert (machine.folder / "tmux.arguments").read_text().strip() == "load-buffer -w -"
    assert "tmux's buffer" in sentence
    assert machine.sent == []


def test_in_a_tmux_that_refuses_the_sequence_is_passed_through(machine: Machine):
    machine.install("tmux", code=1)
    assert machine.copy("x", TMUX="there").startswith("Sent 1 character ")
    assert machine.sent == ["\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\"]


@given(st.text(min_size=1, max_size=3000))
def test_gnu_screen_gets_pieces_that_make_the_sequence_again(text: str):
    pieces = re.findall(r"\x1bP(.*?)\x1b\\", terminal_sequence(text, {"STY": "1.pts"}), re.DOTALL)
    assert max(map(len, pieces)) <= 768
    assert "".join(pieces) == terminal_sequence(text, {})
    encoded = terminal_sequence(text, {}).removeprefix("\x1b]52;c;").removesuffix("\x07")
    assert base64.b64decode(encoded).decode() == text.encode("utf-8", "replace").decode()


def test_what_terminals_would_drop_is_refused_with_advice(machine: Machine):
    longest = "x" * (OSC52_LIMIT // 4 * 3)
    assert machine.copy(longest).startswith("Sent ")
    with pytest.raises(
        UsageError, match=r"too long to copy through the terminal \(56 kB, about 56 kB at most\); export"
    ):
        machine.copy(longest + "xxx")
    machine.install("xclip")
    assert machine.copy(longest + "xxx", DISPLAY=":0").startswith("Copied ")


def test_nothing_is_not_copied(machine: Machine):
    with pytest.raises(UsageError, match="nothing to copy"):
        machine.copy("")
    assert machine.sent == []


def test_programs_that_are_not_installed_are_not_tried():
    assert programs({"PATH": "", "DISPLAY": ":0", "WAYLAND_DISPLAY": "w"}, "darwin") == []
    assert os.environ.get("PATH")
