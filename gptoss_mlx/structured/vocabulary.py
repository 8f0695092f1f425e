"""A tokenizer's tokens as grammars and masks need them, made once for each tokenizer."""

import functools
import weakref
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gptoss_mlx.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

Mask = npt.NDArray[np.bool_]
"""[vocab]: True for each token that is meant."""


class Vocabulary:
    """The tokens of one tokenizer. What it gives is shared: do not write into it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Not the tokenizer itself: it would keep its own entry in the table of vocabularies alive.
        self._encoding = tokenizer.encoding
        self.size: int = tokenizer.vocab_size
        """Number of token ids."""
        self.return_: int = tokenizer.special.return_
        """What ends a text for llguidance."""
        self.single_bytes: npt.NDArray[np.int64] = np.array([tokenizer.encode(chr(c))[0] for c in range(0x21, 0x7F)])
        """The tokens of the printable ASCII characters."""
        self._special = list(tokenizer.special_ids.values())

    @functools.cached_property
    def text(self) -> Mask:
        """The tokens of text: neither special nor reserved."""
        mask = np.ones(self.size, dtype=np.bool_)
        mask[self._special] = False
        return mask

    @functools.cached_property
    def blanks(self) -> Mask:
        """The tokens that begin with white space."""
        data = self._encoding.decode_single_token_bytes
        starts = (data(token)[:1] in (b" ", b"\n", b"\t", b"\r") for token in range(self.size))
        return np.fromiter(starts, dtype=np.bool_, count=self.size)

    @functools.cached_property
    def for_llguidance(self) -> "LLTokenizer":
        """llguidance's view, 1.3 s of processor time for the 201,088 tokens of gpt-oss.

        A third of that goes into slices for JSON, with which a mask within a string takes a twentieth of the time.
        """
        from llguidance import LLTokenizer
        from llguidance.tiktoken import lltokenizer_from_encoding

        slices = LLTokenizer.json_slices()
        return lltokenizer_from_encoding(self._encoding, n_vocab=self.size, eos_token=self.return_, slices=slices)


_known: "weakref.WeakKeyDictionary[Tokenizer, Vocabulary]" = weakref.WeakKeyDictionary()


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The tokens of `tokenizer`."""
    known = _known.get(tokenizer)
    if known is None:
        known = _known[tokenizer] = Vocabulary(tokenizer)
    return known
