"""gpt-oss's vocabulary for tests, made from OpenAI's public rank file without network and without transformers."""

import base64
import functools
import hashlib
import lzma
import os
import tempfile
from pathlib import Path
from typing import Any

import openai_harmony
import tiktoken

from gptoss_mlx.special_tokens import GPT_OSS_IDS
from gptoss_mlx.tokenizer import Tokenizer

RANK_FILE = Path(__file__).parent / "data" / "o200k_base.tiktoken.xz"
"""MIT licence, from OpenAI's tiktoken."""
RANK_FILE_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
GPT_OSS_TOKENIZER_SHA256 = "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"
"""Of the tokenizer.json that OpenAI ships with gpt-oss."""
VOCAB_SIZE = 201_088

PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How o200k splits text."""


@functools.cache
def rank_file_bytes() -> bytes:
    data = lzma.decompress(RANK_FILE.read_bytes())
    assert hashlib.sha256(data).hexdigest() == RANK_FILE_SHA256
    return data


@functools.cache
def ranks() -> dict[bytes, int]:
    pairs = (line.split() for line in rank_file_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def special_ids() -> dict[str, int]:
    """The 21 special tokens that gpt-oss's tokenizer.json names."""
    named = {number: name for name, number in GPT_OSS_IDS.items()} | {200018: "<|endofprompt|>"}
    return {named.get(number, f"<|reserved_{number}|>"): number for number in range(199998, 200019)}


def byte_to_character() -> dict[int, str]:
    """GPT-2's printable stand-ins of bytes, written anew here: the tokenizer inverts them."""
    table: dict[int, str] = {}
    extra = 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(extra)
            extra += 1
    return table


def tokenizer_json(
    vocabulary: dict[bytes, int], specials: dict[str, int], *, pattern: str = PATTERN, with_merges: bool = False
) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE in the shape of gpt-oss's.

    with_merges: also the list of merges, which this project does not read.
    """
    table = byte_to_character()
    written = {token: "".join(table[byte] for byte in token) for token in vocabulary}
    merges: list[list[str]] = []
    if with_merges:
        for token in sorted(vocabulary, key=vocabulary.__getitem__):
            splits = ((token[:i], token[i:]) for i in range(1, len(token)))
            known = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
            known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
            merges += [[written[left], written[right]] for left, right in known]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": name, **flags} for name, number in specials.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": {**byte_level, "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {**byte_level, "add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {written[token]: rank for token, rank in vocabulary.items()},
            "merges": merges,
        },
    }


@functools.cache
def o200k_tokenizer() -> Tokenizer:
    """gpt-oss's tokenizer."""
    return Tokenizer(ranks(), special_ids(), PATTERN, vocab_size=VOCAB_SIZE, source="the o200k rank file")


@functools.cache
def o200k_encoding() -> tiktoken.Encoding:
    """The same vocabulary by tiktoken's own rules, as an oracle."""
    reserved = {f"<|reserved_{number}|>": number for number in range(200019, VOCAB_SIZE)}
    return tiktoken.Encoding(
        "o200k", pat_str=PATTERN, mergeable_ranks=ranks(), special_tokens={**special_ids(), **reserved}
    )


@functools.cache
def oracle() -> openai_harmony.HarmonyEncoding:
    """openai-harmony, which reads its rank file from a folder instead of the network."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "o200k_base.tiktoken").write_bytes(rank_file_bytes())
        before = os.environ.get("TIKTOKEN_ENCODINGS_BASE")
        os.environ["TIKTOKEN_ENCODINGS_BASE"] = folder
        try:
            return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_ENCODINGS_BASE"]
            else:
                os.environ["TIKTOKEN_ENCODINGS_BASE"] = before
