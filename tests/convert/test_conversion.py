"""What a conversion makes, what stands in its way, and what it says."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.convert import conversion
from gptoss_mlx.convert.conversion import convert_model, default_destination
from gptoss_mlx.errors import NotEnoughDisk, TokenizerError, UsageError
from gptoss_mlx.manifest import read_manifest
from gptoss_mlx.models import find_model, list_models
from gptoss_mlx.ops import QuantizedLinear
from gptoss_mlx.safetensors_file import ITEM_BYTES, read_header
from gptoss_mlx.weights import load_model
from tests.convert.conftest import Layouts, logits
from tests.random_checkpoint import random_checkpoint


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for everything that gptoss keeps."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_holds_what_its_manifest_lists_and_nothing_else(layouts: Layouts, tmp_path: Path) -> None:
    report = convert_model(layouts.folder("huggingface"), tmp_path / "ours")
    manifest = read_manifest(report.folder)
    assert manifest is not None
    assert {path.name for path in report.folder.iterdir()} == {*manifest.files, "gptoss.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]
    assert report.total_bytes == manifest.total_bytes
    assert all((report.folder / name).stat().st_size == record.bytes for name, record in manifest.files.items())
    assert manifest.source.layout == "huggingface"
    assert len(manifest.source.files) == 3


def test_files_are_plain_safetensors_with_every_tensor_at_a_multiple_of_its_item(
    layouts: Layouts, tmp_path: Path
) -> None:
    folder = convert_model(layouts.folder("huggingface"), tmp_path / "ours", dense_bits=6).folder
    for file in folder.glob("*.safetensors"):
        entries = read_header(file)
        assert all(entry.offset % ITEM_BYTES[entry.dtype] == 0 for entry in entries)
        arrays = mx.load(str(file))
        assert isinstance(arrays, dict)
        assert {entry.name: entry.shape for entry in entries} == {name: a.shape for name, a in arrays.items()}


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_dense_bits_quantise_as_mlx_does_and_leave_the_rest_alone(layouts: Layouts, bits: int, tmp_path: Path) -> None:
    folder = convert_model(layouts.folder("huggingface"), tmp_path / "ours", dense_bits=bits).folder
    plain = load_model(layouts.folder("huggingface"), dtype=mx.bfloat16)
    ours = load_model(folder, dtype=mx.bfloat16)
    names = ("layers.0.attention.qkv", "layers.1.attention.output", "embedding", "lm_head")
    assert set(names) <= set(open_checkpoint(folder).quantised)
    pairs = [(plain.layers[0].attention.qkv, ours.layers[0].attention.qkv), (plain.lm_head, ours.lm_head)]
    for dense, quantised in [*pairs, (plain.embedding, ours.embedding)]:
        expected = mx.quantize(dense.weight, group_size=64, bits=bits)
        assert isinstance(quantised, QuantizedLinear)
        for found, part in zip((quantised.weight, quantised.scales, quantised.biases), expected, strict=True):
            assert mx.array_equal(found, part)
    for layer, other in zip(ours.layers, plain.layers, strict=True):
        assert mx.array_equal(layer.experts.router.weight, other.experts.router.weight)
        assert mx.array_equal(layer.experts.down.blocks, other.experts.down.blocks)


def test_more_bits_are_nearer_to_the_published_weights(layouts: Layouts, tmp_path: Path) -> None:
    exact = logits(layouts.folder("huggingface"))
    errors = []
    for bits in (8, 6, 4):
        folder = convert_model(layouts.folder("huggingface"), tmp_path / str(bits), dense_bits=bits).folder
        errors.append(np.abs(logits(folder) - exact).mean())
    assert 0 < errors[0] < errors[1] < errors[2]


def test_dense_weights_that_are_quantised_already_are_not_quantised_twice(layouts: Layouts, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quantised in the source already"):
        convert_model(layouts.folder("q8"), tmp_path / "ours", dense_bits=4)
    with pytest.raises(UsageError, match=r"dense_bits is 5; expected 8, 6, 4"):
        convert_model(layouts.folder("huggingface"), tmp_path / "ours", dense_bits=5)
    assert list(tmp_path.iterdir()) == []


def test_a_converted_model_goes_by_its_name(source: Path, home: Path) -> None:
    report = convert_model(source)
    assert report.folder == home / "models" / "gpt-oss-tiny" == default_destination(source, None)
    assert find_model("gpt-oss-tiny").folder == find_model("tiny").folder == report.folder
    convert_model(source, dense_bits=8)
    models, faults = list_models()
    assert [(model.name, model.dense_bits) for model in models] == [
        ("pocket", None),
        ("gpt-oss-tiny", None),
        ("gpt-oss-tiny-8bit", 8),
    ]
    assert faults == []


def test_original_takes_the_name_of_the_folder_around_it(layouts: Layouts, home: Path) -> None:
    assert default_destination(layouts.folder("original"), None) == home / "models" / "gpt-oss-tiny"


def test_the_hubs_cache_tells_repository_and_commit(source: Path, tmp_path: Path, home: Path) -> None:
    commit = "6cee5e81ee83917806bbde320786a8fb61efebee"
    cached = tmp_path / "hub" / "models--openai--gpt-oss-20b" / "snapshots" / commit
    shutil.copytree(source, cached)
    folder = convert_model(cached).folder
    manifest = read_manifest(folder)
    assert manifest is not None
    assert folder.name == "gpt-oss-20b"
    assert (manifest.source.repository, manifest.source.revision) == ("openai/gpt-oss-20b", commit)


def test_a_downloaded_folder_tells_its_commit(source: Path, tmp_path: Path) -> None:
    notes = source / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "config.json.metadata").write_text("6cee5e81ee83917806bbde320786a8fb61efebee\nabc\n1.0\n")
    manifest = read_manifest(convert_model(source, tmp_path / "ours").folder)
    assert manifest is not None
    assert manifest.source.revision == "6cee5e81ee83917806bbde320786a8fb61efebee"


def test_the_same_command_again_does_nothing(source: Path, tmp_path: Path) -> None:
    first = convert_model(source, tmp_path / "ours")
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = convert_model(source, tmp_path / "ours")
    assert again.already_there
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def test_what_is_at_the_destination_stays_unless_it_is_to_be_replaced(source: Path, tmp_path: Path) -> None:
    convert_model(source, tmp_path / "ours")
    kept = content(tmp_path / "ours")
    with pytest.raises(UsageError, match=r"ours holds another conversion already; .* --overwrite"):
        convert_model(source, tmp_path / "ours", dense_bits=4)
    assert content(tmp_path / "ours") == kept
    report = convert_model(source, tmp_path / "ours", dense_bits=4, overwrite=True)
    assert not report.already_there
    assert content(tmp_path / "ours") != kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt-oss-tiny", "ours"]


def test_a_folder_or_file_in_the_way_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"photos is there already and is no converted model"):
            convert_model(source, tmp_path / "photos", overwrite=overwrite)
        with pytest.raises(UsageError, match=r"cat\.jpg is there already"):
            convert_model(source, tmp_path / "photos" / "cat.jpg", overwrite=overwrite)
    (tmp_path / "photos").rename(tmp_path / "photos.partial")
    with pytest.raises(UsageError, match=r"photos\.partial is there already and is no stopped conversion"):
        convert_model(source, tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos.partial").iterdir()] == ["cat.jpg"]
    (tmp_path / "photos.partial").rename(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    (tmp_path / "empty").mkdir()
    assert convert_model(source, tmp_path / "empty").folder == tmp_path / "empty"


def test_a_damaged_conversion_is_replaced_only_on_request(source: Path, tmp_path: Path) -> None:
    whole = content(convert_model(source, tmp_path / "ours").folder)
    (tmp_path / "ours" / "head.safetensors").unlink()
    with pytest.raises(UsageError, match=r"damaged conversion: .*head\.safetensors is missing.*--overwrite"):
        convert_model(source, tmp_path / "ours")
    convert_model(source, tmp_path / "ours", overwrite=True)
    assert content(tmp_path / "ours") == whole


@pytest.mark.parametrize("place", [".", "..", "../gpt-oss-tiny"])
def test_the_source_is_no_destination(source: Path, place: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        convert_model(source, source / place)


def test_a_source_without_a_tokenizer_takes_one_by_name(source: Path, tmp_path: Path) -> None:
    tokenizer = (source / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing; .* name one with --tokenizer"):
        convert_model(source, tmp_path / "ours")
    folder = convert_model(source, tmp_path / "ours", tokenizer=tokenizer).folder
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()


def test_small_files_come_along(source: Path, tmp_path: Path) -> None:
    (source / "generation_config.json").write_text(json.dumps({"do_sample": True}))
    (source / "chat_template.jinja").write_text("{{ x }}")
    folder = convert_model(source, tmp_path / "ours").folder
    assert (folder / "generation_config.json").read_bytes() == (source / "generation_config.json").read_bytes()
    assert (folder / "chat_template.jinja").read_text() == "{{ x }}"


def test_two_conversions_to_one_destination_do_not_meet(source: Path, tmp_path: Path) -> None:
    (tmp_path / "ours.partial").mkdir()
    with (tmp_path / "ours.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another conversion is writing"):
            convert_model(source, tmp_path / "ours")
    assert convert_model(source, tmp_path / "ours").folder.is_dir()


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage._replace(free=70_000_000))
    assert convert_model(source, tmp_path / "fits").folder.is_dir()
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage._replace(free=67_000_000))
    with pytest.raises(NotEnoughDisk, match=r"takes 0\.1 GB more and the disk has 0\.1 GB free; free 0\.0 GB"):
        convert_model(source, tmp_path / "ours")
    assert not list((tmp_path / "ours.partial").glob("*.safetensors*"))


def test_a_disk_that_fills_up_meanwhile_loses_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(convert_model(source, tmp_path / "whole").folder)
    write, left = os.write, 600_000

    def full_disk(descriptor: int, data: memoryview) -> int:
        nonlocal left
        if len(data) > left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= len(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(NotEnoughDisk, match=r"is full; what is finished is kept"):
        convert_model(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    monkeypatch.undo()
    report = convert_model(source, tmp_path / "ours")
    assert report.resumed_bytes > 0
    assert content(report.folder) == whole


def test_a_half_done_conversion_of_something_else_is_not_gone_on_with(layouts: Layouts, tmp_path: Path) -> None:
    """The source changed, or other options were given, after the first attempt was stopped."""
    source = Path(shutil.copytree(layouts.folder("huggingface"), tmp_path / "source"))
    stop_after(source, tmp_path / "ours", files=2)
    whole = content(convert_model(source, tmp_path / "whole", dense_bits=8).folder)
    report = convert_model(source, tmp_path / "ours", dense_bits=8)
    assert report.resumed_bytes == 0
    assert content(report.folder) == whole
    stop_after(source, tmp_path / "other", files=2)
    shard = source / "model-00000-of-00002.safetensors"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    assert convert_model(source, tmp_path / "other").resumed_bytes == 0


def stop_after(source: Path, destination: Path, *, files: int) -> None:
    """A conversion that an error stops once that many files are finished."""

    class StoppedError(Exception):
        pass

    def progress(done: int, total: int) -> None:
        partial = destination.with_name(destination.name + ".partial")
        if len(list(partial.glob("*.safetensors"))) >= files:
            raise StoppedError

    with pytest.raises(StoppedError):
        convert_model(source, destination, progress=progress)
    assert not destination.exists()


def test_progress_rises_to_all_bytes(source: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = convert_model(source, tmp_path / "ours", progress=lambda done, total: calls.append((done, total))).folder
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (size, size)


MEMORY_SCRIPT = """
import resource, sys
from pathlib import Path
from gptoss_mlx.convert.conversion import convert_model
convert_model(sys.argv[1], sys.argv[2], tokenizer=sys.argv[3], dense_bits=int(sys.argv[4]) or None)
status = Path("/proc/self/status")
if status.exists():  # on Linux getrusage gives a child the peak of the process that started it
    print(next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("bits", [0, 8])
def test_memory_does_not_grow_with_the_model(layouts: Layouts, tmp_path: Path, bits: int) -> None:
    tokenizer = layouts.folder("huggingface") / "tokenizer.json"
    peaks = []
    for name, hidden, experts in (("small", 256, 8), ("large", 8192, 64)):
        folder = random_checkpoint(
            tmp_path / name, vocab_size=3021, num_local_experts=experts, hidden_size=hidden, num_hidden_layers=2
        )
        arguments = [str(folder), str(tmp_path / f"{name}-ours"), str(tokenizer), str(bits)]
        command = [sys.executable, "-c", MEMORY_SCRIPT, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    size = sum(file.stat().st_size for file in (tmp_path / "large").iterdir())
    assert size > 200 << 20
    assert peaks[1] - peaks[0] < 100 << 20
