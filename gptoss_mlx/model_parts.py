"""The parts of a model out of a checkpoint's tensors, one decoder layer at a time.

What the reader gives is taken: the tensors of a whole model, or a machine's share of them, narrower or without biases.
Owns: which of our tensors become which arrays of the model, and in what dtype. Does not own: which parts there are to
be and what becomes of them (`weights`, `distributed`), files (`tensor_file`).
"""

import math
from collections.abc import Callable
from typing import BinaryIO, Final, cast

import mlx.core as mx

from gptoss_mlx.attention import Attention
from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.layouts import FLOAT_DTYPES, OURS
from gptoss_mlx.moe import Experts
from gptoss_mlx.ops import ExpertLinear, Heads, Linear, Norm, Projection, QuantizedLinear
from gptoss_mlx.safetensors_file import ITEM_BYTES
from gptoss_mlx.tensor_file import TensorReader
from gptoss_mlx.tensor_source import SourceTensor

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes in all."""

EMBEDDING: Final = f"{OURS.embedding}.weight"
"""Only rows of it are ever read, so it stays as short as it is stored."""


class PartReader:
    """Makes a model's parts of what a `TensorReader` reads; every part is read once."""

    def __init__(
        self, checkpoint: Checkpoint, reader: TensorReader, dtype: mx.Dtype, progress: Progress | None
    ) -> None:
        """`dtype` is what dense weights become; `progress` hears of the bytes of the tensors that `reader` has."""
        self._checkpoint = checkpoint
        self._reader = reader
        self._dtype = dtype
        self._progress = progress
        self._arrays: dict[str, mx.array] = {}
        """What was read and is not part of the model yet."""
        self._done_bytes = 0
        self._total_bytes = sum(tensor.nbytes for tensor in reader.source.tensors.values())

    def embedding(self) -> Projection:
        """The embedding's rows."""
        self._read(f"{OURS.embedding}.")
        return self._projection(OURS.embedding)

    def norm(self) -> Norm:
        """The last RMSNorm, where there is no lm_head to read."""
        self._read(OURS.norm)
        return self._norm(OURS.norm)

    def norm_and_head(self) -> tuple[Norm, Projection]:
        """The last RMSNorm, and lm_head's rows."""
        self._read(OURS.norm, f"{OURS.lm_head}.")
        return self._norm(OURS.norm), self._projection(OURS.lm_head)

    def layer(self, number: int, heads: Heads) -> DecoderLayer:
        """The decoder layer of that number, whose attention has these heads; biases that are not there are zeros."""
        config, prefix = self._checkpoint.config, OURS.layer.format(number)
        self._read(prefix)
        attention = Attention(
            norm=self._norm(prefix + OURS.attention_norm),
            qkv=self._projection(prefix + OURS.qkv[0]),
            output=self._projection(prefix + OURS.output),
            sinks=self._arrays.pop(prefix + OURS.sinks),
            heads=heads,
        )
        experts = Experts(
            norm=self._norm(prefix + OURS.experts_norm),
            router=self._projection(prefix + OURS.router),
            gate_up=self._expert_linear(f"{prefix}experts.gate_up"),
            down=self._expert_linear(f"{prefix}experts.down"),
            experts_per_token=config.num_experts_per_tok,
            swiglu_limit=config.swiglu_limit,
            swiglu_alpha=config.swiglu_alpha,
        )
        return DecoderLayer(attention, experts)

    def _read(self, *starts: str) -> None:
        """Reads our tensors whose names begin so, in the dtype that they are computed in, and reports the bytes."""
        tensors = [tensor for tensor in self._reader.source.tensors.values() if tensor.name.startswith(starts)]
        file = self._reader.open(tensor.name for tensor in tensors)
        arrays = mx.load(cast(BinaryIO, file), format="safetensors")
        if file.error is not None:
            raise file.error
        assert isinstance(arrays, dict)
        for tensor in tensors:
            array = arrays.pop(tensor.name)
            if (first := file.first_items.get(tensor.name)) is not None:
                array = array[first : first + math.prod(tensor.shape)].reshape(tensor.shape)
            if tensor.dtype in FLOAT_DTYPES and not self._stays_as_stored(tensor):
                array = array.astype(self._dtype)
            mx.eval(array)
            self._arrays[tensor.name] = array
            self._done_bytes += tensor.nbytes
        # Hand the memory of tensors that changed their dtype back to the system, not to MLX's cache.
        mx.clear_cache()
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)

    def _stays_as_stored(self, tensor: SourceTensor) -> bool:
        """Whether a tensor of two-byte floats is held as it is though the model computes in another dtype."""
        if ITEM_BYTES[tensor.dtype] != 2:
            return False
        return tensor.name == EMBEDDING or (self._dtype == mx.float32 and not self._reader.widens(tensor))

    def _norm(self, name: str) -> Norm:
        return Norm(self._arrays.pop(name), self._checkpoint.config.rms_norm_eps)

    def _projection(self, name: str) -> Projection:
        weight, bias = self._arrays.pop(f"{name}.weight"), self._arrays.pop(f"{name}.bias", None)
        affine = self._checkpoint.affine_of(name)
        if affine is None:
            return Linear(weight, bias)
        return QuantizedLinear(
            weight,
            scales=self._arrays.pop(f"{name}.scales"),
            biases=self._arrays.pop(f"{name}.biases"),
            bits=affine.bits,
            group_size=affine.group_size,
            bias=bias,
        )

    def _expert_linear(self, name: str) -> ExpertLinear:
        blocks, scales = self._arrays.pop(f"{name}.blocks"), self._arrays.pop(f"{name}.scales")
        bias = self._arrays.pop(f"{name}.bias", None)
        return ExpertLinear(blocks, scales, self._no_bias(blocks) if bias is None else bias)

    def _no_bias(self, blocks: mx.array) -> mx.array:
        """Zeros in place of an expert bias that somebody else adds, the same array for every layer."""
        name = "zeros {} {}".format(*blocks.shape)
        if name not in self._arrays:
            self._arrays[name] = mx.zeros(blocks.shape[:2], dtype=self._dtype)
            mx.eval(self._arrays[name])
        return self._arrays[name]
