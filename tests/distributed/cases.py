"""Cases for `worker`: models in parts, and what is asked of them; and how what the ranks found is held against one
process with the whole model."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.distributed.cost import least_traffic, sent_bytes, token_traffic, traffic_report
from gptoss_mlx.distributed.load import read_bytes, shard_bytes
from gptoss_mlx.distributed.plan import PipelineShare, Plan, Span, TensorShare, share_config
from gptoss_mlx.memory import kv_bytes
from gptoss_mlx.weights import load_model
from tests.distributed.ranks import run_ranks
from tests.distributed.worker import DTYPES, prompt_of, run
from tests.tolerances import MEDIAN_ERROR, WORST_ERROR, relative_errors

MINIATURE: dict[str, Any] = {
    "num_hidden_layers": 7,
    "num_attention_heads": 12,
    "num_key_value_heads": 3,
    "intermediate_size": 160,
    "vocab_size": 301,
    "sliding_window": 16,
}
"""A model that is odd in every respect: what `random_checkpoint` takes."""

Found = dict[str, np.ndarray]

HEADERS_BYTES = 512 << 10
"""What loading reads besides tensors, at most: headers, config, small tensors that tell one model from another, modules
that are imported on the way."""


def tensor_plan(heads: list[int], inner: list[int], vocab: list[int]) -> str:
    """A plan whose parts have so many of each."""
    spans = zip(*(spans_of(counts) for counts in (heads, inner, vocab)), strict=True)
    return Plan(tuple(TensorShare(*three) for three in spans)).to_json()


def pipeline_plan(layers: list[int]) -> str:
    """A plan whose parts have so many layers."""
    return Plan(tuple(PipelineShare(span) for span in spans_of(layers))).to_json()


def spans_of(counts: list[int]) -> list[Span]:
    """Spans of these sizes, one after the other."""
    bounds = np.cumsum([0, *counts]).tolist()
    return [Span(*pair) for pair in itertools.pairwise(bounds)]


def run_cases(cases: Mapping[str, dict[str, Any]], folder: Path, ranks: int) -> list[list[str]]:
    """Carries out `cases` on so many ranks; what became of each, on each rank. What they found lies in `folder`.

    The link between them is measured, too: all ranks must find the same.
    """
    file = folder / "cases.json"
    file.write_text(
        json.dumps({name: {key: _plain(value) for key, value in case.items()} for name, case in cases.items()})
    )
    *outcomes, links = zip(*run_ranks(ranks, "tests.distributed.worker", str(file), str(folder)), strict=True)
    assert len(set(map(tuple, links))) == 1
    latency_s, bytes_per_s = links[0]
    assert 1e-7 < latency_s < 0.5
    assert 1e6 < bytes_per_s < 1e12
    return [list(rank) for rank in zip(*outcomes, strict=True)]


def check_case(name: str, case: dict[str, Any], folder: Path, *, whole: Any = None) -> None:
    """Holds what the ranks found against one process: `whole`, the model if it is loaded already."""
    plan, dtype = Plan.from_json(case["plan"]), DTYPES[case.get("dtype", "float32")]
    first = case["folder"] if not isinstance(case["folder"], list) else case["folder"][0]
    expected = run(whole or load_model(first, dtype=dtype), case)
    for rank in range(plan.size):
        with np.load(folder / f"{name}.{rank}.npz") as file:
            found = dict(file)
        errors = relative_errors(found["logits"][0], expected["logits"][0])
        assert np.median(errors) < MEDIAN_ERROR, (name, rank)
        assert errors.max() < WORST_ERROR, (name, rank)
        for key in ("tokens", "apart", "batch_tokens"):
            assert np.array_equal(found.get(key, 0), expected.get(key, 0)), (name, rank, key)
        for key in ("last_logits", "batch_logits"):
            np.testing.assert_allclose(found.get(key, 0), expected.get(key, 0), atol=2e-4, err_msg=f"{name} {rank}")
        check_bytes(found, case, plan, rank, dtype)


def check_bytes(found: Found, case: dict[str, Any], plan: Plan, rank: int, dtype: mx.Dtype) -> None:
    """Whether a rank holds, reads and sends its share and no more."""
    folder = case["folder"] if not isinstance(case["folder"], list) else case["folder"][rank]
    checkpoint = open_checkpoint(folder)
    config, own = checkpoint.config, share_config(checkpoint.config, plan.shares[rank])
    assert found["held_bytes"] == shard_bytes(checkpoint, plan, rank, dtype)
    # `kv_bytes` reckons with rows kept apart, which the reference has where it is recorded.
    tokens = len(prompt_of(case, config.vocab_size)) + case.get("steps", 32) + 1
    most = kv_bytes(own, tokens, dtype.size)
    recent = own.layer_types.count("full_attention") * 2 * own.num_key_value_heads * own.head_dim * 128 * dtype.size
    assert found["cache_bytes"] in (most, most - recent)
    assert found["cache_shape"][0][0] == 2 * own.num_key_value_heads
    if found["read_bytes"] > 0:
        expected = read_bytes(checkpoint, plan, rank)
        assert expected <= found["read_bytes"] <= expected + HEADERS_BYTES


def check_traffic(name: str, case: dict[str, Any], folder: Path) -> None:
    """Whether a token costs the bytes that are reckoned: by the wire's own count, and by TCP's."""
    plan, config = Plan.from_json(case["plan"]), open_checkpoint(case["folder"]).config
    size = DTYPES[case.get("dtype", "float32")].size
    sent, received, hops = (
        [float(np.load(folder / f"{name}.{rank}.npz")[key]) for rank in range(plan.size)]
        for key in ("sent_bytes", "received_bytes", "hops")
    )
    reckoned = token_traffic(config, plan, size)
    assert max(sent) == reckoned.sent_bytes
    assert sum(sent) == sent_bytes(config, plan, size)
    assert f"{sum(sent) / 1e3:.1f} kB for a token (counted" in traffic_report(config, plan, counted_bytes=sum(sent))
    assert max(hops) <= reckoned.hops
    assert sum(sent) >= least_traffic(config, plan, size)
    if any(received):
        # Ranks wait for each other by numbers of 8 bytes before and after, some of which are among them.
        assert abs(sum(received) - sum(sent)) <= 2 * plan.size**2 * 8 / 10
    if plan.size == 2:
        # Nothing is sent that need not be, but for embedding rows, of which others send zeros, and tokens.
        spare = config.hidden_size * size + 16 if plan.mode == "tensor" else 0
        assert sum(sent) - least_traffic(config, plan, size) <= spare


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
