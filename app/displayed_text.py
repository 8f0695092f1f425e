"""Text of a model, a user or a file as it is safe to show: nothing in it steers the terminal, and nothing is hidden.

Only for the screen. What is saved, copied and sent to the model is always the source text.
"""

import re

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
"""ESC is shown as ␛, and so on; tabs and line ends stay."""
_REPLACED = {
    **_PICTURES,
    0x7F: "␡",
    # The C1 range steers some terminals as ESC does; U+0085 is a line end to Python and none to Markdown.
    **dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}"),
    # Line and paragraph separator.
    0x2028: "\n",
    0x2029: "\n",
    # Embeddings and overrides of direction: they would rearrange what stands after them, in other widgets too.
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}"),
}
_SUSPECT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def displayable(text: str) -> str:
    """The text with control characters as visible signs; line ends are all `\\n`."""
    if _SUSPECT.search(text) is None:
        return text
    text = text.replace("\r\n", "\n").translate(_REPLACED)
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def count_of(number: int, one: str) -> str:
    """A number and its noun: `1 token`, `1,204 tokens`."""
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def duration(seconds: float) -> str:
    """A time as a person says it: `6.2 s`, `2 min 5 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
