"""What a decoded token could cost at best: its bytes over the memory bandwidth of Apple's chips, all computed.

Bytes are those of the weights that a token reads and of its keys and values; bandwidths are Apple's published peaks.
No chip reaches its peak, and nothing here was timed.
"""

from typing import Final

from gptoss_mlx.config import PRESETS, ModelConfig
from gptoss_mlx.weight_sizes import planned_sizes

CHIPS: Final = (
    ("M1", 68),
    ("M2, M3", 100),
    ("M4", 120),
    ("M5", 153),
    ("M3 Pro", 150),
    ("M1 Pro, M2 Pro", 200),
    ("M4 Pro", 273),
    ("M5 Pro", 307),
    ("M3 Max (30 GPU cores)", 300),
    ("M1 Max, M2 Max, M3 Max (40)", 400),
    ("M4 Max (32)", 410),
    ("M5 Max (32)", 460),
    ("M4 Max (40)", 546),
    ("M5 Max (40)", 614),
    ("M1 Ultra, M2 Ultra", 800),
    ("M3 Ultra", 819),
)
"""Chips and their peak memory bandwidth in GB/s."""

COLUMNS: Final = (
    ("20b, 16 bits", "20b", None, 0),
    ("20b, 8 bits", "20b", 8, 0),
    ("20b, 8 bits, 32k", "20b", 8, 32_768),
    ("120b, 16 bits", "120b", None, 0),
    ("120b, 8 bits", "120b", 8, 0),
    ("120b, 8 bits, 32k", "120b", 8, 32_768),
)
"""Heading, model, bits of the dense weights, tokens of context."""


def token_bytes(name: str, bits: int | None, context: int) -> int:
    """Bytes that one decoded token reads: weights, keys and values of bfloat16."""
    config = PRESETS[name]
    return planned_sizes(config, bits).bytes_per_token + _kv_bytes(config, context)


def roofline_table() -> str:
    """The table in Markdown: tokens per second at peak bandwidth."""
    bytes_ = [token_bytes(name, bits, context) for _, name, bits, context in COLUMNS]
    lines = [
        "| chip | GB/s | " + " | ".join(heading for heading, *_ in COLUMNS) + " |",
        "|---|---:|" + "---:|" * len(COLUMNS),
        "| MB per token | | " + " | ".join(f"{count / 1e6:,.0f}" for count in bytes_) + " |",
    ]
    for chip, bandwidth in CHIPS:
        rates = " | ".join(f"{bandwidth * 1e9 / count:.0f}" for count in bytes_)
        lines.append(f"| {chip} | {bandwidth} | {rates} |")
    return "\n".join(lines)


def _kv_bytes(config: ModelConfig, context: int) -> int:
    row = 2 * config.num_key_value_heads * config.head_dim * 2
    sliding = sum(kind == "sliding_attention" for kind in config.layer_types)
    full = config.num_hidden_layers - sliding
    return row * (full * context + sliding * min(context, config.sliding_window))
