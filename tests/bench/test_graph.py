"""What a decode step asks of a GPU, counted: few dispatches, no copies, at real shapes without their weights."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import mlx.core as mx
import pytest

from gptoss_mlx.bench.build_time import build_times
from gptoss_mlx.bench.graph import UNDER_WAY, Count, count, trace
from gptoss_mlx.bench.graph_report import find_shape, graph_table_lines, make_graph_report
from gptoss_mlx.bench.shapes import MlxLmStep, OurStep, Shape, Stepping, make_model
from gptoss_mlx.cache import KVCache
from gptoss_mlx.command_buffers import LIMITS
from gptoss_mlx.config import PRESETS
from gptoss_mlx.device import this_device
from gptoss_mlx.errors import ModelNotFound, UsageError
from gptoss_mlx.generate import PREFILL_CHUNK_TOKENS
from gptoss_mlx.metal.attention_launch import SPLIT_FROM_KEYS
from gptoss_mlx.ops import ReferenceOps, reference

LAYERS = {"20b": 24, "120b": 36, "pocket": 4}
MOST_DISPATCHES = {"20b": 174, "120b": 258}
"""A budget: seven a layer."""


def counted(engine: type[OurStep] | type[MlxLmStep], shape: Shape, position: int) -> Count:
    return count(lambda kinds: engine(shape.with_layers(kinds), position).step, shape.config.layer_types)


def shape_of(model: str, bits: int | None = None) -> Shape:
    shape = find_shape(model)[1]
    return Shape(shape.config, bits)


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("model", LAYERS)
def test_a_decode_step_is_six_dispatches_a_layer(model: str, bits: int | None) -> None:
    found = counted(OurStep, shape_of(model, bits), 500)
    assert found.layers == {"sliding_attention": (6, 6), "full_attention": (6, 6)}
    # A row of the embedding (of a quantised one: its codes, scales and offsets, which are dequantised), and two kernels
    # for the token.
    ends = 3 if bits is None else 6
    assert found.whole.dispatches == LAYERS[model] * 6 + ends
    assert found.whole.dispatches <= MOST_DISPATCHES.get(model, 1000)
    kernels = dict.fromkeys(("norm_qkv_rope", "linear_residual", "norm_router", "expert_gate_up", "expert_down"), 1)
    attention = {"ring_attention": 0.5, "full_attention": 0.5}
    for name, each in {**kernels, **attention}.items():
        assert found.whole.by_name[name] == each * LAYERS[model]
    assert not any("Update" in name for name in found.whole.by_name)


@pytest.mark.parametrize("model", ["20b", "120b"])
@pytest.mark.parametrize("position", [SPLIT_FROM_KEYS, 30_000])
def test_past_the_split_length_a_full_layer_is_one_more(model: str, position: int) -> None:
    for bits in (None, 8):
        found = counted(OurStep, shape_of(model, bits), position)
        assert found.layers == {"sliding_attention": (6, 6), "full_attention": (7, 7)}
        assert found.whole.dispatches <= MOST_DISPATCHES[model]


@pytest.mark.parametrize(("bits", "a_layer", "chain", "whole"), [(None, 34, 20, 822), (8, 39, 23, 945)])
def test_mlx_lm_is_counted_as_it_was_counted_by_hand(bits: int | None, a_layer: int, chain: int, whole: int) -> None:
    pytest.importorskip("mlx_lm")
    found = counted(MlxLmStep, shape_of("20b", bits), 500)
    assert found.layers == {"sliding_attention": (a_layer, chain), "full_attention": (a_layer, chain)}
    assert found.whole.dispatches == whole
    # Its attention is two kernels from 1024 keys on.
    assert counted(MlxLmStep, shape_of("20b", bits), 2000).whole.dispatches == whole + 12


@pytest.mark.parametrize("bits", [None, 8, 6, 4])
@pytest.mark.parametrize(("model", "most"), [("20b", 7), ("120b", 11)])
@pytest.mark.parametrize("position", [100, 2000, 130_000])
def test_raised_limits_make_few_command_buffers(model: str, most: int, bits: int | None, position: int) -> None:
    graph = trace(OurStep(shape_of(model, bits), position).step)
    assert len(graph.command_buffers(*LIMITS.values())) <= most < len(graph.command_buffers(50, 50)) / 3


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the reference compute as it does on a GPU, where nothing is made a float32 first."""
    monkeypatch.setattr(reference, "this_device", lambda: replace(this_device(), gpu=True))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("model", ["20b", "120b"])
def test_raised_limits_hold_a_few_layers_of_a_prompt_at_once_and_not_all(model: str, bits: int | None) -> None:
    shape = shape_of(model, bits)
    chunk = trace(lambda tokens: [make_model(shape).read(tokens, KVCache(shape.config))], tokens=PREFILL_CHUNK_TOKENS)
    in_all = sum(node.made_bytes for node in chunk.nodes)
    assert in_all / LAYERS[model] == pytest.approx(101e6, rel=0.1)
    # Limits that others measured while decoding hold a whole chunk.
    assert chunk.held_bytes(1000, 2000) > 0.99 * in_all
    assert chunk.held_bytes(*LIMITS.values()) < 1.2e9


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("model", ["20b", "120b"])
def test_on_mlx_s_kernels_a_step_is_clearly_more_command_buffers_than_may_be_under_way(model: str) -> None:
    # With as many and fewer, MLX would queue a write into a body before its last reader is done, and copy it.
    graph = trace(OurStep(shape_of(model), 500).step, ReferenceOps())
    assert "SliceUpdate" in graph.by_name
    assert len(graph.command_buffers(*LIMITS.values())) > 4 * UNDER_WAY


def test_command_buffers_are_counted_as_mlx_sends_them_off() -> None:
    pytest.importorskip("mlx_lm")
    # As simulated before from its source: 50 and 110; with both limits raised 2 and 9 to 10.
    found = [trace(MlxLmStep(shape_of(model), 500).step) for model in ("20b", "120b")]
    assert [len(graph.command_buffers(50, 50)) for graph in found] == [51, 111]
    assert [len(graph.command_buffers(1000, 2000)) for graph in found] == [3, 10]
    chain = trace(lambda t: [mx.exp(mx.exp(mx.exp(mx.exp(t))))], ReferenceOps(), tokens=50)
    assert [len(chain.command_buffers(kernels, 50)) for kernels in (0, 1, 2, 4, 5)] == [5, 3, 2, 1, 1]
    # The token is made a float first: five results of 200 bytes.
    assert [chain.held_bytes(kernels, 50) for kernels in (0, 5)] == [1000, 1000]
    long = trace(lambda t: [functools.reduce(lambda x, _: mx.exp(x), range(29), t)], ReferenceOps(), tokens=50)
    assert [long.held_bytes(kernels, 50) for kernels in (0, 1, 100)] == [11 * 200, 22 * 200, 30 * 200]


def test_no_weights_are_made() -> None:
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    counted(OurStep, shape_of("120b"), 5000)
    assert mx.get_peak_memory() - before < 1e6


def graph_of(compute: Callable[[mx.array], Sequence[mx.array]]) -> dict[str, int]:
    return trace(compute, ReferenceOps()).by_name


def test_views_cost_nothing_and_copies_do() -> None:
    x = mx.arange(24).reshape(2, 3, 4)
    mx.eval(x)

    def kernel(array: mx.array, token: mx.array) -> mx.array:
        launch = mx.fast.metal_kernel(name="own", input_names=["a", "token"], output_names=["b"], source="")
        (out,) = launch(  # type: ignore[operator]
            inputs=[array, token],
            template=[("N", 1)],
            grid=(1, 1, 1),
            threadgroup=(1, 1, 1),
            output_shapes=[(4,)],
            output_dtypes=[mx.float32],
        )
        return out

    both = mx.stack([x, x])
    mx.eval(both)
    assert graph_of(lambda t: [kernel(x, t)]) == {"own": 1}
    # One of several in a row lies in one piece; every second one, or columns, or another order, do not.
    assert graph_of(lambda t: [kernel(both[1:2], t)]) == {"own": 1}
    assert graph_of(lambda t: [kernel(x[:, ::2], t)]) == {"own": 2}
    assert graph_of(lambda t: [kernel(x[..., :2], t)]) == {"own": 2}
    assert graph_of(lambda t: [kernel(x.transpose(1, 0, 2), t)]) == {"own": 2}
    assert graph_of(lambda t: [kernel(x[:, :1].transpose(1, 0, 2).reshape(8), t)]) == {"own": 1, "Reshape": 1}
    assert graph_of(lambda t: [kernel(x[:1].transpose(1, 0, 2).reshape(12), t)]) == {"own": 1}
    assert graph_of(lambda t: [kernel(mx.broadcast_to(x, (2, 2, 3, 4)), t)]) == {"own": 2}
    assert graph_of(lambda t: [mx.concatenate([x, x, x + 1])]) == {"Concatenate": 3, "Add": 1}
    assert graph_of(lambda t: [t.astype(mx.uint32), t.astype(mx.int32)]) == {"AsType": 1}


def test_the_chain_is_the_longest_way_and_not_the_sum() -> None:
    # The token is made a float first.
    graph = trace(lambda t: [(mx.exp(t) + mx.exp(mx.sin(t))) + mx.cos(t)], ReferenceOps())
    assert (graph.dispatches, graph.chain) == (7, 5)


def test_building_a_step_takes_a_small_part_of_what_mlx_lm_takes() -> None:
    pytest.importorskip("mlx_lm")
    shape = Shape(PRESETS["20b"])
    makers: list[type[Stepping]] = [OurStep, MlxLmStep]
    ours, other = build_times([lambda make=make: make(shape, 500) for make in makers], steps=15)  # type: ignore
    assert ours["min"] <= ours["median"] <= ours["max"]
    assert ours["median"] < 0.3 * other["median"]


def test_a_report_of_the_pocket_model_adds_up() -> None:
    report = make_graph_report("pocket", position=40, peer=None, command="gptoss bench --graph", machine={})
    assert report == json.loads(json.dumps(report))
    ours = report["engines"]["gptoss-mlx"]
    assert ours["dispatches"] == sum(ours["dispatches_by_kind"].values()) == 27
    assert report["model"]["layers"] == {"full_attention": 2, "sliding_attention": 2}
    assert report["ratios"] is None
    lines = list(graph_table_lines(report))
    assert all(line == line.rstrip() and len(line) <= 120 for line in lines)
    assert any(line.split() == ["dispatches", "27"] for line in lines)


@pytest.mark.parametrize("position", [0, 131_072])
def test_a_position_outside_the_context_is_refused(position: int) -> None:
    with pytest.raises(UsageError, match="below the context length of 20b"):
        make_graph_report("20b", position=position, peer=None, command="", machine={})


def test_a_model_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ModelNotFound):
        find_shape("21b")


def test_the_command_prints_both_engines_and_one_json_line() -> None:
    pytest.importorskip("mlx_lm")
    command = [sys.executable, "-m", "gptoss_mlx.cli", "bench", "20b", "--graph", "--against", "mlx-lm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["command"] == "gptoss bench 20b --graph --against mlx-lm"
    assert [one["dispatches"] for one in report["engines"].values()] == [147, 822]
    assert report["ratios"]["dispatches"] == pytest.approx(147 / 822)
    for word in ("dispatches", "longest dependent chain", "build time a step (ms)", "mlx-lm", "ratio"):
        assert word in done.stdout
