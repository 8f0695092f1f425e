"""What a server answers to a call, as the text that the model reads."""

import json
from collections.abc import Sequence
from typing import Any, Final

import mcp_types as types

NO_RESULT: Final = "the tool gave no text"


def call_text(result: types.CallToolResult) -> str:
    """The text of a result: its texts, in words what a model of text cannot read, and its values as JSON where no text
    says them."""
    parts = [_block_text(block) for block in result.content]
    texts = [block.text for block in result.content if isinstance(block, types.TextContent)]
    if result.structured_content is not None and not _is_said(result.structured_content, texts):
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts) if parts else f"[{NO_RESULT}]"


def _block_text(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent(text=text):
            return text
        case types.ImageContent():
            return f"[an image ({block.mime_type}, {_size(block.data)}), which cannot be shown to this model]"
        case types.AudioContent():
            return f"[a sound ({block.mime_type}, {_size(block.data)}), which cannot be played to this model]"
        case types.ResourceLink():
            told = ", ".join(part for part in (block.mime_type, block.description) if part)
            return f"[a link to {block.name}: {block.uri}{f' ({told})' if told else ''}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return f"[the content of {resource.uri}:]\n{resource.text}"
        case types.EmbeddedResource(resource=resource):
            kind = resource.mime_type or "binary data"
            return f"[the content of {resource.uri} ({kind}), which cannot be shown to this model]"


def _size(data: str) -> str:
    return f"{3 * len(data) // 4:,} bytes"


def _is_said(value: Any, texts: Sequence[str]) -> bool:
    """Whether the texts say these values already: as JSON, alone or in parts, with or without one name around them."""
    if not texts:
        return False
    inner = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value
    read = [_read(text) for text in texts]
    whole = _read("\n".join(texts))
    return any(said in (value, inner) for said in (read, texts, read[0], texts[0], whole))


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
