"""Text to token ids and back, by a checkpoint's own tokenizer.json.

Owns reading that file and the `tiktoken.Encoding` made from it; nothing is downloaded and any vocabulary size works.
Text never becomes a special token here: harmony/render.py puts those between texts by id.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tiktoken

from gptoss_mlx.errors import TokenizerError
from gptoss_mlx.special_tokens import SpecialTokens, reserved_name


class Tokenizer:
    """Byte-level BPE with special tokens.

    ranks: token bytes -> id, with all 256 single bytes. special_ids: special token -> id. pattern: the regular
    expression that splits text before merging. vocab_size: rows of the embedding; ids up to it that have no name are
    called `<|reserved_N|>` (default: one past the highest id). source: the file's name, for errors.
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        special_ids: Mapping[str, int],
        pattern: str,
        *,
        vocab_size: int | None = None,
        source: str = "the tokenizer",
    ) -> None:
        used = set(ranks.values())
        special_used = set(special_ids.values())
        if len(used) != len(ranks) or len(special_used) != len(special_ids) or used & special_used:
            raise TokenizerError(
                f"{source} gives one id to two tokens; every token needs an id of its own. Download the file again."
            )
        missing = [byte for byte in range(256) if bytes((byte,)) not in ranks]
        if missing:
            raise TokenizerError(
                f"{source} has no token for the byte {missing[0]:#04x} ({len(missing)} of 256 bytes are missing), so "
                "not every text could be encoded. Download the file again."
            )
        taken = used | special_used
        lowest, highest = min(taken), max(taken)
        size = highest + 1 if vocab_size is None else vocab_size
        if lowest < 0 or highest >= size:
            raise TokenizerError(
                f"{source} uses the ids {lowest} to {highest}, but the model has {size} tokens; expected ids from 0 to "
                f"{size - 1}. Use the tokenizer.json that belongs to this checkpoint."
            )
        self.special: SpecialTokens = SpecialTokens.from_names(special_ids, source=source)
        """Harmony's special tokens in this vocabulary."""
        self.vocab_size: int = size
        """Number of token ids; every id below it can be decoded."""
        self._special_ids: dict[str, int] = dict(special_ids)
        self._special_ids.update({reserved_name(i): i for i in range(size) if i not in taken})
        self._ordinary_ids: frozenset[int] = frozenset(used)
        self._vocabulary = (pattern, dict(ranks))
        try:
            self._encoding = tiktoken.Encoding(
                source, pat_str=pattern, mergeable_ranks=self._vocabulary[1], special_tokens=self._special_ids
            )
        except ValueError as error:
            raise TokenizerError(
                f"{source} splits text with {pattern!r}, which is not a usable regular expression ({error}). "
                "Use the tokenizer.json of a gpt-oss checkpoint."
            ) from error

    @classmethod
    def from_file(cls, path: Path, *, vocab_size: int | None = None) -> Self:
        """The tokenizer of a checkpoint. `path` is its tokenizer.json, or the folder that holds it.

        Takes about 0.7 s for the 201,088 tokens of gpt-oss.
        Raises TokenizerError if the file is missing, damaged or of another kind.
        """
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            data: Any = json.loads(file.read_bytes().decode("utf-8"))
        except FileNotFoundError as error:
            raise TokenizerError(
                f"There is no tokenizer at {str(file)!r}; a checkpoint has a tokenizer.json beside its config.json. "
                "Point to the checkpoint's folder, or download the file again."
            ) from error
        except OSError as error:
            raise TokenizerError(
                f"{str(file)!r} cannot be read ({error.strerror}); expected a readable tokenizer.json. "
                "Check the file's permissions."
            ) from error
        except (ValueError, RecursionError) as error:
            raise TokenizerError(
                f"{str(file)!r} is not valid JSON ({error}); it may be a cut download or a Git LFS pointer. "
                "Download the file again."
            ) from error
        source = repr(str(file))
        _refuse_other_kinds(data, source)
        special_ids = _read_special_ids(data, source)
        ranks = _read_ranks(data, special_ids, source)
        return cls(ranks, special_ids, _read_pattern(data, source), vocab_size=vocab_size, source=source)

    def is_same(self, other: "Tokenizer") -> bool:
        """Whether both give every text the same ids and every id the same bytes."""
        return self._vocabulary == other._vocabulary and self._special_ids == other._special_ids

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. A special token written in the text is encoded as the plain characters it is."""
        return self._encoding.encode_ordinary(text)

    def encode_with_special(self, text: str) -> list[int]:
        """Token ids of `text`, where special tokens written in the text become special tokens.

        Only for text whose every part is trusted, such as a rendered example in a test.
        """
        return self._encoding.encode(text, allowed_special="all")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not valid UTF-8 become U+FFFD. Raises TokenizerError."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`, special tokens as their names. Raises TokenizerError."""
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            raise self._unknown(next(i for i in ids if not 0 <= i < self.vocab_size)) from None

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; they need not be valid UTF-8 on their own. Raises TokenizerError."""
        try:
            return self._encoding.decode_single_token_bytes(token)
        except (KeyError, OverflowError):
            raise self._unknown(token) from None

    def is_special(self, token: int) -> bool:
        """Whether the id is a special or reserved token, not text. False outside the vocabulary."""
        return 0 <= token < self.vocab_size and token not in self._ordinary_ids

    @property
    def encoding(self) -> tiktoken.Encoding:
        """The vocabulary in tiktoken's form, for libraries that read it."""
        return self._encoding

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Every special and reserved token -> its id."""
        return self._special_ids

    def _unknown(self, token: int) -> TokenizerError:
        return TokenizerError(
            f"{token!r} is not a token id of this vocabulary; expected 0 to {self.vocab_size - 1}. "
            "Use ids that this tokenizer or its model made."
        )


def _byte_alphabet() -> dict[int, int]:
    """Code point of tokenizer.json's byte-level alphabet -> byte.

    Printable Latin-1 stands for itself; the other 68 bytes are U+0100, U+0101, ... in their order.
    Source: the byte-to-character table of GPT-2's encoder.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: byte for byte in plain} | {256 + i: byte for i, byte in enumerate(others)}


def _refuse_other_kinds(data: Any, source: str) -> None:
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise TokenizerError(
            f'{source} has no "model" object; expected Hugging Face\'s tokenizer format. Download the file again.'
        )
    kind = data["model"].get("type")
    if kind != "BPE":
        raise TokenizerError(
            f"{source} holds a tokenizer of type {kind!r}; expected 'BPE'. "
            "Use the tokenizer.json of a gpt-oss checkpoint."
        )
    if data.get("normalizer") is not None:
        raise TokenizerError(
            f'{source} changes text before encoding ("normalizer" is set); expected none. '
            "Use the tokenizer.json of a gpt-oss checkpoint."
        )


def _read_special_ids(data: dict[str, Any], source: str) -> dict[str, int]:
    tokens = data.get("added_tokens")
    if not isinstance(tokens, list):
        raise TokenizerError(f'{source} has no "added_tokens" list. Download the file again.')
    ids: dict[str, int] = {}
    for token in tokens:
        content = token.get("content") if isinstance(token, dict) else None
        number = token.get("id") if isinstance(token, dict) else None
        if not isinstance(content, str) or type(number) is not int or content in ids:
            raise TokenizerError(
                f'{source} has the added token {token!r}; expected a "content" of its own and an integer "id". '
                "Download the file again."
            )
        ids[content] = number
    return ids


def _read_ranks(data: dict[str, Any], special_ids: Mapping[str, int], source: str) -> dict[bytes, int]:
    vocab = data["model"].get("vocab")
    if not isinstance(vocab, dict):
        raise TokenizerError(f'{source} has no "vocab" object in "model". Download the file again.')
    alphabet = _byte_alphabet()
    ranks: dict[bytes, int] = {}
    for token, number in vocab.items():
        if special_ids.get(token) == number:
            continue  # some writers list the added tokens here too
        if type(number) is not int:
            raise TokenizerError(
                f"{source} gives the token {token!r} the id {number!r}; expected an integer. Download the file again."
            )
        try:
            ranks[bytes([alphabet[ord(char)] for char in token])] = number
        except KeyError as error:
            raise TokenizerError(
                f"{source} has the token {token!r}, whose character {chr(error.args[0])!r} is outside the byte-level "
                "alphabet; expected byte-level BPE. Use the tokenizer.json of a gpt-oss checkpoint."
            ) from error
    return ranks


def _read_pattern(data: dict[str, Any], source: str) -> str:
    """The regular expression of the one "Split" step; the only other step may be "ByteLevel" without its own."""
    outer = data.get("pre_tokenizer")
    steps = outer.get("pretokenizers") if isinstance(outer, dict) and outer.get("type") == "Sequence" else None
    if (
        isinstance(steps, list)
        and len(steps) == 2
        and all(isinstance(step, dict) for step in steps)
        and [step.get("type") for step in steps] == ["Split", "ByteLevel"]
        and isinstance(steps[0].get("pattern"), dict)
        and isinstance(steps[0]["pattern"].get("Regex"), str)
        and (steps[0].get("behavior"), bool(steps[0].get("invert"))) in (("Isolated", False), ("Removed", True))
        and not steps[1].get("add_prefix_space")
        and not steps[1].get("use_regex", True)
    ):
        pattern: str = steps[0]["pattern"]["Regex"]
        return pattern
    raise TokenizerError(
        f'{source} splits text in another way than gpt-oss ("pre_tokenizer" is {str(outer)[:200]}); expected a '
        '"Split" by a "Regex" and a plain "ByteLevel". Use the tokenizer.json of a gpt-oss checkpoint.'
    )
