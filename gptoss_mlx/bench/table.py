"""A benchmark's report as a table for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from gptoss_mlx.bench.plan import OURS
from gptoss_mlx.bench.report import FIGURES, Figure

LABEL_WIDTH = 29
COLUMN_WIDTH = 30


def table_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report line by line: model, machine and settings, then a row a figure with a column an engine.

    A cell is the median with the least and the most; the last column ours / the other's, the median over the pairs.
    """
    yield from heading_lines(report)
    settings = report["settings"]
    warmth = "after a warm-up" if settings["warm_up"] else "without a warm-up"
    yield (
        f"settings  {settings['prompt_tokens']} prompt tokens, {settings['decode_tokens']} decoded, "
        f"{settings['runs']} run(s) of each engine in turn, {warmth}"
    )
    engines: Mapping[str, Any] = report["engines"]
    if not engines:
        return
    ratios = report["ratios"]
    yield ""
    names = "".join(f"{_title(name, summary):>{COLUMN_WIDTH}}" for name, summary in engines.items())
    yield f"{'':<{LABEL_WIDTH}}{names}{'ratio':>10}" if ratios else f"{'':<{LABEL_WIDTH}}{names}"
    for figure in FIGURES:
        row = f"{f'{figure.label} ({figure.unit})':<{LABEL_WIDTH}}"
        row += "".join(f"{_cell(figure, summary[figure.key]):>{COLUMN_WIDTH}}" for summary in engines.values())
        yield row + (f"{ratios[figure.key]['median']:>10.2f}" if ratios else "")
    yield ""
    if ratios:
        peer = next(name for name in engines if name != OURS)
        yield f"ratio: {OURS} / {peer}, the median over {len(ratios[FIGURES[0].key]['pairs'])} pair(s) of runs;"
        yield "above 1 is better for tok/s, below 1 for the rest"
        yield _agreement(report["agreement"])


def heading_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, where, and with which versions."""
    model, machine, versions = (report[key] for key in ("model", "machine", "versions"))
    yield f"model     {model['name']}: {model['parameters'] / 1e6:,.1f} M parameters, {_mib(model['bytes_on_disk'])}"
    if report["peer_model"]:
        yield f"          against {report['peer_model']['name']}, {_mib(report['peer_model']['bytes_on_disk'])}"
    yield (
        f"machine   {machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB, "
        f"{machine['os']}; load average {machine['load_average']:.2f}"
    )
    yield "versions  " + ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _title(name: str, summary: Mapping[str, Any]) -> str:
    return f"{name} ({summary['dtype']}, {summary['device']})"


def _cell(figure: Figure, values: Mapping[str, float]) -> str:
    middle, least, most = (_number(figure, values[key]) for key in ("median", "min", "max"))
    return f"{middle} ({least} to {most})"


def _number(figure: Figure, value: float) -> str:
    if figure.unit == "MiB":
        return f"{value / 2**20:,.0f}"
    if figure.unit == "s":
        return f"{value:.3f}" if value < 10 else f"{value:.1f}"
    if value < 10:
        return f"{value:.3g}"
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB on disk"


def _agreement(agreement: Mapping[str, Any]) -> str:
    if agreement["same_tokens"]:
        return f"both decoded the same {agreement['decoded_tokens']} tokens"
    least = min(agreement["first_tokens_that_agree"])
    return f"the engines decoded different tokens: the first {least} of {agreement['decoded_tokens']} agree"
