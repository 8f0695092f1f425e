"""What a decode step asks of a GPU, as a report and as a table: ours alone, or beside mlx-lm's of the same shape."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gptoss_mlx.bench.build_time import build_times, uses_stand_ins
from gptoss_mlx.bench.graph import count
from gptoss_mlx.bench.machine import describe_versions
from gptoss_mlx.bench.plan import OURS, check_installed
from gptoss_mlx.bench.shapes import MlxLmStep, OurStep, Shape, Stepping
from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.command_buffers import LIMITS
from gptoss_mlx.config import PRESETS
from gptoss_mlx.errors import ModelNotFound, UsageError
from gptoss_mlx.layouts import OURS as OUR_NAMES
from gptoss_mlx.models import find_model

FORMAT: Final = 1
"""Raised when a field of the report changes its meaning."""

_STEPS: Final[Mapping[str, Callable[[Shape, int], Stepping]]] = {OURS: OurStep, "mlx-lm": MlxLmStep}

_LABEL_WIDTH: Final = 36
_COLUMN_WIDTH: Final = 14


def make_graph_report(
    model: str, *, position: int, peer: str | None, command: str, machine: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything about a decode step of `model` after `position` tokens, as one JSON object.

    Raises UsageError for a position outside the context and a peer that is not installed, ModelNotFound for a model
    that is neither here nor a published size.
    """
    check_installed(peer)
    name, shape = find_shape(model)
    most = shape.config.max_position_embeddings
    if not 1 <= position < most:
        raise UsageError(f"--prompt-tokens is {position}; expected 1 to {most - 1}, below the context length of {name}")
    engines = [OURS] if peer is None else [OURS, peer]
    figures: dict[str, dict[str, Any]] = {}
    times = build_times([_maker(engine, shape, position) for engine in engines])
    for engine, seconds in zip(engines, times, strict=True):
        counted = count(
            lambda kinds, engine=engine: _STEPS[engine](shape.with_layers(kinds), position).step,  # type: ignore[misc]
            shape.config.layer_types,
        )
        figures[engine] = {
            "dispatches": counted.whole.dispatches,
            "chain": counted.whole.chain,
            "layers": {
                kind: {"dispatches": dispatches, "chain": chain} for kind, (dispatches, chain) in counted.layers.items()
            },
            # Of Max and Ultra chips; and with ours, on chips where those are set (command_buffers).
            "command_buffers": len(counted.whole.command_buffers(50, 50)),
            "command_buffers_raised": len(counted.whole.command_buffers(*LIMITS.values())),
            "dispatches_by_kind": counted.whole.by_name,
            "build_seconds": seconds,
        }
    kinds = shape.config.layer_types
    return {
        "format": FORMAT,
        "command": command,
        "machine": dict(machine),
        "versions": describe_versions(),
        "model": {
            "name": name,
            "parameters": shape.config.parameters,
            "layers": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "dense_bits": shape.dense_bits,
        },
        "position": position,
        "engines": figures,
        "ratios": None if peer is None else _ratios(figures[OURS], figures[peer]),
        "stand_ins": uses_stand_ins(),
    }


def find_shape(model: str) -> tuple[str, Shape]:
    """The name and the shape of a model that is here, or of a published one, as MLX computes it on a GPU."""
    try:
        found = find_model(model)
    except ModelNotFound:
        if model not in PRESETS:
            raise
        return model, Shape(PRESETS[model])
    checkpoint = open_checkpoint(found.folder)
    # Whoever quantises the dense weights quantises lm_head, the largest of them.
    affine = checkpoint.affine_of(OUR_NAMES.lm_head)
    if affine is None:
        return found.name, Shape(checkpoint.config)
    return found.name, Shape(checkpoint.config, affine.bits, affine.group_size)


def graph_table_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report line by line: what is counted, a column an engine; the last column ours / the other's."""
    model, engines, ratios = report["model"], report["engines"], report["ratios"]
    dense = "bfloat16" if model["dense_bits"] is None else f"{model['dense_bits']}-bit"
    yield f"model     {model['name']}: {model['parameters'] / 1e6:,.1f} M parameters, {dense} projections"
    yield "          " + ", ".join(f"{count} x {kind}" for kind, count in model["layers"].items())
    yield "versions  " + ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    yield f"settings  one decode step of one token, after {report['position']} tokens, greedy"
    yield ""
    yield _row("", engines, None if ratios is None else "ratio")
    for label, key in (("dispatches", "dispatches"), ("longest dependent chain", "chain")):
        yield _row(label, [one[key] for one in engines.values()], None if ratios is None else f"{ratios[key]:.2f}")
    for kind in ("sliding_attention", "full_attention"):
        for key in ("dispatches", "chain"):
            yield _row(f"  {key} a layer, {kind}", [one["layers"][kind][key] for one in engines.values()])
    yield _row("command buffers, MLX's limits", [one["command_buffers"] for one in engines.values()])
    yield _row("command buffers, our limits", [one["command_buffers_raised"] for one in engines.values()])
    builds = [f"{one['build_seconds']['median'] * 1e3:.2f}" for one in engines.values()]
    yield _row("build time a step (ms)", builds, None if ratios is None else f"{ratios['build_seconds']:.2f}")
    yield ""
    yield "dispatches are what MLX sends to a GPU with Metal, views not among them"
    if report["stand_ins"]:
        yield "build time was taken with stand-ins for the kernels, since there is no Metal here"


def _maker(engine: str, shape: Shape, position: int) -> Callable[[], Stepping]:
    return lambda: _STEPS[engine](shape, position)


def _ratios(ours: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """Ours / the other's."""
    return {
        "dispatches": ours["dispatches"] / other["dispatches"],
        "chain": ours["chain"] / other["chain"],
        "build_seconds": ours["build_seconds"]["median"] / other["build_seconds"]["median"],
    }


def _row(label: str, cells: Any, ratio: str | None = None) -> str:
    row = f"{label:<{_LABEL_WIDTH}}" + "".join(f"{cell:>{_COLUMN_WIDTH}}" for cell in cells)
    return row if ratio is None else f"{row}{ratio:>10}"
