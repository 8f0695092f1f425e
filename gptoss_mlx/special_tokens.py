"""The special tokens of harmony: their names, and their ids in one vocabulary.

Owns the names and the sets of ids that end a message or a generation. It does not read files (see tokenizer.py), and
no id is fixed anywhere else: a vocabulary of another size carries the same names under other ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from gptoss_mlx.errors import TokenizerError

START = "<|start|>"
"""Opens a message; the author follows."""
END = "<|end|>"
"""Closes a message."""
MESSAGE = "<|message|>"
"""Parts the header of a message from its content."""
CHANNEL = "<|channel|>"
"""Comes before the channel in a header."""
CONSTRAIN = "<|constrain|>"
"""Comes before the content type of a tool call in a header."""
RETURN = "<|return|>"
"""Closes the last message of an answer; only ever sampled, history has END in its place."""
CALL = "<|call|>"
"""Closes a tool call."""
ENDOFTEXT = "<|endoftext|>"
"""Padding; a model may also stop with it."""
STARTOFTEXT = "<|startoftext|>"
"""Named in the configuration as the first token of a text, yet harmony never writes it."""

GPT_OSS_IDS: Mapping[str, int] = {
    STARTOFTEXT: 199998,
    ENDOFTEXT: 199999,
    RETURN: 200002,
    CONSTRAIN: 200003,
    CHANNEL: 200005,
    START: 200006,
    END: 200007,
    MESSAGE: 200008,
    CALL: 200012,
}
"""Ids in the vocabulary of gpt-oss-20b and gpt-oss-120b (201,088 tokens)."""


def reserved_name(token: int) -> str:
    """The name of an id that the vocabulary leaves unnamed."""
    return f"<|reserved_{token}|>"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids of harmony's special tokens in one vocabulary."""

    start: int
    end: int
    message: int
    channel: int
    constrain: int
    return_: int
    call: int
    endoftext: int
    startoftext: int

    @classmethod
    def from_names(cls, ids: Mapping[str, int], *, source: str = "the vocabulary") -> Self:
        """The ids found by name in `ids` (special token -> id).

        Raises TokenizerError naming every missing token and `source`.
        """
        missing = [name for name in GPT_OSS_IDS if name not in ids]
        if missing:
            raise TokenizerError(
                f"{source} has no special token {', '.join(missing)}; harmony needs all of {', '.join(GPT_OSS_IDS)}. "
                "Use the tokenizer.json of a gpt-oss checkpoint."
            )
        return cls(
            start=ids[START],
            end=ids[END],
            message=ids[MESSAGE],
            channel=ids[CHANNEL],
            constrain=ids[CONSTRAIN],
            return_=ids[RETURN],
            call=ids[CALL],
            endoftext=ids[ENDOFTEXT],
            startoftext=ids[STARTOFTEXT],
        )

    def id_of(self, name: str) -> int:
        """The id of one of the nine names, e.g. `id_of(START)`. Raises KeyError for any other text."""
        return getattr(self, _FIELDS[name])  # type: ignore[no-any-return]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids after which generation stops: the answer is complete, a tool is called, or the text ends."""
        return frozenset((self.return_, self.call, self.endoftext))

    @property
    def message_end_ids(self) -> frozenset[int]:
        """Ids that close one message."""
        return frozenset((self.end, self.return_, self.call))


_FIELDS: Mapping[str, str] = {
    START: "start",
    END: "end",
    MESSAGE: "message",
    CHANNEL: "channel",
    CONSTRAIN: "constrain",
    RETURN: "return_",
    CALL: "call",
    ENDOFTEXT: "endoftext",
    STARTOFTEXT: "startoftext",
}
