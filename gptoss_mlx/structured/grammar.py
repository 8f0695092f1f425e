"""What text may come next, by llguidance: grammars from JSON schemas, regular expressions and choices, and their state
while tokens come.

llguidance is imported here only, and only when a grammar is made. Its view of a vocabulary is made once for each
tokenizer (1.2 s of processor time for the 201,088 tokens of gpt-oss); a mask then takes tens of microseconds.
"""

import json
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptoss_mlx.errors import UsageError
from gptoss_mlx.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

WHITESPACE = r"\n {0,40}| "
"""What may stand between the parts of a JSON text: one blank, or a new line with its indent. Without a bound, a model
that has lost its way would write blanks for ever."""

SEARCHED_STATES = 64
"""How many states are looked at for the end of a text that met a limit."""

_vocabularies: "weakref.WeakKeyDictionary[Tokenizer, LLTokenizer]" = weakref.WeakKeyDictionary()


def schema_grammar(schema: Mapping[str, Any], what: str) -> str:
    """The grammar of the JSON texts that fit `schema`.

    Raises UsageError, which calls it `what`, for a schema that cannot be enforced token by token.
    """
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(dict(schema), overrides={"whitespace_pattern": WHITESPACE})
    return _checked(grammar, f"{what} cannot be enforced while the model writes")


def regex_grammar(regex: str) -> str:
    """The grammar of the texts that `regex` matches as a whole. Raises UsageError for what is no such expression."""
    from llguidance import LLMatcher

    return _checked(LLMatcher.grammar_from_regex(regex), f"the regular expression {regex!r} cannot be enforced")


def choices_grammar(choices: Sequence[str]) -> str:
    """The grammar of exactly these texts."""
    from llguidance import LLMatcher

    alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return _checked(LLMatcher.grammar_from_lark(f"start: {alternatives}"), f"the choices {list(choices)!r} are no use")


def _checked(grammar: str, what: str) -> str:
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        raise UsageError(f"{what}: {' '.join(messages[0].split())}")
    return grammar


def vocabulary_of(tokenizer: Tokenizer) -> "LLTokenizer":
    """llguidance's view of a vocabulary; `<|return|>` ends a text."""
    known = _vocabularies.get(tokenizer)
    if known is None:
        from llguidance import LLTokenizer
        from llguidance.tiktoken import lltokenizer_from_encoding

        known = lltokenizer_from_encoding(
            tokenizer.encoding,
            n_vocab=tokenizer.vocab_size,
            eos_token=tokenizer.special.return_,
            slices=LLTokenizer.json_slices(),
        )
        _vocabularies[tokenizer] = known
    return known


class Matcher:
    """A grammar's state: which tokens may follow those that came."""

    def __init__(self, grammar: str, tokenizer: Tokenizer, end: int) -> None:
        """`end` is the token that ends the text, once it is complete. Raises UsageError for a grammar that is too
        complex."""
        from llguidance import LLMatcher

        self._matcher = LLMatcher(vocabulary_of(tokenizer), grammar, log_level=0)
        self._return = tokenizer.special.return_
        self._end = end
        self._vocab_size = tokenizer.vocab_size
        self._single_bytes = np.array([tokenizer.encode(chr(code))[0] for code in range(0x21, 0x7F)])
        self._words = np.zeros((tokenizer.vocab_size + 31) // 32, dtype=np.int32)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def allowed(self) -> npt.NDArray[np.bool_]:
        """[vocab]: the tokens that may follow. Raises UsageError when the grammar turns out to be too complex."""
        if self._matcher.is_stopped():
            self._check()
            mask = np.zeros(self._vocab_size, dtype=np.bool_)
            mask[self._end] = True
            return mask
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check()
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._vocab_size]
        mask = bits.view(np.bool_)
        ends = mask[self._return]
        mask[self._return] = False
        mask[self._end] = ends
        return mask

    def path_to(self, goal: int) -> list[int]:
        """The fewest single-byte tokens after which `goal` may follow; none where no way is found.

        Looks at each set of possible next tokens once: enough for an `@` that is missing, while what only has to grow
        longer is left to the model.
        """
        seen: set[bytes] = set()
        waiting = deque([(self._matcher.deep_copy(), list[int]())])
        while waiting and len(seen) < SEARCHED_STATES:
            state, path = waiting.popleft()
            words = state.compute_bitmask()
            if words in seen or state.is_error():
                continue
            seen.add(words)
            bits = np.unpackbits(np.frombuffer(words, dtype=np.uint8), bitorder="little")
            if bits[goal]:
                return path
            for token in self._single_bytes[bits[self._single_bytes] == 1]:
                following = state.deep_copy()
                if following.consume_token(int(token)):
                    waiting.append((following, [*path, int(token)]))
        return []

    def accept(self, token: int) -> bool:
        """Takes a token of the text; False if it does not fit."""
        return self._matcher.try_consume_tokens([token]) == 1

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UsageError(
                f"the form that was asked for is too complex to be enforced ({self._matcher.get_error().strip()}); "
                "simplify the schema or the expression"
            )
