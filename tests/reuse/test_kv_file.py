"""What was read of a conversation, in a file: whole, of this model, or of no use at all."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx import kv_file
from gptoss_mlx.cache import FullLayerCache
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import GptOssError, NotEnoughDisk, UsageError
from gptoss_mlx.kv_file import MAGIC, read_kv_file, write_kv_file
from gptoss_mlx.kv_pool import HeldCache, KVPool
from gptoss_mlx.kv_record import KVRecord, UnusableKV, record, restore
from gptoss_mlx.model import Model
from gptoss_mlx.model_identity import model_identity
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.ops import Ops, Recording, ReferenceOps, use_ops
from gptoss_mlx.weights import load_model
from tests.model.recorded_ops import RecordedOps
from tests.random_checkpoint import random_checkpoint, tiny_config
from tests.reuse.sessions import END, USER, Session, Turn, said
from tests.tolerances import relative_errors

WINDOW = 8
SMALL = {
    "sliding_window": WINDOW,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("kv")
    return random_checkpoint(folder, seed=5, **SMALL)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder, dtype=mx.float32)


@pytest.fixture(scope="module")
def short(folder: Path) -> Model:
    """The same in bfloat16."""
    return load_model(folder, dtype=mx.bfloat16)


def words(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 50, count).tolist()


def held_after(model: Model, tokens: int, decoded: int = 0) -> HeldCache:
    """A cache that has read so many tokens as a prompt, and `decoded` more one by one."""
    pool, prompt = KVPool(1 << 40), [*words(tokens - 1), END]
    held = pool.take(model.make_cache, prompt, start=tokens, end_ids={END})
    mx.eval(model.read(mx.array([prompt]), held.cache))
    held.collect()
    for token in words(decoded, 1):
        mx.eval(model.read(mx.array([[token]]), held.cache))
        held.heard(token, held.cache.offset)
    pool.give_back(held, prompt + words(decoded, 1))
    return held


def logits_after(model: Model, held: HeldCache, tokens: list[int]) -> np.ndarray:
    return np.array(model(mx.array([tokens]), held.cache)[0].astype(mx.float32))


@pytest.fixture
def file(model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "chat.kv"
    write_kv_file(path, record(held_after(model, 40, 5), 45, "model"))
    return path


@pytest.mark.parametrize("ops", [ReferenceOps(), RecordedOps(Recording(ring=True, full=True))], ids=["plain", "recent"])
@pytest.mark.parametrize(("tokens", "decoded"), [(1, 0), (5, 0), (7, 3), (40, 0), (300, 9)])
@pytest.mark.parametrize("precision", ["model", "short"])
def test_what_comes_back_is_bit_for_bit_what_was_written(
    request: pytest.FixtureRequest, tmp_path: Path, ops: Ops, tokens: int, decoded: int, precision: str
):
    model: Model = request.getfixturevalue(precision)
    with use_ops(ops):
        held = held_after(model, tokens, decoded)
        kept = record(held, tokens + decoded, "model")
        size = write_kv_file(tmp_path / "a.kv", kept)
        assert size == (tmp_path / "a.kv").stat().st_size
        again = restore(read_kv_file(tmp_path / "a.kv"), "model", model.config, model.dtype)
        assert again.tokens == held.tokens
        assert (again.start, again.cache.offset) == (tokens, tokens + decoded)
        assert {place.offset for place in again.places} <= {*(place.offset for place in held.places), tokens + decoded}
        # The same rows in the same order: what follows is computed in the same way, and equal to the last bit.
        np.testing.assert_array_equal(logits_after(model, again, words(4, 2)), logits_after(model, held, words(4, 2)))


def test_places_come_along_and_can_be_gone_back_to(model: Model, tmp_path: Path):
    session = Session(model, KVPool(1 << 40))
    chat = (said(USER, words(9)),)
    for seed in range(6):
        chat = (*session.ask(chat, Turn()), said(USER, words(9, seed)))
    (held,) = session.pool._held
    write_kv_file(tmp_path / "a.kv", record(held, len(held.tokens), "model"))
    again = restore(read_kv_file(tmp_path / "a.kv"), "model", model.config, model.dtype)
    known = {place.offset for place in held.places}
    assert len(again.places) == 6
    assert {place.offset for place in again.places[:-1]} <= known
    for length in range(1, len(held.tokens)):
        other = [*held.tokens[:length], 60, 60]
        assert again.usable(other) <= held.usable(other)
    for place in reversed(again.places):
        again.go_to(place.offset)
        cold = model(mx.array([[*held.tokens[: place.offset], 3]]))[0, -1:]
        assert relative_errors(logits_after(model, again, [3]), np.array(cold)).max() < 1e-5
        again.cache.restore(place)


def test_a_part_of_what_was_read_can_be_kept_alone(model: Model):
    held = held_after(model, 40, 5)
    kept = record(held, held.usable([*held.tokens[:40], 60, 60]), "model")
    assert kept.tokens == 40
    again = restore(kept, "model", model.config, model.dtype)
    assert again.tokens == held.tokens[:40]
    assert held.cache.offset == 45


def test_every_flipped_byte_of_the_header_is_found_and_those_of_the_body_that_are_tried(file: Path):
    content = file.read_bytes()
    header = len(MAGIC) + 8 + int.from_bytes(content[len(MAGIC) : len(MAGIC) + 8], "little")
    places = [*range(header), *range(header, len(content), 97), *range(len(content) - 40, len(content))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(UnusableKV):
            read_kv_file(file)


def test_a_file_that_was_cut_or_grew_is_found(file: Path):
    content = file.read_bytes()
    for length in [*range(400), *range(400, len(content), 211), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(UnusableKV):
            read_kv_file(file)
    for more in (b"\0", content):
        file.write_bytes(content + more)
        with pytest.raises(UnusableKV):
            read_kv_file(file)
    file.unlink()
    with pytest.raises(UnusableKV, match="cannot be read"):
        read_kv_file(file)


def test_another_model_another_precision_and_another_shape_are_refused(file: Path, model: Model, short: Model):
    kept = read_kv_file(file)
    with pytest.raises(UnusableKV, match="another model"):
        restore(kept, "other", model.config, model.dtype)
    with pytest.raises(UnusableKV, match="holds float32"):
        restore(kept, "model", model.config, short.dtype)
    for change in ({"num_key_value_heads": 2}, {"sliding_window": 16}, {"num_hidden_layers": 4}, {"head_dim": 32}):
        config = ModelConfig.from_dict(tiny_config(**{**SMALL, **change}))
        with pytest.raises(UnusableKV, match=r"shapes|layers"):
            restore(kept, "model", config, model.dtype)
    config = ModelConfig.from_dict(tiny_config(**{**SMALL, "vocab_size": 40}))
    with pytest.raises(UnusableKV, match="vocabulary"):
        restore(kept, "model", config, model.dtype)


@pytest.mark.parametrize(
    "change",
    [
        {"places": ()},
        {"places": ((45, (37,)), (41, (33,)))},
        {"places": ((0, (0,)),)},
        {"places": ((45, ()),)},
        {"places": ((45, (46,)),)},
        {"bits": 4},
        {"arrays": ()},
    ],
    ids=str,
)
def test_a_record_that_contradicts_itself_is_refused(file: Path, model: Model, change: dict):
    with pytest.raises(UnusableKV):
        restore(replace(read_kv_file(file), **change), "model", model.config, model.dtype)


@pytest.mark.parametrize("header", [b"", b"[]", b"{}", b"nonsense", b'{"arrays": [["object", [1]]]}'])
def test_a_header_without_sense_is_refused_even_with_a_right_sum(tmp_path: Path, header: bytes):
    import hashlib

    content = MAGIC + len(header).to_bytes(8, "little") + header
    (tmp_path / "a.kv").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(UnusableKV, match="no sense"):
        read_kv_file(tmp_path / "a.kv")


def test_an_older_file_stays_when_writing_fails(
    file: Path, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = file.read_bytes()
    kept = record(held_after(model, 60), 60, "model")
    for error, kind in (
        (OSError(28, "No space left on device"), NotEnoughDisk),
        (OSError(5, "Input/output error"), GptOssError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kv_file.os, "fsync", lambda handle, error=error: (_ for _ in ()).throw(error))
            with pytest.raises(kind, match="read anew"):
                write_kv_file(file, kept)
    with monkeypatch.context() as patch:
        patch.setattr(kv_file.os, "fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_kv_file(file, kept)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(GptOssError, match="cannot be written"):
        write_kv_file(tmp_path / "nowhere" / "a.kv", kept)


def rows_of(held: HeldCache) -> np.ndarray:
    """All that the first full layer holds."""
    layer = held.cache.layers[1]
    assert isinstance(layer, FullLayerCache)
    (rows,) = layer.rows(held.cache.offset)
    return np.array(rows.astype(mx.float32))


def test_eight_bits_halve_the_rows_and_change_them_by_no_more_than_half_a_step(short: Model, tmp_path: Path):
    held = held_after(short, 400)
    plain, cut = record(held, 400, "model"), record(held, 400, "model", 8)
    write_kv_file(tmp_path / "a.kv", cut)
    again = restore(read_kv_file(tmp_path / "a.kv"), "model", short.config, short.dtype)
    # One scale for 16 values here; 64 in the models of OpenAI.
    rows = plain.arrays[2].nbytes
    assert sum(array.nbytes for array in cut.arrays[2:4]) <= rows * (0.5 + 4 / 32)
    exact, found = rows_of(held), rows_of(again)
    steps = np.abs(exact).max(axis=-1, keepdims=True) / 127
    # Half a step, and a rounding to bfloat16.
    assert (np.abs(found - exact) <= 0.5 * steps + 2**-8 * np.abs(exact) + 1e-6).all()
    with pytest.raises(UsageError, match="bits is 4"):
        record(held, 400, "model", 4)


def test_a_models_identity_is_its_content(folder: Path, tmp_path: Path, conversions):
    assert model_identity(folder) == model_identity(folder)
    assert model_identity(folder) != model_identity(POCKET_FOLDER)
    assert len({model_identity(Path(conversions(bits))) for bits in (None, 8, 4)}) == 3
    other = random_checkpoint(tmp_path / "a", seed=5, **SMALL)
    first = model_identity(other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 10000}))
    assert model_identity(other) != first
    assert model_identity(random_checkpoint(tmp_path / "b", seed=6, **SMALL)) != first


def test_a_record_tells_its_size(model: Model):
    kept: KVRecord = record(held_after(model, 40), 40, "model")
    assert kept.nbytes == sum(array.nbytes for array in kept.arrays)
    assert kept.tokens == 40
