"""Every way in which these tests damage a checkpoint, and what the error must say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.random_checkpoint import Tensors, bfloat16_bits, random_tensors, tiny_config, write_safetensors

Damage = Callable[[Path], object]
"""Changes the checkpoint in a folder."""


def change_tensors(change: Callable[[Tensors], object]) -> Damage:
    """Damage that writes the checkpoint again with other tensors, in one file."""

    def damage(folder: Path) -> None:
        tensors = random_tensors(tiny_config(), seed=3)
        change(tensors)
        for file in folder.glob("model*"):
            file.unlink()
        write_safetensors(folder / "model.safetensors", tensors)

    return damage


def change_index(change: Callable[[dict], object]) -> Damage:
    """Damage to the index alone."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))

    return damage


def shard(number: int, change: Callable[[bytes], bytes]) -> Damage:
    """Damage to the bytes of one file."""

    def damage(folder: Path) -> None:
        path = folder / f"model-{number:05d}-of-00002.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def poke(name: str, index: tuple[int, ...], value: float) -> Damage:
    """Damage to one value of one tensor."""

    def change(tensors: Tensors) -> None:
        stored = tensors[name]
        stored[index] = value if stored.dtype == np.uint8 else bfloat16_bits(np.array([value]))[0]

    return change_tensors(change)


def rewrite_header(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """The same file with another header before the same data."""

    def rewritten(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return rewritten


def first_tensor(header: dict) -> dict:
    return next(entry for name, entry in header.items() if name != "__metadata__")


def repeat_a_name(data: bytes) -> bytes:
    """The file with one tensor named like another, the header as long as before."""
    return data.replace(b'input_layernorm.weight"', b'self_attn.q_proj.bias" ')


def write_index(text: str) -> Damage:
    """Damage that puts `text` in the index's place."""
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


def reshape(tensors: Tensors, name: str, *shape: int) -> None:
    tensors[name] = np.resize(tensors[name], shape)


L0, EXPERTS = "model.layers.0.", "model.layers.2.mlp.experts."

DAMAGE: dict[str, tuple[Damage, str]] = {
    "missing tensor": (
        change_tensors(lambda t: t.pop(L0 + "self_attn.sinks")),
        r"copy lacks tensor model\.layers\.0\.self_attn\.sinks; expected 79 tensors",
    ),
    "several missing": (
        change_tensors(lambda t: [t.pop(f"{EXPERTS}down_proj_{part}") for part in ("blocks", "scales")]),
        r"lacks tensor model\.layers\.2\.mlp\.experts\.down_proj_blocks and 1 more",
    ),
    "extra tensor": (
        change_tensors(lambda t: t.update({"model.layers.4.input_layernorm.weight": t["model.norm.weight"]})),
        r"model\.safetensors holds tensor model\.layers\.4\.input_layernorm\.weight, which a gpt-oss of this config",
    ),
    "dense experts": (
        change_tensors(lambda t: t.update({EXPERTS + "down_proj": t["model.norm.weight"]})),
        r"holds tensor model\.layers\.2\.mlp\.experts\.down_proj, which",
    ),
    "wrong shape": (
        change_tensors(lambda t: reshape(t, L0 + "self_attn.q_proj.weight", 64, 128)),
        r"model\.safetensors: tensor .*\.self_attn\.q_proj\.weight has shape \[64, 128\]; expected \[128, 64\]",
    ),
    "wrong number of experts": (
        change_tensors(lambda t: reshape(t, EXPERTS + "gate_up_proj_scales", 7, 192, 2)),
        r"gate_up_proj_scales has shape \[7, 192, 2\]; expected \[8, 192, 2\]",
    ),
    "wrong dtype of a dense tensor": (
        change_tensors(lambda t: t.update({"model.norm.weight": np.zeros(64, dtype=np.int32)})),
        r"tensor model\.norm\.weight has dtype I32; expected BF16 or F16 or F32",
    ),
    "wrong dtype of scales": (
        change_tensors(lambda t: t.update({EXPERTS + "down_proj_scales": np.zeros((8, 64, 3), dtype=np.float32)})),
        r"down_proj_scales has dtype F32; expected U8",
    ),
    "NaN scale": (
        poke(EXPERTS + "gate_up_proj_scales", (7, 191, 1), 255),
        r"tensor model\.layers\.2\.mlp\.experts\.gate_up_proj_scales holds a scale byte of 255, which is NaN",
    ),
    "NaN scale in down": (
        poke(EXPERTS + "down_proj_scales", (0, 0, 0), 255),
        r"model\.safetensors: tensor .*\.down_proj_scales holds a scale byte of 255",
    ),
    "NaN norm": (poke("model.norm.weight", (63,), np.nan), r"tensor model\.norm\.weight holds NaN or infinity"),
    "infinite sink": (
        poke(L0 + "self_attn.sinks", (3,), np.inf),
        r"tensor .*\.sinks holds NaN or infinity; expected finite",
    ),
    "NaN bias": (poke(L0 + "self_attn.k_proj.bias", (0,), np.nan), r"k_proj\.bias holds NaN"),
    "NaN in a matrix": (poke("lm_head.weight", (5, 7), np.nan), r"tensor lm_head\.weight holds NaN or infinity"),
    "NaN in the embedding": (
        poke("model.embed_tokens.weight", (63, 63), np.nan),
        r"tensor model\.embed_tokens\.weight holds NaN",
    ),
    "NaN in a projection": (
        poke(L0 + "self_attn.o_proj.weight", (1, 1), -np.inf),
        r"o_proj\.weight holds NaN or infinity",
    ),
    "NaN in v": (poke(L0 + "self_attn.v_proj.weight", (1, 1), np.nan), r"v_proj\.weight holds NaN or infinity"),
    "truncated": (
        shard(1, lambda data: data[:-1]),
        r"00001-of-00002\.safetensors holds \d+ bytes of tensors; expected \d+ by its header: the file is cut off",
    ),
    "cut in the header": (
        shard(1, lambda data: data[:100]),
        r"00001-of-00002\.safetensors: its first 8 bytes announce a header",
    ),
    "empty": (shard(1, lambda data: b""), r"announce a header of 0 bytes in a file of 0"),
    "a few bytes": (shard(1, lambda data: b"abc"), r"in a file of 3; expected a safetensors file"),
    "too long": (shard(2, lambda data: data + b"\0"), r"the file is too long"),
    "pickle": (
        shard(0, lambda data: b"\x80\x02}q\x00." + data),
        r"is a pickle under a wrong name, which can run any code",
    ),
    "header not JSON": (shard(0, lambda data: data[:8] + b"!" + data[9:]), r"its header is not JSON"),
    "header not text": (shard(0, lambda data: data[:8] + b"\xff" + data[9:]), r"its header is not JSON"),
    "header a list": (
        shard(0, lambda data: (2).to_bytes(8, "little") + b"[]"),
        r"its header is a JSON list; expected an object",
    ),
    "unknown dtype": (
        shard(0, rewrite_header(lambda h: first_tensor(h).update(dtype="X9"))),
        r"tensor model\.embed_tokens\.weight has dtype 'X9'; expected one of",
    ),
    "shape against bytes": (
        shard(0, rewrite_header(lambda h: first_tensor(h).update(shape=[63, 64]))),
        r"model\.embed_tokens\.weight has 8192 bytes; expected 8064 for BF16 \[63, 64\]",
    ),
    "negative shape": (
        shard(0, rewrite_header(lambda h: first_tensor(h).update(shape=[-64, -64]))),
        r"the header says .* of tensor",
    ),
    "no offsets": (
        shard(0, rewrite_header(lambda h: first_tensor(h).pop("data_offsets"))),
        r"expected dtype, shape and data_offsets",
    ),
    "a gap": (
        shard(0, rewrite_header(lambda h: first_tensor(h).update(data_offsets=[2, 8194]))),
        r"starts at byte \d+ of the data; expected 0",
    ),
    "entry not an object": (
        shard(0, rewrite_header(lambda h: h.update(stray=3))),
        r"the header says 3 of tensor stray",
    ),
    "name twice": (
        shard(0, repeat_a_name),
        r"'model\.layers\.0\.self_attn\.q_proj\.bias' is there twice",
    ),
    "missing shard": (
        lambda folder: (folder / "model-00001-of-00002.safetensors").unlink(),
        r"00001-of-00002\.safetensors is missing; expected it by",
    ),
    "index outside the folder": (
        change_index(lambda m: m.update({"lm_head.weight": "../other.safetensors"})),
        r"names the file '\.\./other\.safetensors'; expected the name of a \.safetensors file in the same folder",
    ),
    "index names a pickle": (
        change_index(lambda m: m.update({"lm_head.weight": "model.bin"})),
        r"names the file 'model\.bin'",
    ),
    "index names another shard": (
        change_index(lambda m: m.update({"lm_head.weight": "model-00000-of-00002.safetensors"})),
        r"index\.json maps tensor lm_head\.weight to model-00000-of-00002\.safetensors; expected model-00002",
    ),
    "index leaves one out": (
        change_index(lambda m: m.pop("lm_head.weight")),
        r"maps tensor lm_head\.weight to nothing",
    ),
    "index names one too many": (
        change_index(lambda m: m.update({"ghost": "model-00000-of-00002.safetensors"})),
        r"model-00000-of-00002\.safetensors holds no tensor ghost",
    ),
    "index not JSON": (write_index("{"), r"is no index of a checkpoint"),
    "index without a map": (write_index("{}"), r"is no index of a checkpoint"),
    "index with a wrong map": (
        write_index('{"weight_map": {"a": 1}}'),
        r"weight_map is no map",
    ),
}
