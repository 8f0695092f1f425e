"""Makes the golden files with transformers, in float32: `python -m tests.golden.make_golden` from the repository's
root.

Needs the `train` extra (torch, transformers). The reference is GptOssForCausalLM with its experts dequantised and
eager attention; see `cases.py` for the models.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils.quantization_config import Mxfp4Config

from tests.golden.cases import CASES, FOLDER, ROPES, YARN, GoldenCase


def golden_logits(case: GoldenCase) -> np.ndarray:
    """transformers' logits at the case's positions, float32 `[positions, vocab]`."""
    with tempfile.TemporaryDirectory() as folder:
        path = case.write_checkpoint(Path(folder))
        model = transformers.GptOssForCausalLM.from_pretrained(
            path,
            dtype=torch.float32,
            attn_implementation="eager",
            quantization_config=Mxfp4Config(dequantize=True),
        ).eval()
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
        with torch.no_grad():
            logits = model(torch.from_numpy(case.prompt()).long()[None], use_cache=False).logits
    return logits[0, case.positions].numpy()


def golden_ropes() -> dict[str, Any]:
    """transformers' YaRN frequencies and attention factors."""
    arrays: dict[str, Any] = {}
    for number, rope in enumerate(ROPES):
        parameters = {**YARN, "rope_type": "yarn", "rope_theta": rope["rope_theta"], "truncate": rope["truncate"]}
        config = transformers.GptOssConfig(head_dim=rope["head_dim"], rope_parameters=parameters)
        frequencies, factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
        arrays[f"inverse_frequencies_{number}"] = frequencies.numpy()
        arrays[f"attention_factor_{number}"] = np.float64(factor)
    return arrays


def main() -> None:
    """Writes every golden file anew."""
    torch.set_num_threads(2)
    np.savez_compressed(FOLDER / "rope.npz", **golden_ropes())
    for case in CASES:
        np.savez_compressed(case.file, logits=golden_logits(case))
        print(case.file.name, case.file.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
