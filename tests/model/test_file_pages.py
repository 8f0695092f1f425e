"""Pages of a file in place of memory: the same bytes wherever they lie, private, and as good as read."""

import mmap
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_mlx import tensor_file
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.device import this_device
from gptoss_mlx.errors import WeightsError
from gptoss_mlx.file_pages import PAGE_BYTES, can_replace_pages, first_byte, read_ahead, replace_pages
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.weights import load_model
from tests.random_checkpoint import random_checkpoint

PAGES = 6
PROMPT = mx.array([[5, 1, 3020]])

needs_pages = pytest.mark.skipif(
    not can_replace_pages() or this_device().gpu, reason="needs Linux with glibc, and MLX without a GPU"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with embedding, lm_head and experts of more than 32 MiB each."""
    return random_checkpoint(
        tmp_path_factory.mktemp("large") / "published",
        vocab_size=3021,
        hidden_size=6144,
        intermediate_size=128,
        num_local_experts=48,
        num_hidden_layers=2,
    )


@pytest.fixture(scope="module")
def converted(published: Path) -> Path:
    target = published.with_name("converted")
    return convert_model(published, target, tokenizer=POCKET_FOLDER / "tokenizer.json").folder


def logits(folder: Path) -> np.ndarray:
    return np.array(load_model(folder, dtype=mx.float32)(PROMPT)[0])


@needs_pages
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, 2 * PAGE_BYTES), length=st.integers(1, 4 * PAGE_BYTES), slack=st.integers(0, 99))
def test_any_part_of_a_file_becomes_memory(tmp_path: Path, offset: int, length: int, slack: int) -> None:
    content = np.random.default_rng(0).integers(0, 256, PAGES * PAGE_BYTES, dtype=np.uint8)
    file = tmp_path / "file"
    content.tofile(file)
    # Memory of its own, as the C library's large allocations are.
    whole = np.frombuffer(mmap.mmap(-1, (PAGES + 1) * PAGE_BYTES), dtype=np.uint8)[slack:]
    whole[:] = 7
    begin = first_byte(whole, offset)
    assert begin < PAGE_BYTES
    exact = whole[begin : begin + length]
    start, stop = replace_pages(exact, file, offset)
    assert stop - start >= length - 2 * PAGE_BYTES
    np.testing.assert_array_equal(exact[start:stop], content[offset + start : offset + stop])
    assert (exact[:start] == 7).all()
    assert (exact[stop:] == 7).all()
    assert (whole[:begin] == 7).all()
    assert (whole[begin + length :] == 7).all()
    exact[:] = 9
    np.testing.assert_array_equal(np.fromfile(file, dtype=np.uint8), content)


@needs_pages
def test_pages_past_the_end_of_a_file_are_not_mapped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(2 * PAGE_BYTES - 1))
    whole = np.frombuffer(mmap.mmap(-1, 4 * PAGE_BYTES), dtype=np.uint8)
    assert replace_pages(whole[: 2 * PAGE_BYTES], tmp_path / "file", 0) == (0, 0)
    assert replace_pages(whole[:PAGE_BYTES], tmp_path / "gone", 0) == (0, 0)
    assert replace_pages(whole[:PAGE_BYTES], tmp_path / "file", 0) == (0, PAGE_BYTES)


def test_reading_ahead_minds_no_file_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * PAGE_BYTES))
    read_ahead([(tmp_path / "gone", 0, PAGE_BYTES), (tmp_path / "file", 1, 9 * PAGE_BYTES)])
    for thread in threading.enumerate():
        if thread.name == "gptoss-read-ahead":
            thread.join(30)
            assert not thread.is_alive()


def test_a_mapped_model_is_the_published_one_to_the_bit(published: Path, converted: Path) -> None:
    np.testing.assert_array_equal(logits(converted), logits(published))


def test_reading_where_pages_cannot_be_replaced_gives_the_same(
    converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(converted)
    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "replace_pages", lambda *arguments: (0, 0))
        np.testing.assert_array_equal(logits(converted), expected)
    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "can_replace_pages", lambda: False)
        patch.setattr(tensor_file, "replace_pages", lambda *arguments: pytest.fail("pages were replaced"))
        np.testing.assert_array_equal(logits(converted), expected)
    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "first_byte", lambda buffer, offset: 3)
        np.testing.assert_array_equal(logits(converted), expected)


def test_large_weights_stay_bfloat16_where_the_model_computes_in_float32(converted: Path) -> None:
    model = load_model(converted, dtype=mx.float32)
    assert model.lm_head.weight.dtype == model.embedding.weight.dtype == mx.bfloat16
    assert model.layers[0].attention.qkv.weight.dtype == mx.float32
    half = load_model(converted, dtype=mx.float16)
    assert half.lm_head.weight.dtype == mx.float16


@needs_pages
def test_a_model_whose_files_are_removed_or_replaced_goes_on(published: Path, tmp_path: Path) -> None:
    folder = convert_model(published, tmp_path / "ours", tokenizer=POCKET_FOLDER / "tokenizer.json").folder
    model = load_model(folder, dtype=mx.float32)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    np.testing.assert_array_equal(np.array(model(PROMPT)[0]), logits(published))


def test_a_mapped_file_that_was_cut_off_before_is_an_error_and_no_crash(published: Path, tmp_path: Path) -> None:
    folder = convert_model(published, tmp_path / "ours", tokenizer=POCKET_FOLDER / "tokenizer.json").folder

    def cut(done: int, total: int) -> None:
        with (folder / "layer-01.safetensors").open("r+b") as file:
            file.truncate(1 << 20)

    with pytest.raises(WeightsError, match=r"layer-01\.safetensors ends inside tensor layers\.1\."):
        load_model(folder, progress=cut)


MEMORY_SCRIPT = """
import sys
import threading
from pathlib import Path
import mlx.core as mx
from gptoss_mlx.weights import load_model

def anonymous():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

before = anonymous()
model = load_model(sys.argv[1], dtype=mx.float32)
mx.eval(model(mx.array([[5, 1, 7]])))
print(anonymous() - before)
"""


@needs_pages
def test_a_mapped_model_takes_no_memory_of_its_own_for_large_tensors(published: Path, converted: Path) -> None:
    taken = []
    for folder in (published, converted):
        command = [sys.executable, "-c", MEMORY_SCRIPT, str(folder)]
        taken.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    large = sum(
        array.nbytes
        for file in converted.glob("*.safetensors")
        for array in mx.load(str(file)).values()  # type: ignore[union-attr]
        if array.nbytes > 32 << 20
    )
    assert large > 120 << 20
    assert taken[0] - taken[1] > 0.9 * large
