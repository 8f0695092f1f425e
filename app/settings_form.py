"""What the settings screen asks for, as text, and back to settings; pure data.

The names are those of `ChatSettings` and `Preferences`. What a value may be is said once, in `preferences.SETTINGS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from gptoss_mlx.app.conversation import TOOL_SETTINGS, ChatSettings
from gptoss_mlx.app.preferences import SETTINGS, Preferences
from gptoss_mlx.errors import UsageError

CHAT_FIELDS: Final = tuple(item.name for item in fields(ChatSettings) if item.name not in TOOL_SETTINGS)
"""Settings that a conversation can have for itself; its tools have a screen of their own."""

APP_FIELDS: Final = (
    "context",
    "overflow",
    "keep_read",
    "keep_read_gb",
    "unload_after_minutes",
    "hosts",
    "host_timeout_seconds",
    "theme",
    "keep_reasoning_open",
    "show_statistics",
)
"""Settings that hold for the app."""

TITLES: Final[Mapping[str, str]] = {
    "instructions": "Instructions",
    "effort": "Reasoning effort",
    "temperature": "Temperature",
    "top_p": "Top p",
    "max_tokens": "Tokens at most",
    "max_reasoning_tokens": "Of reasoning at most",
    "context": "Context",
    "overflow": "When it is full",
    "keep_read": "Keep what was read",
    "keep_read_gb": "On disk at most (GB)",
    "unload_after_minutes": "Unload after (minutes)",
    "hosts": "Hosts",
    "host_timeout_seconds": "Host timeout (seconds)",
    "theme": "Theme",
    "keep_reasoning_open": "Reasoning stays open",
    "show_statistics": "Statistics are shown",
}

PLACEHOLDERS: Final[Mapping[str, str]] = {
    "temperature": "1, as the model was made for",
    "top_p": "1, all words",
    "max_tokens": "up to the context length",
    "max_reasoning_tokens": "no limit",
    "context": "what the model was made for; holds from the next load",
    "keep_read_gb": "8",
    "unload_after_minutes": "never; holds from the next load",
    "hosts": "this machine alone; holds from the next load",
    "host_timeout_seconds": "10; holds from the next load",
}
"""What an empty field means."""


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """What the person decided."""

    chat: ChatSettings
    """The conversation's own settings, from now on."""
    preferences: Mapping[str, Any] = field(default_factory=dict)
    """Preferences that changed, with their new values."""


def read_value(name: str, text: str) -> Any:
    """The value that was typed for a setting; None for an empty field.

    Raises UsageError, one sentence, for what cannot be one.
    """
    text = text.strip()
    if not text:
        return None
    value: Any = text
    if name in ("temperature", "top_p", "keep_read_gb", "unload_after_minutes", "host_timeout_seconds"):
        value = _number(text.replace(",", "."), float)
    elif name in ("max_tokens", "max_reasoning_tokens", "context"):
        value = _number(text.replace(",", "").replace("_", ""), int)
    if value is None or not SETTINGS[name].accepts(value):
        raise UsageError(f"{TITLES[name]} is {text!r}; expected {SETTINGS[name].expected}, or nothing")
    return value


def shown_value(value: Any) -> str:
    """A value as the field shows it."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def for_conversation(values: Mapping[str, Any], old: Preferences) -> SettingsChange:
    """The values hold in this conversation; those that are the preferences' go with them when they change."""
    chat = ChatSettings(**{name: None if values[name] == getattr(old, name) else values[name] for name in CHAT_FIELDS})
    return SettingsChange(chat, _changed(values, old, APP_FIELDS))


def as_default(values: Mapping[str, Any], old: Preferences) -> SettingsChange:
    """The values hold in every conversation that has none of its own; this one has none."""
    return SettingsChange(ChatSettings(), _changed(values, old, (*CHAT_FIELDS, *APP_FIELDS)))


def _changed(values: Mapping[str, Any], old: Preferences, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if values[name] != getattr(old, name)}


def _number(text: str, kind: type[int] | type[float]) -> int | float | None:
    try:
        return kind(text)
    except ValueError:
        return None
