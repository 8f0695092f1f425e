"""The pocket model's vocabulary: a small subset of the o200k ranks and gpt-oss's special tokens, as a tokenizer.json.

`python -m gptoss_mlx.pocket.vocabulary RANKS OUT` makes the file from the public rank file and the generator's texts.

Owns the choice of tokens, its closure under merges, and the file. Reading such a file is `gptoss_mlx.tokenizer`'s work.
"""

import argparse
import base64
import json
import lzma
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tiktoken

from gptoss_mlx.pocket.packing import sample_texts
from gptoss_mlx.special_tokens import GPT_OSS_IDS

PATTERN = "|".join(
    (
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    )
)
"""How o200k splits text before merging. Source: tiktoken's `o200k_base`, `pat_str`."""

FIRST_SPECIAL, LAST_SPECIAL = 199998, 200018
"""The special tokens that gpt-oss's tokenizer.json names; here they follow the last ordinary token, in that order."""


def load_o200k_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes -> rank of the public o200k rank file (`.tiktoken`, or `.tiktoken.xz`)."""
    raw = path.read_bytes()
    text = lzma.decompress(raw) if path.suffix == ".xz" else raw
    pairs = (line.split() for line in text.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def is_allowed(token: bytes) -> bool:
    """Whether the pocket model may have the token: a digit stands alone."""
    return len(token) == 1 or not any(48 <= byte <= 57 for byte in token)


def last_merge(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that byte-pair encoding joins last to make this one."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(parts[i] + parts[i + 1], len(ranks)) for i in range(len(parts) - 1)]
        place = joined.index(min(joined))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def close_under_merges(tokens: Iterable[bytes], ranks: Mapping[bytes, int]) -> set[bytes]:
    """The tokens, all that they are merged from, and all 256 bytes."""
    closed = {bytes((byte,)) for byte in range(256)}
    waiting = list(tokens)
    while waiting:
        token = waiting.pop()
        if token not in closed:
            closed.add(token)
            waiting += last_merge(token, ranks)
    return closed


def choose_tokens(texts: Iterable[str], ranks: Mapping[bytes, int], limit: int, least_uses: int) -> set[bytes]:
    """The tokens of o200k that the texts use at least `least_uses` times, the most used first, up to `limit`."""
    encoding = tiktoken.Encoding("o200k", pat_str=PATTERN, mergeable_ranks=dict(ranks), special_tokens={})
    uses: Counter[int] = Counter()
    for text in texts:
        uses.update(encoding.encode_ordinary(text))
    letters = {f"{space}{letter}".encode() for space in ("", " ", "-") for letter in "abcdefghijklmnopqrstuvwxyz"}
    chosen = close_under_merges((token for token in letters if token in ranks), ranks)
    for rank, count in uses.most_common():
        token = encoding.decode_single_token_bytes(rank)
        if count < least_uses or len(chosen) >= limit:
            break
        if is_allowed(token):
            chosen = chosen | close_under_merges((token,), ranks)
    return chosen


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in a tokenizer.json.

    Source: GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def make_tokenizer(tokens: Iterable[bytes], ranks: Mapping[bytes, int]) -> dict[str, Any]:
    """The content of tokenizer.json: the tokens renumbered by rank, every merge among them, the special tokens."""
    characters = byte_characters()
    ordered = sorted(tokens, key=lambda token: ranks[token])
    numbers = {token: number for number, token in enumerate(ordered)}

    def spelled(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    def cuts(token: bytes) -> list[int]:
        """Where the token can be cut into two others, by their ranks."""
        places = [cut for cut in range(1, len(token)) if token[:cut] in numbers and token[cut:] in numbers]
        return sorted(places, key=lambda cut: (numbers[token[:cut]], numbers[token[cut:]]))

    merges = [[spelled(token[:cut]), spelled(token[cut:])] for token in ordered for cut in cuts(token)]
    names = {number: name for name, number in GPT_OSS_IDS.items()}
    names[LAST_SPECIAL] = "<|endofprompt|>"
    added = [
        {
            "id": len(ordered) + number - FIRST_SPECIAL,
            "content": names.get(number, f"<|reserved_{number}|>"),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number in range(FIRST_SPECIAL, LAST_SPECIAL + 1)
    ]
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spelled(token): number for token, number in numbers.items()},
            "merges": merges,
        },
    }


def write_tokenizer(tokenizer: Mapping[str, Any], path: Path) -> None:
    """Writes tokenizer.json as Hugging Face does: indented, UTF-8."""
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")


def main() -> None:
    """Chooses the tokens from 40,000 conversations and writes the file."""
    parser = argparse.ArgumentParser(description="Make the pocket model's tokenizer.json.")
    parser.add_argument("ranks", type=Path, help="o200k_base.tiktoken or o200k_base.tiktoken.xz")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--least-uses", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    ranks = load_o200k_ranks(arguments.ranks)
    tokens = choose_tokens(sample_texts(arguments.seed, 40_000), ranks, arguments.tokens, arguments.least_uses)
    write_tokenizer(make_tokenizer(tokens, ranks), arguments.out)


if __name__ == "__main__":
    main()
