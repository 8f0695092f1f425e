"""The picture of inference-time scaling: `python -m gptoss_mlx.pocket.plot RESULTS.json OUT.svg`.

RESULTS.json is the summary that `gptoss evaluate` (or `measure`) prints last. The SVG is written by hand: it needs
no other package and stays small.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 200, 56, 340
"""The plot's edges in pixels; the legend stands right of it."""
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d", "#475569", "#a16207")
STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:12px;fill:#24292f}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#d0d7de;stroke-width:1}rect{fill:#ffffff}"
)


def scaling_points(summary: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Effort, mean analysis length in tokens and mean accuracy (0 to 1), the shortest first."""
    scaling = summary["scaling"]
    return [(effort, scaling[effort]["analysis_tokens"], scaling[effort]["right"]) for effort in scaling]


def category_points(summary: Mapping[str, Any], category: str) -> list[tuple[str, float, float]]:
    """The same for one category."""
    return [
        (score["effort"], score["analysis_tokens"], score["right"])
        for score in summary["scores"]
        if score["category"] == category
    ]


def draw(curves: Mapping[str, Sequence[tuple[str, float, float]]], title: str) -> str:
    """The SVG of accuracy over analysis length, one curve a name; the first is bold and its points are labelled."""
    longest = max((tokens for points in curves.values() for _, tokens, _ in points), default=1.0)
    step = next(size for size in (5, 10, 20, 25, 50, 100, 200, 500, 1000) if longest / size <= 6 or size == 1000)
    end = step * (int(longest / step) + 1)
    right = WIDTH - RIGHT

    def place(tokens: float, accuracy: float) -> tuple[float, float]:
        return LEFT + (right - LEFT) * tokens / end, BOTTOM - (BOTTOM - TOP) * accuracy

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(title, quote=True)}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="30">{escape(title)}</text>',
    ]
    for percent in range(0, 101, 20):
        _, y = place(0, percent / 100)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>')
    for tokens in range(0, end + 1, step):
        x, _ = place(tokens, 0)
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{tokens}</text>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{BOTTOM + 40}" text-anchor="middle">mean length of the analysis, in tokens</text>'
    )
    for number, (name, points) in enumerate(curves.items()):
        colour, bold = COLOURS[number % len(COLOURS)], number == 0
        spots = [place(tokens, accuracy) for _, tokens, accuracy in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        opacity, thick = (1, 3) if bold else (0.55, 1.5)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{thick}" opacity="{opacity}"/>'
        )
        for (effort, _, accuracy), (x, y) in zip(points, spots, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4 if bold else 2.5}" fill="{colour}" opacity="{opacity}"/>'
            )
            if bold:
                parts.append(f'<text x="{x + 8:.1f}" y="{y + 16:.1f}">{escape(effort)} {accuracy:.0%}</text>')
        y = TOP + 6 + 20 * number
        parts.append(
            f'<line x1="{right + 16}" y1="{y}" x2="{right + 36}" y2="{y}" stroke="{colour}" stroke-width="{thick}"/>'
        )
        parts.append(f'<text x="{right + 42}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description="Draw accuracy over analysis length.")
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--categories", nargs="*", default=["addition", "subtraction", "multiplication", "letter count"]
    )
    arguments = parser.parse_args()
    summary = json.loads(arguments.results.read_text(encoding="utf-8"))
    curves = {"all reasoning tasks": scaling_points(summary)}
    curves |= {category: category_points(summary, category) for category in arguments.categories}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    svg = draw(curves, "The pocket model on unseen questions: thinking longer helps")
    arguments.out.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
