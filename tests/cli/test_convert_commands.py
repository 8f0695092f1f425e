"""`gptoss convert`, `list`, `verify` and `info` as a person runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from gptoss_mlx.models import POCKET_FOLDER


def gptoss(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GPTOSS_HOME": str(home)}
    command = [sys.executable, "-m", "gptoss_mlx.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_convert_then_list_ask_and_verify_by_name(tmp_path: Path) -> None:
    done = gptoss(tmp_path, "convert", str(POCKET_FOLDER))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'models' / 'checkpoint'}: 5.")
    assert gptoss(tmp_path, "convert", str(POCKET_FOLDER)).stdout.endswith("nothing to do\n")
    small = gptoss(tmp_path, "convert", str(POCKET_FOLDER), str(tmp_path / "models" / "small"), "--dense-bits", "8")
    assert small.returncode == 0
    rows = gptoss(tmp_path, "list").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["NAME", "pocket", "checkpoint", "small"]
    assert "as published" in rows[2]
    assert "8 bits" in rows[3]
    listed = json.loads(gptoss(tmp_path, "list", "--json").stdout)
    assert [model["dense_bits"] for model in listed["models"]] == [None, None, 8]
    question = ("What is 17 plus 25?", "--temperature", "0", "--date", "2026-01-31", "-e", "high")
    answers = [gptoss(tmp_path, "ask", "-m", name, *question).stdout for name in ("pocket", "checkpoint", "small")]
    assert answers[0] == answers[1]
    assert all("42" in answer for answer in answers)
    assert gptoss(tmp_path, "verify", "small").stdout.endswith("all as converted\n")
    facts = json.loads(gptoss(tmp_path, "info", "small", "--json").stdout)
    assert (facts["layout"], facts["dense_bits"]) == ("gptoss", [8])
    assert "dense weights of 8 bits" in gptoss(tmp_path, "info", "small").stdout


def test_list_says_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "models" / "half.partial").mkdir(parents=True)
    (tmp_path / "models" / "stray").mkdir()
    done = gptoss(tmp_path, "list")
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["NAME", "pocket"]
    assert "not listed: half.partial: a conversion that runs or was stopped" in done.stderr
    assert "not listed: stray: " in done.stderr


def test_a_source_that_is_none_is_one_clear_sentence(tmp_path: Path) -> None:
    done = gptoss(tmp_path, "convert", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'nowhere'} is not a folder; expected")
    assert gptoss(tmp_path, "convert", str(POCKET_FOLDER), "--dense-bits", "5").returncode == 2
    assert gptoss(tmp_path, "verify", "pocket").returncode == 2
