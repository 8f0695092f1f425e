"""A tool's result as the text that the model reads."""

from typing import Any


def result_text(value: Any) -> str:
    """A string as it is, anything else as JSON (dataclasses, enums and models, too); what JSON cannot express by its
    `repr`."""
    if isinstance(value, str):
        # Half of a surrogate pair is no text: it could be neither encoded for the model nor saved.
        return value.encode("utf-8", errors="replace").decode("utf-8")
    from pydantic_core import to_json

    return to_json(value, fallback=repr, bytes_mode="base64", inf_nan_mode="constants").decode("utf-8")


def cut_middle(text: str, limit: int) -> str:
    """`text`, or its beginning and its end with a mark between that says how much is missing: `limit` characters and
    the mark."""
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    tail = limit - head
    mark = f"\n[... {len(text) - limit} of {len(text)} characters were cut here: the result is too long ...]\n"
    return text[:head] + mark + text[len(text) - tail :]
