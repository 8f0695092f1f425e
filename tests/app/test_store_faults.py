"""A store outlives what disks, other programs and other versions do to its file; nothing that was said is lost."""

import dataclasses
import os
import random
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.store import Store, database
from gptoss_mlx.app.store.schema import VERSION
from gptoss_mlx.errors import StoreError, UsageError
from gptoss_mlx.harmony import Message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "chats.sqlite3"


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)


def say(store: Store, question: str, conversation: int | None = None) -> int:
    """Says something at the reader's place; a new conversation when none is given."""
    identifier = store.create(date="2026-01-31").id if conversation is None else conversation
    leaf = store.get(identifier).leaf
    asked = store.add_turn(identifier, Turn(0, leaf, "user", (Message.user(question),), text=question))
    reply = store.add_turn(identifier, Turn(0, asked.id, "assistant", state="running"))
    store.save_turn(
        dataclasses.replace(reply, messages=(Message.assistant(f"re: {question}"),), state="complete", model="20b")
    )
    return identifier


def texts(store: Store, conversation: int) -> list[str]:
    return [turn.text or turn.answer for turn in store.path(conversation, store.get(conversation).leaf)]


def is_sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as db:
            return db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    except sqlite3.DatabaseError:
        return False


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Files cannot grow beyond `limit` bytes, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_the_chat_goes_on_and_is_saved_when_there_is_room(path: Path):
    with Store(path) as store:
        before = say(store, "before")
        with full_disk(1000):
            say(store, "in the old one", before)
            assert store.trouble is not None
            assert str(path) in store.trouble
            assert "kept in memory" in store.trouble
            assert store.unsaved == 2
            new = say(store, "meanwhile")
            assert store.unsaved == 4
            assert texts(store, new) == ["meanwhile", "re: meanwhile"]
            assert [summary.id for summary in store.list("meanw")] == [new]
            assert not store.retry()
        with Store(path) as other:
            assert [summary.id for summary in other.list()] == [before]
            third = say(other, "third")
        say(store, "after", new)
        assert store.trouble is None
        assert store.unsaved == 0
        assert store.retry()
    assert is_sound(path)
    with Store(path) as store:
        assert texts(store, new) == ["meanwhile", "re: meanwhile", "after", "re: after"]
        assert texts(store, before) == ["before", "re: before", "in the old one", "re: in the old one"]
        assert texts(store, third) == ["third", "re: third"]
        assert [summary.id for summary in store.list("meanw")] == [new]
        assert store.get(new).model == "20b"
        # Ids go on where they were.
        assert say(store, "next") < 10


def test_a_change_made_in_memory_is_saved_when_the_store_is_closed(path: Path):
    store = Store(path)
    old = say(store, "old")
    with full_disk(1000):
        store.rename(old, "renamed")
        store.delete(say(store, "new"))
    store.close()
    with Store(path) as store:
        assert store.get(old).title == "renamed"
        assert [summary.title for summary in store.list(deleted=True)] == ["new"]


def test_a_long_chat_in_memory_and_many_short_ones_find_room_for_their_turns(path: Path):
    with Store(path) as store:
        conversation = say(store, "before")
        with full_disk(1000):
            for number in range(150):
                say(store, f"{number}", conversation)
        for number in range(10):
            with full_disk(1000):
                say(store, f"short {number}", conversation)
            assert store.retry()
    with Store(path) as store:
        assert len(texts(store, conversation)) == 2 * (1 + 150 + 10)


def test_threads_that_write_while_the_disk_fills_up_and_empties_lose_nothing(path: Path):
    said: dict[int, list[int]] = {}
    errors: list[BaseException] = []
    end = time.monotonic() + 1.5

    def work(name: int) -> None:
        try:
            conversation = store.create(date="2026-01-31").id
            turns: list[Turn] = []
            while time.monotonic() < end:
                parent = turns[-1].id if turns else None
                turns.append(store.add_turn(conversation, Turn(0, parent, "user", text=f"{name} {len(turns)}")))
                store.save_turn(dataclasses.replace(turns[-1], error="saved"))
                assert len(store.path(conversation, turns[-1].id)) == len(turns)
            said[conversation] = [turn.id for turn in turns]
        except BaseException as error:
            errors.append(error)

    with Store(path) as store:
        threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            with full_disk(1000):
                time.sleep(0.05)
            time.sleep(0.05)
        for thread in threads:
            thread.join()
    assert errors == []
    assert is_sound(path)
    with Store(path) as store:
        for conversation, turns in said.items():
            kept = store.path(conversation, store.get(conversation).leaf)
            assert [turn.id for turn in kept] == turns
            assert {turn.error for turn in kept} == {"saved"}


def test_an_answer_that_runs_when_the_disk_fills_up_is_kept(path: Path):
    with Store(path) as store:
        conversation = store.create(date="2026-01-31").id
        asked = store.add_turn(conversation, Turn(0, None, "user", text="q"))
        turn = store.add_turn(conversation, Turn(0, asked.id, "assistant", state="running"))
        with full_disk(1000):
            for length in (1, 2, 3):
                turn = dataclasses.replace(turn, messages=(Message.assistant("word " * length),))
                store.save_turn(turn)
            assert store.turn(turn.id) == turn
        turn = dataclasses.replace(turn, state="complete")
        store.save_turn(turn)
    with Store(path) as store:
        assert store.turn(turn.id) == turn
        assert store.list("word")[0].id == conversation


def test_a_file_that_another_program_holds_is_written_later(path: Path):
    with Store(path) as store:
        say(store, "before")
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            conversation = say(store, "while it is held")
            assert store.trouble is not None
            assert "another program holds it" in store.trouble
            holder.execute("ROLLBACK")
        assert store.retry()
        assert store.trouble is None
    with Store(path) as store:
        assert texts(store, conversation) == ["while it is held", "re: while it is held"]


def test_a_home_that_cannot_be_made_leaves_the_chat_in_memory(tmp_path: Path):
    (tmp_path / "home").write_text("a file, no folder")
    with Store(tmp_path / "home" / "chats.sqlite3") as store:
        assert store.trouble is not None
        conversation = say(store, "anyway")
        assert texts(store, conversation) == ["anyway", "re: anyway"]
        (tmp_path / "home").unlink()
    with Store(tmp_path / "home" / "chats.sqlite3") as store:
        assert texts(store, conversation) == ["anyway", "re: anyway"]


READ_ONLY = """
import os, sys
from pathlib import Path
from gptoss_mlx.app.store import Store
if os.getuid() == 0:
    os.setuid(65534)
with Store(Path(sys.argv[1])) as store:
    print(store.trouble)
    print([summary.title for summary in store.list("bef")])
    conversation = store.create(date="2026-01-31").id
    store.rename(conversation, "mine")
    print(store.get(conversation).title)
"""


@pytest.mark.parametrize("log_is_there", [False, True])
def test_a_home_that_may_only_be_read_shows_the_chats(tmp_path_factory: pytest.TempPathFactory, log_is_there: bool):
    # Under a folder that others may enter: the test may run as root, which may write everywhere.
    home = Path(subprocess.check_output(["mktemp", "-d", "/tmp/gptoss-read-only-XXXXXX"], text=True).strip())
    path = home / "chats.sqlite3"
    try:
        store = Store(path)
        say(store, "before")
        if log_is_there:
            # As after a kill: what was said last is in the log only.
            for ending in ("", "-wal"):
                shutil.copyfile(f"{path}{ending}", f"{path}{ending}.copy")
            store.close()
            for ending in ("", "-wal"):
                os.replace(f"{path}{ending}.copy", f"{path}{ending}")
        else:
            store.close()
        for file in home.iterdir():
            file.chmod(0o444 if file.is_file() else 0o555)
        home.chmod(0o555)
        lines = subprocess.check_output([sys.executable, "-c", READ_ONLY, str(path)], text=True).splitlines()
        assert str(path) in lines[0]
        assert lines[1:] == ["['before']", "mine"]
    finally:
        home.chmod(0o755)
        shutil.rmtree(home)


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path):
    with Store(path) as store:
        say(store, "before")
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    data = path.read_bytes()
    with pytest.raises(StoreError, match=r"written by a newer gptoss .* update"):
        Store(path)
    assert path.read_bytes() == data


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE bookmarks (address TEXT)")
    data = path.read_bytes()
    with pytest.raises(StoreError, match="of another program"):
        Store(path)
    assert path.read_bytes() == data


def damaged_files(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if re.search(r"-damaged-[\d-]+$", file.name)]


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_moved_aside_and_the_chat_begins(path: Path, content: bytes):
    path.parent.mkdir()
    path.write_bytes(content)
    with Store(path) as store:
        (notice,) = store.take_notices()
        assert store.take_notices() == []
        (aside,) = damaged_files(path)
        assert notice == f"{path} was damaged and is now {aside.name}; nothing could be read of it"
        assert aside.read_bytes() == content
        conversation = say(store, "anew")
    with Store(path) as store:
        assert store.take_notices() == []
        assert texts(store, conversation) == ["anew", "re: anew"]


def damage_last_pages(data: bytearray) -> None:
    data[-3 * 4096 :] = b"\xa5" * (3 * 4096)


def cut_in_half(data: bytearray) -> None:
    del data[len(data) // 2 :]


def damage_schema_cookie_page(data: bytearray) -> None:
    data[100:1000] = b"\x00" * 900


def damage_middle(data: bytearray) -> None:
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = os.urandom(4096)


@pytest.mark.parametrize(
    ("damage", "least_kept"),
    [(damage_last_pages, 10), (cut_in_half, 5), (damage_schema_cookie_page, 0), (damage_middle, 20)],
)
def test_what_can_be_read_of_a_damaged_file_is_recovered(
    path: Path, damage: Callable[[bytearray], None], least_kept: int
):
    with Store(path) as store:
        for number in range(40):
            say(store, f"question {number} " + "long " * 300)
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    with Store(path) as store:
        kept = 0
        for summary in store.list(limit=None):
            leaf = store.get(summary.id).leaf
            if leaf is not None:
                kept += len(store.path(summary.id, leaf)) > 0
        store.list("question")
        notices = store.take_notices()
        conversation = say(store, "after the damage")
        notices += store.take_notices()
        assert len(notices) <= 1
        assert kept >= least_kept
        if notices:
            assert len(damaged_files(path)) == 1
            assert bytes(data) == damaged_files(path)[0].read_bytes()
    # Damage where nothing was read is not found, and does no harm yet.
    assert is_sound(path) or not notices
    with Store(path) as store:
        assert texts(store, conversation) == ["after the damage", "re: after the damage"]
        assert store.list("after the damage")


def random_damage(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(100, len(data))
    match draw.randrange(4):
        case 0:
            for _ in range(draw.choice([1, 10, 200])):
                data[draw.randrange(100, len(data))] = draw.randrange(256)
        case 1:
            page = place // 4096 * 4096
            data[page : page + 4096] = draw.randbytes(4096)
        case 2:
            del data[place:]
        case 3:
            del data[place : place + draw.choice([10, 4096, 50_000])]


@pytest.mark.slow
def test_no_damage_keeps_the_chat_from_beginning(tmp_path: Path):
    with Store(tmp_path / "whole") as store:
        for number in range(40):
            say(store, f"question {number} " + "long " * 7 * number)
    whole = (tmp_path / "whole").read_bytes()
    draw = random.Random(2)
    refused: list[str] = []
    for number in range(100):
        data = bytearray(whole)
        random_damage(data, draw)
        path = tmp_path / str(number) / "chats.sqlite3"
        path.parent.mkdir()
        path.write_bytes(data)
        try:
            with Store(path) as store:
                store.mark_interrupted()
                for summary in store.list("question"):
                    with suppress(UsageError):
                        texts(store, summary.id)
                conversation = say(store, "after the damage")
                assert texts(store, conversation) == ["after the damage", "re: after the damage"]
                assert store.trouble is None
        except StoreError as error:
            # A word of the schema itself was hit.
            refused.append(str(error))
    assert len(refused) <= 5
    assert all("away to begin anew" in sentence for sentence in refused)


def test_a_damaged_index_is_mended_and_nothing_is_moved(path: Path):
    with Store(path) as store:
        conversation = say(store, "elephant")
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM search_data WHERE id > 10")
        db.commit()
    with Store(path) as store:
        assert [summary.id for summary in store.list("elephant")] == [conversation]
        assert damaged_files(path) == []


def test_when_the_file_is_deleted_while_it_is_open_the_chat_that_goes_on_is_kept_and_no_other(path: Path):
    with Store(path) as store:
        conversation, other = say(store, "before"), say(store, "other")
        for file in path.parent.iterdir():
            if file.is_file():
                file.unlink()
        say(store, "after", conversation)
        assert store.retry()
        assert [summary.id for summary in store.list()] == [conversation]
    with Store(path) as store:
        assert texts(store, conversation) == ["before", "re: before", "after", "re: after"]
        assert [summary.id for summary in store.list()] == [conversation]
        # The other one's number is not given again while an app may still show it.
        assert say(store, "next") != other


def test_a_store_that_is_closed_without_a_place_to_write_can_be_closed_again(tmp_path: Path):
    (tmp_path / "home").write_text("a file, no folder")
    store = Store(tmp_path / "home" / "chats.sqlite3")
    say(store, "lost")
    assert store.unsaved == 2
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        store.list()


def test_a_store_that_was_closed_says_so(path: Path):
    store = Store(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        store.list()
