"""A checkpoint as mlx-community publishes it, made by mlx-lm itself.

    python -m tests.mlx_community SOURCE DESTINATION BITS [BITS …]

writes DESTINATION/qBITS for each: Hugging Face's checkpoint SOURCE as mlx-lm loads it, its dense weights quantised to
BITS in groups of 64 as `mlx_lm.convert -q` does. A process of its own: mlx-lm brings transformers and its warnings.
"""

import sys
from pathlib import Path

from mlx_lm.utils import load_model, quantize_model, save_config, save_model


def main() -> None:
    source, destination, *widths = sys.argv[1:]
    for bits in map(int, widths):
        folder = Path(destination) / f"q{bits}"
        folder.mkdir(parents=True)
        model, config = load_model(Path(source))
        model, config = quantize_model(model, config, group_size=64, bits=bits)
        save_model(folder, model)
        save_config(config, folder / "config.json")


if __name__ == "__main__":
    main()
