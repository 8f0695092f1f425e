"""A file that is being downloaded to many places: whatever order, restarts and damage, what counts is right."""

import hashlib
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.convert import part
from gptoss_mlx.convert.hub import RemoteFile
from gptoss_mlx.convert.part import GivenGone, Journal, Part, Writer
from gptoss_mlx.convert.places import Places, Run

EXTENT = 7


@pytest.fixture(autouse=True, scope="module")
def small_extents() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "EXTENT_BYTES", EXTENT)
        yield


def remote(content: bytes) -> RemoteFile:
    return RemoteFile("model.safetensors", len(content), hashlib.sha256(content).hexdigest(), "")


def never() -> bool:
    return False


@st.composite
def layouts(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int, int]]]:
    """Content, and runs: start, end, and the number of a file; the runs of a file lie in it in any order."""
    content = random.Random(0).randbytes(draw(st.integers(1, 120)))
    cuts = sorted(draw(st.sets(st.integers(1, max(len(content) - 1, 1)), max_size=8)) | {0, len(content)})
    files = draw(st.lists(st.integers(0, 2), min_size=len(cuts), max_size=len(cuts)))
    return content, [(a, b, file) for a, b, file in zip(cuts, cuts[1:], files, strict=False)]


def runs_in(folder: Path, cut: list[tuple[int, int, int]], order: list[int]) -> list[Run]:
    ends = {0: 0, 1: 0, 2: 0}
    runs = []
    for number in order:
        start, end, file = cut[number]
        runs.append(Run(start, end, folder / f"{file}.tmp", ends[file]))
        ends[file] += end - start
    return runs


@settings(max_examples=60, deadline=None)
@given(layout=layouts(), data=st.data())
def test_any_order_any_restart_and_any_damage(
    layout: tuple[bytes, list[tuple[int, int, int]]], data: st.DataObject
) -> None:
    content, cut = layout
    file = remote(content)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = runs_in(folder, cut, data.draw(st.permutations(range(len(cut)))))
        for _ in range(data.draw(st.integers(0, 3))):
            # Each round is a process: it fetches a few ranges, is killed, and the disk forgets something.
            here = Part(folder, file, runs)
            for _ in range(data.draw(st.integers(0, 4))):
                if (claim := here.claim(data.draw(st.integers(1, 40)))) is not None:
                    came = min(claim[1] - claim[0], data.draw(st.integers(0, 40)))
                    writer = Writer(here, claim[0])
                    writer.write(memoryview(content[claim[0] : claim[0] + came]))
                    writer.close()
                    here.release(claim)
            here.close()
            for path in sorted(folder.glob("*.tmp")):
                damaged = bytearray(path.read_bytes())
                if damaged and data.draw(st.booleans()):
                    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1
                    path.write_bytes(damaged)
        last = Part(folder, file, runs)
        found = None
        passed: list[int] = []
        while found is None:
            found = last.hash_all(lambda: last.done_bytes < file.size, passed.append)
            while found is None and (claim := last.claim(1000)) is not None:
                writer = Writer(last, claim[0])
                writer.write(memoryview(content[claim[0] : claim[1]]))
                writer.close()
                last.release(claim)
        assert found == file.checksum
        assert passed[-1] == file.size
        last.note_verified()
        for run in runs:
            assert run.path.read_bytes()[run.offset :][: run.end - run.start] == content[run.start : run.end]
        assert Journal(folder, file, Places(runs)).is_whole


def whole(folder: Path, content: bytes, runs: list[Run]) -> Part:
    here = Part(folder, remote(content), runs)
    while (claim := here.claim(1000)) is not None:
        writer = Writer(here, claim[0])
        writer.write(memoryview(content[claim[0] : claim[1]]))
        writer.close()
        here.release(claim)
    return here


def test_a_part_that_was_verified_is_not_believed_blindly(tmp_path: Path) -> None:
    content = bytes(range(60))
    runs = [Run(0, 20, tmp_path / "a.tmp", 5), Run(20, 60, tmp_path / "b.tmp", 0)]
    whole(tmp_path, content, runs).note_verified()
    again = Part(tmp_path, remote(content), runs)
    assert again.was_verified
    assert again.check_needed(never)
    again.close()
    damaged = bytearray((tmp_path / "b.tmp").read_bytes())
    damaged[3] ^= 1
    (tmp_path / "b.tmp").write_bytes(damaged)
    again = Part(tmp_path, remote(content), runs)
    assert not again.check_needed(never)
    assert again.claim(1000) == (20, 27)
    again.close()
    assert not Part(tmp_path, remote(content), runs).was_verified


def test_what_a_finished_file_took_with_it_is_not_missed(tmp_path: Path) -> None:
    content = bytes(range(60))
    whole(tmp_path, content, [Run(0, 20, tmp_path / "a.tmp", 0), Run(20, 60, tmp_path / "b.held", 0)]).note_verified()
    (tmp_path / "b.held").unlink()
    spent = [Run(0, 20, tmp_path / "a.tmp", 0), Run(20, 60, tmp_path / "b.held", 0, spent=True)]
    again = Part(tmp_path, remote(content), spent)
    assert again.was_verified
    assert again.check_needed(never)
    # Where it is needed again, it has to come again.
    needed = [Run(0, 20, tmp_path / "a.tmp", 0), Run(20, 60, tmp_path / "b.held", 0)]
    assert not Part(tmp_path, remote(content), needed).check_needed(never)


def test_bytes_of_a_finished_file_are_read_there_and_not_fetched(tmp_path: Path) -> None:
    content = bytes(range(60))
    (tmp_path / "b").write_bytes(content[20:])
    runs = [Run(0, 20, tmp_path / "a.tmp", 0), Run(20, 60, tmp_path / "b", 0, given=True)]
    here = Part(tmp_path, remote(content), runs)
    assert here.done_bytes == 40
    assert here.claim(1000) == (0, 20)
    writer = Writer(here, 0)
    writer.write(memoryview(content[:20]))
    assert here.hash_all(never) == remote(content).checksum
    (tmp_path / "b").write_bytes(content[20:50])
    with pytest.raises(GivenGone):
        here.hash_all(never)


def test_other_places_are_another_part(tmp_path: Path) -> None:
    content = bytes(range(60))
    whole(tmp_path, content, [Run(0, 60, tmp_path / "a.tmp", 0)]).note_verified()
    assert Part(tmp_path, remote(content), [Run(0, 60, tmp_path / "a.tmp", 8)]).done_bytes == 0


def test_a_thread_that_comes_late_writes_nothing(tmp_path: Path) -> None:
    here = Part(tmp_path, remote(bytes(60)), [Run(0, 60, tmp_path / "a.tmp", 0)])
    writer = Writer(here, 0)
    writer.write(memoryview(bytes(10)))
    here.close()
    (tmp_path / "a.tmp").rename(tmp_path / "a")
    with pytest.raises(ValueError, match="closed"):
        writer.write(memoryview(b"x" * 10))
    assert (tmp_path / "a").read_bytes() == bytes(10)
    assert not (tmp_path / "a.tmp").exists()
