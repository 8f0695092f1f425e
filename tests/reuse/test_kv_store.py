"""The folder of kept conversations, and resuming one: quickly where a file helps, rightly where it does not."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptoss_mlx import Chat, GptOss, KVSaved, KVStore, UsageError, load
from gptoss_mlx.settings import kv_folder

OPTIONS: dict[str, Any] = {"date": "2026-01-31", "temperature": 0}


class Writer:
    """Stands for a model: a chat is the number of bytes that its file gets."""

    def save_kv(self, chat: int, path: Path, *, bits: int | None = None) -> KVSaved:
        path.write_bytes(b"x" * chat)
        return KVSaved(path, chat, chat, 0.0, 0.0)

    def load_kv(self, path: Path) -> int:
        return path.stat().st_size if path.stat().st_size % 2 == 0 else 0


def age(store: KVStore, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store.path(key), (then, then))


def test_the_files_used_longest_ago_go_when_the_folder_is_full(tmp_path: Path):
    store = KVStore(tmp_path / "kv", limit_bytes=250)
    assert (store.entries(), store.total_bytes) == ([], 0)
    for number, key in enumerate(("a", "b")):
        store.save(Writer(), 100, key)
        age(store, key, 100 - number)
    assert store.load(Writer(), "a") == 100
    store.save(Writer(), 100, "c")
    assert [entry.key for entry in store.entries()] == ["a", "c"]
    assert store.total_bytes == 200
    assert store.load(Writer(), "b") == 0
    store.save(Writer(), 300, "d")
    assert store.entries() == []


def test_a_file_that_is_of_no_use_does_not_count_as_used(tmp_path: Path):
    store = KVStore(tmp_path)
    store.save(Writer(), 101, "a")
    age(store, "a", 50)
    before = store.entries()[0].last_used
    assert store.load(Writer(), "a") == 0
    assert store.entries()[0].last_used == before
    store.remove("a")
    store.remove("a")
    assert store.entries() == []


def test_what_a_killed_save_left_is_swept_up_later(tmp_path: Path):
    store = KVStore(tmp_path)
    old, new = tmp_path / ".a.kv.123.part", tmp_path / ".b.kv.456.part"
    for part in (old, new):
        part.write_bytes(b"x")
    os.utime(old, (1, 1))
    store.save(Writer(), 10, "c")
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("key", ["", ".", "..", ".hidden", "a/b", "../a", "a\0", "ä", "x" * 101])
def test_a_key_never_leads_out_of_the_folder(tmp_path: Path, key: str):
    with pytest.raises(UsageError, match="names no conversation"):
        KVStore(tmp_path).path(key)


def test_the_folder_is_one_of_ours_and_its_limit_is_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    assert KVStore().folder == kv_folder() == tmp_path / "kv"
    with pytest.raises(UsageError, match="limit_bytes is -1"):
        KVStore(limit_bytes=-1)


def chat_of(model: GptOss) -> Chat:
    chat = model.chat(system="Answer in one sentence. " * 30)
    chat.send("What is 17 plus 25?")
    chat.send("And 3 more?")
    return chat


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, tuple[int, ...]]:
    """A folder with a chat and what was read of it; the tokens in it, and what the model says next."""
    folder: Path = tmp_path_factory.mktemp("resumed")
    with load("pocket", **OPTIONS) as model:
        chat = chat_of(model)
        chat.save(folder / "chat.json")
        saved = KVStore(folder).save(model, chat, "chat")
        assert saved.file_bytes == saved.path.stat().st_size == KVStore(folder).total_bytes
        assert saved.seconds >= saved.engine_seconds > 0
        return folder, saved.tokens, saved.path.name, chat.send("Reverse the word: stone").tokens


def test_a_chat_goes_on_the_next_day_where_it_was(answered: tuple[Path, int, str, tuple[int, ...]]):
    folder, tokens, _, expected = answered
    with load("pocket", **OPTIONS) as model:
        chat = Chat.load(model, folder / "chat.json")
        assert KVStore(folder).load(model, "chat") == tokens
        assert KVStore(folder).load(model, "chat") == tokens
        assert len(model.kv_pool) == 1
        reply = chat.send("Reverse the word: stone")
        assert reply.tokens == expected
        assert reply.stats.cached_tokens == tokens
        assert chat.regenerate().tokens == expected
        assert chat.edit(-2, "What is 1 plus 2?").stats.cached_tokens > 100


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [damaged, lambda content: content[:-1], lambda content: b"nonsense"])
def test_a_damaged_file_is_not_used_and_the_answer_is_right(
    answered: tuple[Path, int, str, tuple[int, ...]], tmp_path: Path, harm, caplog: pytest.LogCaptureFixture
):
    folder, _, name, expected = answered
    (tmp_path / name).write_bytes(harm((folder / name).read_bytes()))
    with load("pocket", **OPTIONS) as model, caplog.at_level(logging.INFO, "gptoss_mlx.kv"):
        chat = Chat.load(model, folder / "chat.json")
        assert KVStore(tmp_path).load(model, "chat") == 0
        assert "is not used" in caplog.text
        reply = chat.send("Reverse the word: stone")
        assert (reply.tokens, reply.stats.cached_tokens) == (expected, 0)


def test_other_models_and_models_that_keep_nothing_do_not_use_it(
    answered: tuple[Path, int, str, tuple[int, ...]], conversions
):
    folder = answered[0]
    with load(conversions(8), **OPTIONS) as model:
        assert KVStore(folder).load(model, "chat") == 0
    with load("pocket", reuse=False, **OPTIONS) as model:
        assert KVStore(folder).load(model, "chat") == 0
        assert model.save_kv(model.chat(), folder / "none.kv").tokens == 0
        assert not (folder / "none.kv").exists()


def test_eight_bits_change_what_the_pocket_model_predicts_by_little(
    answered: tuple[Path, int, str, tuple[int, ...]], tmp_path: Path
):
    with load("pocket", logprobs=True, **OPTIONS) as model:
        exact = chat_of(model)
        plain = model.save_kv(exact, tmp_path / "16.kv")
        cut = model.save_kv(exact, tmp_path / "8.kv", bits=8)
        assert cut.file_bytes < plain.file_bytes
        expected = exact.send("What is 40 plus 2?")
        chat = exact.fork()
        chat.undo()
        model.engine.call(lambda inner, ticket: model.kv_pool.clear())
        assert model.load_kv(tmp_path / "8.kv") == cut.tokens
        found = chat.send("What is 40 plus 2?")
        assert found.stats.cached_tokens == cut.tokens
    assert found.tokens == expected.tokens
    assert found.logprobs is not None
    assert expected.logprobs is not None
    assert np.abs(np.subtract(found.logprobs, expected.logprobs)).max() < 0.05
