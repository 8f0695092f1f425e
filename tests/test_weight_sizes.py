"""Bytes on disk and bytes per token: to the byte those of real files, and those that the README states."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_mlx.comparison import open_version
from gptoss_mlx.config import PRESETS
from gptoss_mlx.weight_sizes import Sizes, planned_sizes, stored_sizes

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_bytes_per_token_of_20b_are_the_known_3_7_gb():
    layers, hidden, vocab, query, kv = 24, 2880, 201088, 4096, 512
    # 4 of 32 experts; of each three matrices in MXFP4, 17 bytes for 32 values.
    experts = layers * 4 * 3 * hidden * hidden * 17 // 32
    attention = layers * 2 * ((query + 2 * kv) * (hidden + 1) + hidden * (query + 1) + 64)
    lm_head = 2 * vocab * hidden
    assert [round(part / 1e6) for part in (experts, attention, lm_head)] == [1269, 1274, 1158]
    router, norms, embedding_row = layers * 2 * 32 * (hidden + 1), (2 * layers + 1) * 2 * hidden, 2 * hidden
    expert_biases = layers * 4 * 2 * 3 * hidden
    assert planned_sizes(PRESETS["20b"], None).bytes_per_token == (
        experts + expert_biases + attention + lm_head + router + norms + embedding_row
    )


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_planned_sizes_are_those_of_the_converted_files(conversions: Callable[[int | None], str], bits: int | None):
    checkpoint = open_version(conversions(bits)).checkpoint
    assert planned_sizes(checkpoint.config, bits) == stored_sizes(checkpoint)
    assert stored_sizes(checkpoint).weight_bytes == sum(
        file.stat().st_size for file in Path(conversions(bits)).glob("*.safetensors")
    )


def test_bytes_per_token_do_not_depend_on_the_layout(conversions: Callable[[int | None], str]):
    published, converted = (stored_sizes(open_version(name).checkpoint) for name in ("pocket", conversions(None)))
    assert published.bytes_per_token == converted.bytes_per_token


def gigabytes(sizes: Sizes) -> tuple[str, str]:
    return f"{sizes.weight_bytes / 1e9:.2f}", f"{sizes.bytes_per_token / 1e9:.2f}"


def test_the_readme_s_computed_sizes_are_these():
    found = re.findall(r"^\| (20b|120b) \| (16|8|6|4)\b[^|]*\| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    expected = [
        (name, str(bits or 16), *gigabytes(planned_sizes(PRESETS[name], bits)))
        for name in ("20b", "120b")
        for bits in (None, 8, 6, 4)
    ]
    assert found == expected
