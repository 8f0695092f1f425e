"""Plans: shares that cover a model once, however many machines and whatever their memory; their file; their cost."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.config import MXFP4_GROUP, PRESETS, ModelConfig
from gptoss_mlx.distributed.cost import (
    ETHERNET_1G,
    THUNDERBOLT_5,
    estimate,
    least_traffic,
    token_traffic,
    traffic_report,
)
from gptoss_mlx.distributed.expected import PAIRS, expected_table
from gptoss_mlx.distributed.link import Link
from gptoss_mlx.distributed.plan import PipelineShare, Plan, Span, TensorShare, totals_of
from gptoss_mlx.distributed.planning import RESERVE_BYTES, apportion, make_plan
from gptoss_mlx.distributed.sizes import Sizes
from gptoss_mlx.errors import NotEnoughMemory, UsageError

GB = 10**9

CONFIG = PRESETS["20b"]


@given(
    st.sampled_from(["tensor", "pipeline"]),
    st.lists(st.integers(4 * GB, 600 * GB), min_size=1, max_size=8),
    st.sampled_from(["20b", "120b"]),
)
@settings(deadline=None, max_examples=30)
def test_shares_cover_the_model_once_and_fit_or_it_is_said_why_not(mode, memories: list[int], preset: str) -> None:
    config = PRESETS[preset]
    sizes = Sizes(config)
    try:
        plan = make_plan(config, memories, mode=mode)
    except NotEnoughMemory:
        # Nobody with room for every machine's even share is refused.
        assert min(memories) - RESERVE_BYTES < 1.1 * config.weight_bytes / len(memories) + GB
        return
    check_covers(plan, config)
    assert plan.mode == mode
    for rank, memory in enumerate(memories):
        assert sizes.held(plan, rank) + sizes.kv(plan, rank, 4096) + RESERVE_BYTES <= memory
    assert Plan.from_json(plan.to_json()) == plan


def check_covers(plan: Plan, config: ModelConfig) -> None:
    """Every head, column and row, or every layer, lies on exactly one rank."""
    plan.check(config)
    for name in ("kv_heads", "inner", "vocab") if plan.mode == "tensor" else ("layers",):
        spans = [getattr(share, name) for share in plan.shares]
        assert sorted(itertools.chain.from_iterable(range(*span) for span in spans)) == list(
            range(totals_of(config)[name])
        )
        assert all(span.size >= 1 for span in spans)
        assert name != "inner" or all(span.size % MXFP4_GROUP == 0 for span in spans)


@given(st.integers(0, 500), st.lists(st.floats(0, 1e12, allow_subnormal=False), min_size=1, max_size=12))
def test_things_are_apportioned_as_weights_are(spare: int, weights: list[float]) -> None:
    total = len(weights) + spare
    counts = apportion(total, weights)
    assert sum(counts) == total
    assert min(counts) >= 1
    for (low, few), (high, many) in itertools.permutations(zip(weights, counts, strict=True), 2):
        assert few <= many or low >= high or few == many + 1


def test_memory_decides_the_shares() -> None:
    plan = make_plan(CONFIG, [12 * GB, 24 * GB], mode="tensor")
    small, large = (Sizes(CONFIG).held(plan, rank) for rank in range(2))
    room = [memory - RESERVE_BYTES for memory in (12 * GB, 24 * GB)]
    assert small / large == pytest.approx(room[0] / room[1], rel=0.03)
    layers = make_plan(CONFIG, [12 * GB, 24 * GB], mode="pipeline").shares
    assert [share.layers.size for share in layers if isinstance(share, PipelineShare)] == [7, 17]


def test_bandwidths_balance_tensor_shares_where_memory_allows() -> None:
    fast_and_small, slow_and_large = 400e9, 100e9
    plan = make_plan(CONFIG, [16 * GB, 64 * GB], mode="tensor", bandwidths=[fast_and_small, slow_and_large])
    assert plan.shares[0].inner.size > 2 * plan.shares[1].inner.size  # type: ignore[union-attr]
    # There, it does not.
    fast = make_plan(CONFIG, [12 * GB, 64 * GB], mode="pipeline", bandwidths=[100e9, 400e9])
    assert [share.layers.size for share in fast.shares if isinstance(share, PipelineShare)] == [2, 22]
    plan = make_plan(CONFIG, [8 * GB, 64 * GB], mode="tensor", bandwidths=[fast_and_small, slow_and_large])
    assert plan.shares[0].inner.size < plan.shares[1].inner.size  # type: ignore[union-attr]


def test_a_slow_link_asks_for_a_pipeline_and_a_fast_one_for_tensor_mode() -> None:
    memories = [12 * GB] * 2
    assert make_plan(CONFIG, memories, link=Link(1e-6, 10e9)).mode == "tensor"
    assert make_plan(CONFIG, memories, link=Link(1e-3, 10e9)).mode == "pipeline"
    assert make_plan(CONFIG, memories, mode="tensor", link=Link(1e-3, 10e9)).mode == "tensor"
    # Nine machines cannot have a head each.
    assert make_plan(CONFIG, [12 * GB] * 9, link=Link(1e-6, 10e9)).mode == "pipeline"


@pytest.mark.parametrize(
    ("memories", "options", "error", "said"),
    [
        ([4 * GB, 4 * GB], {}, NotEnoughMemory, r"rank \d would hold 6\.\d GB .* room for 2\.\d GB .* of 4\.8 GB"),
        ([GB, 64 * GB], {"mode": "tensor"}, NotEnoughMemory, "rank 0 .* room for 0.0 GB"),
        ([12 * GB] * 9, {"mode": "tensor"}, UsageError, "8 key/value heads and there are 9 machines"),
        ([12 * GB] * 13, {"mode": "pipeline"}, UsageError, "24 layers and there are 13 machines"),
        ([], {}, UsageError, "at least one machine"),
        ([GB, -1], {}, UsageError, "above 0"),
        ([GB], {"mode": "both"}, UsageError, "'tensor' or 'pipeline'"),
        ([GB], {"bandwidths": [1.0, 2.0]}, UsageError, "2 bandwidths for 1 machines"),
        ([GB], {"context": 0}, UsageError, "context is 0"),
    ],
)
def test_what_cannot_be_planned_is_said_with_figures(memories, options, error, said: str) -> None:
    with pytest.raises(error, match=said):
        make_plan(CONFIG, memories, **options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object of version 1"),
        ('{"version": 2, "mode": "tensor", "shares": []}', "same version of this program"),
        ('{"version": 1, "mode": "tensor", "shares": [1]}', "a list of objects"),
        ('{"version": 1, "mode": "pipeline", "shares": []}', "0 shares"),
        ('{"version": 1, "mode": "pipeline", "shares": [{"layers": [0, true]}]}', "two whole numbers"),
        ('{"version": 1, "mode": "pipeline", "shares": [{"layers": [1, 4]}]}', "begin at 0"),
        (
            '{"version": 1, "mode": "pipeline", "shares": [{"layers": [0, 2]}, {"layers": [3, 4]}]}',
            "where the last ends",
        ),
        ('{"version": 1, "mode": "pipeline", "shares": [{"layers": [0, 2]}, {"layers": [2, 2]}]}', "at least 1"),
        (
            '{"version": 1, "mode": "tensor", "shares": [{"kv_heads": [0, 1], "inner": [0, 33], "vocab": [0, 1]}]}',
            "multiples of 32",
        ),
    ],
)
def test_what_is_no_plan_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Plan.from_json(text)


def test_a_plan_of_another_model_is_refused() -> None:
    plan = make_plan(CONFIG, [64 * GB] * 2, mode="pipeline")
    with pytest.raises(UsageError, match="24 layers and the model has 36"):
        plan.check(PRESETS["120b"])
    with pytest.raises(UsageError, match=r"rank 1 .* no sliding_attention"):
        Plan((PipelineShare(Span(0, 23)), PipelineShare(Span(23, 24)))).check(CONFIG)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_shares_are_the_bytes_of_the_model_and_of_what_everybody_holds(preset: str, ranks: int) -> None:
    config = PRESETS[preset]
    sizes = Sizes(config)
    layers = make_plan(config, [200 * GB] * ranks, mode="pipeline")
    norms = (ranks - 1) * 2 * config.hidden_size
    assert sum(sizes.held(layers, rank) for rank in range(ranks)) == config.weight_bytes + norms
    divided = make_plan(config, [200 * GB] * ranks, mode="tensor")
    routers = config.num_hidden_layers * (2 * config.hidden_size + config.num_experts * (config.hidden_size + 1))
    zeros = config.num_experts * config.hidden_size
    assert sum(sizes.held(divided, rank) for rank in range(ranks)) == (
        config.weight_bytes + norms + (ranks - 1) * 2 * (routers + zeros)
    )


def test_a_token_of_two_machines_is_sent_once() -> None:
    two = make_plan(CONFIG, [64 * GB] * 2, mode="tensor")
    # Twice in 24 layers, and the embedding's row; 2 bytes a value; then a token and its logit.
    assert token_traffic(CONFIG, two) == (49 * 2880 * 2 + 8, 50)
    assert least_traffic(CONFIG, two) == 2 * 48 * 2880 * 2 + 2880 * 2 + 16
    assert traffic_report(CONFIG, two) == (
        "tensor mode on 2 machines sends 564.5 kB for a token (computed, all machines together), 1.01 times the "
        "558.7 kB that it needs at least; 50 messages wait for one another"
    )
    layers = make_plan(CONFIG, [64 * GB] * 2, mode="pipeline")
    assert token_traffic(CONFIG, layers) == (2880 * 2, 2)
    assert least_traffic(CONFIG, layers) == 2880 * 2 + 4


def test_an_estimate_says_what_a_token_takes() -> None:
    sizes = Sizes(CONFIG)
    alone = estimate(sizes, make_plan(CONFIG, [64 * GB]), bandwidths=[100e9])
    assert alone.wire_s == 0
    assert alone.seconds == pytest.approx(3.71e9 / 100e9, rel=0.01)
    two = estimate(sizes, make_plan(CONFIG, [64 * GB] * 2, mode="tensor"), THUNDERBOLT_5, [100e9, 100e9])
    assert two.weights_s == pytest.approx(alone.weights_s / 2, rel=0.02)
    assert two.wire_s == pytest.approx(50 * THUNDERBOLT_5.latency_s + 0.282e6 / THUNDERBOLT_5.bytes_per_s, rel=0.01)
    assert "tensor mode on 2 machines: at most 35 tok/s (computed" in two.sentence()
    slow = estimate(sizes, make_plan(CONFIG, [64 * GB] * 2, mode="tensor"), ETHERNET_1G)
    assert slow.seconds > two.seconds


def test_quantised_dense_weights_are_reckoned_as_such() -> None:
    plan = make_plan(CONFIG, [64 * GB] * 2)
    published, quantised = (Sizes(CONFIG, bits).held(plan, 0) for bits in (None, 4))
    dense = 2 * CONFIG.vocab_size * CONFIG.hidden_size
    assert published - quantised > dense * (2 - 0.57) / 2
    with pytest.raises(NotEnoughMemory):
        make_plan(CONFIG, [8 * GB] * 2)
    make_plan(CONFIG, [8 * GB] * 2, dense_bits=4)


def test_planning_needs_no_mlx() -> None:
    code = (
        "import sys, gptoss_mlx.distributed.planning; assert not [name for name in sys.modules if name == 'mlx.core']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_order_of_json_does_not_matter_and_extra_shares_do() -> None:
    share = TensorShare(Span(0, 2), Span(0, 96), Span(0, 64))
    text = json.dumps(
        {"shares": [{"vocab": [0, 64], "inner": [0, 96], "kv_heads": [0, 2]}], "mode": "tensor", "version": 1}
    )
    assert Plan.from_json(text) == Plan((share,))
    with pytest.raises(UsageError, match="2 kinds"):
        Plan((share, PipelineShare(Span(0, 1))))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="divides 2 kv_heads"):
        Plan((share,)).check(replace(CONFIG, num_hidden_layers=24))


@pytest.mark.parametrize("model", PRESETS)
def test_what_pairs_of_macs_can_do_is_one_table(model: str) -> None:
    lines = expected_table(model).splitlines()
    assert lines[0].startswith(f"| gpt-oss-{model}, tok/s at most (computed) | one alone | TB5 RDMA |")
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(PAIRS)
    # A model that one machine has no room for is what two are for.
    assert any("does not fit |" in line and ("pipeline" in line or "tensor" in line) for line in lines)
