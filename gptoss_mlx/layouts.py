"""Where each of the model's tensors lies in a checkpoint, for the four layouts that gpt-oss comes in.

    huggingface  openai/gpt-oss-20b: q, k and v apart, gate and up in one tensor, MXFP4 as bytes
    original     its folder original/: OpenAI's names, qkv in one, MXFP4 as bytes
    mlx          mlx-community MXFP4, MXFP4-Q8, -Q4: mlx-lm's names, gate and up apart, MXFP4 as words, dense
                 weights affine-quantised or not
    gptoss       ours: one tensor for each array of the running model, nothing left to do but read it

Every layout is told as recipes: our tensor's name, the stored tensors that it is made of, and how (taken as it is,
stacked, or interleaved row by row). Loading carries recipes out with MLX, converting carries them out chunk by chunk.

Owns: names, shapes and dtypes. Does not own: files and their headers (`safetensors_file`), whether the two agree
(`checkpoint`). Knows no MLX.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from gptoss_mlx.config import MXFP4_GROUP, ModelConfig
from gptoss_mlx.errors import WeightsError
from gptoss_mlx.safetensors_file import TensorEntry

LayoutName = Literal["huggingface", "original", "mlx", "gptoss"]
"""One of the four ways in which a checkpoint may lie on disk."""

Combine = Literal["copy", "stack", "interleave"]
"""How parts become one tensor: the only part as it is; one after the other along the first axis; or their rows by
turns along the second, the first part's in the even places."""

FLOAT_DTYPES: Final = ("BF16", "F16", "F32")
"""How a dense tensor may be stored."""

AFFINE_BITS: Final = (2, 3, 4, 5, 6, 8)
"""Bits a value may have in MLX's affine quantisation."""

AFFINE_GROUPS: Final = (32, 64, 128)
"""Values that may share a scale and an offset in MLX's affine quantisation."""

WORD_BITS: Final = 32
"""Bits of one uint32, in which quantised values are packed, the first in the lowest."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stored tensor: its name in the file and what it must be."""

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    """The safetensors dtypes that it may have."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one of our tensors is made from stored ones."""

    parts: tuple[Part, ...]
    combine: Combine
    shape: tuple[int, ...]
    """Of our tensor."""


@dataclass(frozen=True, slots=True)
class Affine:
    """How a dense projection is quantised: value = scale * code + offset, for each group of a row."""

    bits: int
    group_size: int
    """Values of a row that share a scale and an offset."""

    def packed_width(self, width: int) -> int:
        """uint32 words of a row of `width` values."""
        return width * self.bits // WORD_BITS


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """One projection of all experts; two names each where gate and up are stored apart."""

    blocks: tuple[str, ...]
    scales: tuple[str, ...]
    bias: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """A layout's names. Those of a layer follow `layer`, which holds its number as `{}`."""

    embedding: str
    norm: str
    lm_head: str
    layer: str
    attention_norm: str
    qkv: tuple[str, ...]
    output: str
    sinks: str
    experts_norm: str
    router: str
    gate_up: ExpertNames
    down: ExpertNames
    words: bool
    """Whether MXFP4 codes are stored as uint32 `[experts, out, in / 8]`; else uint8 `[experts, out, in / 32, 16]`,
    which are the same bytes."""


_HUGGINGFACE: Final = Names(
    embedding="model.embed_tokens",
    norm="model.norm.weight",
    lm_head="lm_head",
    layer="model.layers.{}.",
    attention_norm="input_layernorm.weight",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    output="self_attn.o_proj",
    sinks="self_attn.sinks",
    experts_norm="post_attention_layernorm.weight",
    router="mlp.router",
    gate_up=ExpertNames(
        blocks=("mlp.experts.gate_up_proj_blocks",),
        scales=("mlp.experts.gate_up_proj_scales",),
        bias=("mlp.experts.gate_up_proj_bias",),
    ),
    down=ExpertNames(
        blocks=("mlp.experts.down_proj_blocks",),
        scales=("mlp.experts.down_proj_scales",),
        bias=("mlp.experts.down_proj_bias",),
    ),
    words=False,
)

_ORIGINAL: Final = Names(
    embedding="embedding",
    norm="norm.scale",
    lm_head="unembedding",
    layer="block.{}.",
    attention_norm="attn.norm.scale",
    qkv=("attn.qkv",),
    output="attn.out",
    sinks="attn.sinks",
    experts_norm="mlp.norm.scale",
    router="mlp.gate",
    gate_up=ExpertNames(
        blocks=("mlp.mlp1_weight.blocks",), scales=("mlp.mlp1_weight.scales",), bias=("mlp.mlp1_bias",)
    ),
    down=ExpertNames(blocks=("mlp.mlp2_weight.blocks",), scales=("mlp.mlp2_weight.scales",), bias=("mlp.mlp2_bias",)),
    words=False,
)

_MLX: Final = replace(
    _HUGGINGFACE,
    gate_up=ExpertNames(
        blocks=("mlp.experts.gate_proj.weight", "mlp.experts.up_proj.weight"),
        scales=("mlp.experts.gate_proj.scales", "mlp.experts.up_proj.scales"),
        bias=("mlp.experts.gate_proj.bias", "mlp.experts.up_proj.bias"),
    ),
    down=ExpertNames(
        blocks=("mlp.experts.down_proj.weight",),
        scales=("mlp.experts.down_proj.scales",),
        bias=("mlp.experts.down_proj.bias",),
    ),
    words=True,
)

OURS: Final = Names(
    embedding="embedding",
    norm="norm.weight",
    lm_head="lm_head",
    layer="layers.{}.",
    attention_norm="attention.norm.weight",
    qkv=("attention.qkv",),
    output="attention.output",
    sinks="attention.sinks",
    experts_norm="experts.norm.weight",
    router="experts.router",
    gate_up=ExpertNames(
        blocks=("experts.gate_up.blocks",), scales=("experts.gate_up.scales",), bias=("experts.gate_up.bias",)
    ),
    down=ExpertNames(blocks=("experts.down.blocks",), scales=("experts.down.scales",), bias=("experts.down.bias",)),
    words=True,
)
"""The names of our own layout, which are also the names that recipes go by."""

LAYOUTS: Final[Mapping[LayoutName, Names]] = MappingProxyType(
    {"huggingface": _HUGGINGFACE, "original": _ORIGINAL, "mlx": _MLX, "gptoss": OURS}
)
"""Every layout's names."""

_TELLING: Final[Mapping[str, LayoutName]] = MappingProxyType(
    {
        "model.layers.0.mlp.experts.gate_up_proj_blocks": "huggingface",
        "block.0.mlp.mlp1_weight.blocks": "original",
        "model.layers.0.mlp.experts.gate_proj.weight": "mlx",
        "layers.0.experts.gate_up.blocks": "gptoss",
    }
)
"""A tensor that only one layout has."""


def detect_layout(entries: Mapping[str, TensorEntry]) -> LayoutName:
    """The layout that `entries` are named in; Hugging Face's when none can be told, so that errors speak of that."""
    for name, layout in _TELLING.items():
        if name in entries:
            return layout
    prefixes = {name.split(".", 1)[0] for name in entries}
    return "original" if "block" in prefixes else "gptoss" if "layers" in prefixes else "huggingface"


def make_recipes(
    layout: LayoutName, config: ModelConfig, entries: Mapping[str, TensorEntry]
) -> tuple[dict[str, Recipe], dict[str, Affine]]:
    """The recipe of every tensor of our own, by its name, and how the projections among them are quantised.

    A projection is quantised where its `scales` are among `entries`; bits and group follow from the shapes that they
    have there. Raises `WeightsError` for a quantisation that MLX does not have. Whether `entries` are what the recipes
    ask for is checked elsewhere.
    """
    maker = _RecipeMaker(LAYOUTS[layout], config, entries)
    return maker.recipes, maker.quantised


class _RecipeMaker:
    """Fills `recipes` and `quantised` on construction."""

    def __init__(self, names: Names, config: ModelConfig, entries: Mapping[str, TensorEntry]) -> None:
        self.recipes: dict[str, Recipe] = {}
        self.quantised: dict[str, Affine] = {}
        self._names = names
        self._entries = entries
        hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
        self._experts = config.num_local_experts
        query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self._projection(OURS.embedding, (names.embedding,), (vocab,), hidden, bias=False)
        self._vector(OURS.norm, names.norm, hidden)
        self._projection(OURS.lm_head, (names.lm_head,), (vocab,), hidden, bias=False)
        qkv_rows = (query, kv, kv) if len(names.qkv) == 3 else (query + 2 * kv,)
        for number in range(config.num_hidden_layers):
            ours, theirs = OURS.layer.format(number), names.layer.format(number)
            self._vector(ours + OURS.attention_norm, theirs + names.attention_norm, hidden)
            self._projection(ours + OURS.qkv[0], tuple(theirs + name for name in names.qkv), qkv_rows, hidden)
            self._projection(ours + OURS.output, (theirs + names.output,), (hidden,), query)
            self._vector(ours + OURS.sinks, theirs + names.sinks, config.num_attention_heads)
            self._vector(ours + OURS.experts_norm, theirs + names.experts_norm, hidden)
            self._projection(ours + OURS.router, (theirs + names.router,), (self._experts,), hidden)
            self._expert_projection(ours, OURS.gate_up, theirs, names.gate_up, 2 * inner, hidden)
            self._expert_projection(ours, OURS.down, theirs, names.down, hidden, inner)

    def _vector(self, ours: str, theirs: str, width: int) -> None:
        self.recipes[ours] = Recipe((Part(theirs, (width,), FLOAT_DTYPES),), "copy", (width,))

    def _projection(
        self, ours: str, theirs: tuple[str, ...], rows: tuple[int, ...], width: int, *, bias: bool = True
    ) -> None:
        """A dense projection of `width` values to `rows`, stored under as many names as there are numbers of rows."""
        affine = self._affine(theirs, width)
        if affine is None:
            self._stacked(f"{ours}.weight", theirs, "weight", rows, (width,), FLOAT_DTYPES)
        else:
            self.quantised[ours] = affine
            groups = (width // affine.group_size,)
            self._stacked(f"{ours}.weight", theirs, "weight", rows, (affine.packed_width(width),), ("U32",))
            self._stacked(f"{ours}.scales", theirs, "scales", rows, groups, FLOAT_DTYPES)
            self._stacked(f"{ours}.biases", theirs, "biases", rows, groups, FLOAT_DTYPES)
        if bias:
            self._stacked(f"{ours}.bias", theirs, "bias", rows, (), FLOAT_DTYPES)

    def _stacked(
        self,
        ours: str,
        theirs: tuple[str, ...],
        suffix: str,
        rows: tuple[int, ...],
        rest: tuple[int, ...],
        dtypes: tuple[str, ...],
    ) -> None:
        parts = tuple(
            Part(f"{name}.{suffix}", (count, *rest), dtypes) for name, count in zip(theirs, rows, strict=True)
        )
        self.recipes[ours] = Recipe(parts, "copy" if len(parts) == 1 else "stack", (sum(rows), *rest))

    def _affine(self, names: tuple[str, ...], width: int) -> Affine | None:
        """How the projection stored under `names` is quantised; None when it is not."""
        found = {name: self._affine_of(name, width) for name in names}
        first = found[names[0]]
        for name, affine in found.items():
            if affine != first:
                raise WeightsError(
                    f"{self._entries[f'{name}.weight'].file}: {name} is {_describe(affine)} and {names[0]} "
                    f"{_describe(first)}; expected the same, because they are computed as one"
                )
        return first

    def _affine_of(self, name: str, width: int) -> Affine | None:
        weight, scales = self._entries.get(f"{name}.weight"), self._entries.get(f"{name}.scales")
        if weight is None or scales is None:
            return None
        bits = weight.shape[-1] * WORD_BITS / width if weight.shape else 0
        group = width / scales.shape[-1] if scales.shape and scales.shape[-1] else 0
        if f"{name}.biases" not in self._entries or bits not in AFFINE_BITS or group not in AFFINE_GROUPS:
            raise WeightsError(
                f"{weight.file}: {name} is quantised with weight {list(weight.shape)} and scales "
                f"{list(scales.shape)} for {width} values a row; expected MLX's affine quantisation (biases beside "
                "scales, 2 to 8 bits, groups of 32, 64 or 128): get an MXFP4-Q8 or MXFP4-Q4 folder, or OpenAI's own"
            )
        return Affine(int(bits), int(group))

    def _expert_projection(
        self, ours: str, our_names: ExpertNames, theirs: str, names: ExpertNames, out: int, width: int
    ) -> None:
        groups = width // MXFP4_GROUP
        words, codes = (groups * 4,), (groups * 4,) if self._names.words else (groups, MXFP4_GROUP // 2)
        code_dtypes = ("U32",) if self._names.words else ("U8",)
        for our_name, stored, rest, stored_rest, dtypes in (
            (our_names.blocks[0], names.blocks, words, codes, code_dtypes),
            (our_names.scales[0], names.scales, (groups,), (groups,), ("U8",)),
            (our_names.bias[0], names.bias, (), (), FLOAT_DTYPES),
        ):
            rows = out // len(stored)
            parts = tuple(Part(theirs + name, (self._experts, rows, *stored_rest), dtypes) for name in stored)
            combine: Combine = "copy" if len(parts) == 1 else "interleave"
            self.recipes[ours + our_name] = Recipe(parts, combine, (self._experts, out, *rest))


def _describe(affine: Affine | None) -> str:
    return "not quantised" if affine is None else f"quantised to {affine.bits} bits in groups of {affine.group_size}"
