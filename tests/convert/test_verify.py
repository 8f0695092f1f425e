"""`verify_model` finds any byte that is not as converted."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.convert.verify import verify_model
from gptoss_mlx.errors import ChecksumError, UsageError


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    return convert_model(source, tmp_path / "ours").folder


def test_a_whole_model_is_whole(model: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = verify_model(model, progress=lambda done, total: calls.append((done, total)))
    assert report.files == len(list(model.iterdir())) - 1
    assert calls[-1] == (report.total_bytes, report.total_bytes)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found_and_the_file_named(model: Path, data: st.DataObject) -> None:
    files = sorted(path for path in model.iterdir() if path.name not in ("gptoss.json", "config.json"))
    file = data.draw(st.sampled_from(files))
    whole = file.read_bytes()
    damaged = bytearray(whole)
    # Past a header, whose damage is found without reading the file.
    first = 8 + int.from_bytes(whole[:8], "little") if file.suffix == ".safetensors" else 0
    damaged[data.draw(st.integers(first, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(damaged)
    with pytest.raises(ChecksumError, match=rf"{file.name} is not as converted \(sha256 .* --overwrite"):
        verify_model(model)
    file.write_bytes(whole)
    verify_model(model)


def test_a_small_file_that_is_gone_is_named(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(ChecksumError, match=r"tokenizer\.json is not as converted"):
        verify_model(model)


def test_a_published_checkpoint_has_nothing_to_compare_with(source: Path) -> None:
    with pytest.raises(UsageError, match="no checksums of its own"):
        verify_model(source)
