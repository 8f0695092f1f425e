"""What text may come next, by llguidance: grammars from JSON schemas, regular expressions and choices, and their state
while tokens come.

llguidance is imported only when a grammar is made. A mask takes tens of microseconds.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_mlx.errors import UsageError
from gptoss_mlx.structured.vocabulary import Mask, vocabulary_of
from gptoss_mlx.tokenizer import Tokenizer

WHITESPACE = r"\n {0,40}| "
"""What may stand between the parts of a JSON text: one blank, or a new line with its indent. Without a bound, a model
that has lost its way would write blanks for ever."""

SEARCHED_STATES = 64
"""How many states are looked at for the end of a text that met a limit."""


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


class Matcher:
    """A grammar's state: which tokens may follow those that came."""

    def __init__(self, grammar: str, tokenizer: Tokenizer, end: int) -> None:
        """`end` is the token that ends the text, once it is complete. Raises UsageError for a grammar that is too
        complex."""
        from llguidance import LLMatcher

        self._vocabulary = vocabulary_of(tokenizer)
        self._matcher = LLMatcher(self._vocabulary.for_llguidance, grammar, log_level=0)
        self._end = end
        self._words = np.zeros((self._vocabulary.size + 31) // 32, dtype=np.int32)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def allowed(self) -> Mask:
        """[vocab]: the tokens that may follow. Raises UsageError when the grammar turns out to be too complex."""
        if self._matcher.is_stopped():
            self._check()
            mask = np.zeros(self._vocabulary.size, dtype=np.bool_)
            mask[self._end] = True
            return mask
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check()
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._vocabulary.size]
        mask = bits.view(np.bool_)
        ends = mask[self._vocabulary.return_]
        mask[self._vocabulary.return_] = False
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
            single = self._vocabulary.single_bytes
            for token in single[bits[single] == 1]:
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
