"""What a person says of a server: the command that starts it, or its address, and how far it is trusted."""

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.tools.mcp.names import name_from_command
from gptoss_mlx.tools.namespaces import Namespace
from gptoss_mlx.tools.tool import POLICIES, Policy

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server. Raises UsageError, which names the server, for what cannot be used."""

    name: str
    """The namespace of its tools."""
    command: tuple[str, ...] = ()
    """The program and its arguments; it speaks on standard input and output."""
    url: str | None = None
    """In place of a command: where it listens (streamable HTTP)."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables beside HOME, PATH and the like: a server inherits no others. `${NAME}` stands for a
    variable of this process."""
    cwd: Path | None = None
    """Where it is started; None: where this process is."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of every request to `url`, with `${NAME}` as in `env`."""
    policy: Policy = "ask"
    """Whether its tools run when the model calls them."""
    policies: Mapping[str, Policy] = field(default_factory=dict)
    """The same for single tools, by name."""
    start_seconds: float = 30.0
    """How long it may take until it has told its tools: the first start of one may download it."""
    call_seconds: float | None = None
    """How long a call may take; None: what `ToolLimits.seconds` says."""
    restarts: int = 3
    """How often it is started again after it crashed."""

    def __post_init__(self) -> None:
        # With a description, which only the caller's own functions have not.
        Namespace(self.name, "")
        if bool(self.command) == bool(self.url):
            raise UsageError(f"the server {self.name!r} has {self._both()}; expected a command or a url")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise UsageError(f"url of the server {self.name!r} is {self.url!r}; expected http://... or https://...")
        if self.command and (not self.command[0] or any("\0" in word for word in self.command)):
            raise UsageError(f"the server {self.name!r} has the command {list(self.command)!r}; expected a program")
        for policy in (self.policy, *self.policies.values()):
            if policy not in POLICIES:
                raise UsageError(f"a policy of the server {self.name!r} is {policy!r}; expected {', '.join(POLICIES)}")
        for name in ("start_seconds", "call_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} of the server {self.name!r} is {value!r}; expected more than 0")
        if self.restarts < 0:
            raise UsageError(f"restarts of the server {self.name!r} is {self.restarts!r}; expected 0 or more")

    @property
    def place(self) -> str:
        """The command line, or the address."""
        return self.url if self.url is not None else shlex.join(self.command)

    def expanded(self, values: Mapping[str, str]) -> dict[str, str]:
        """`env` or `headers` with the variables put in. Raises UsageError for one that is not set."""

        def value_of(match: re.Match[str]) -> str:
            found = os.environ.get(match[1])
            if found is None:
                raise UsageError(f"the server {self.name!r} is given ${{{match[1]}}}, which is not set here")
            return found

        return {name: _VARIABLE.sub(value_of, value) for name, value in values.items()}

    def _both(self) -> str:
        return "both a command and a url" if self.command else "neither a command nor a url"


def make_spec(command: str | Sequence[str], *, name: str | None = None, **more: Any) -> ServerSpec:
    """A server from a command line (one text, split as a shell does, or its words) or a URL. Without a name it gets
    one from its command. Raises UsageError."""
    if isinstance(command, str):
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise UsageError(f"the command {command!r} cannot be read ({error}); expected one as in a shell") from error
    else:
        words = tuple(os.fspath(word) for word in command)
    if not words:
        raise UsageError("a server of tools has an empty command; expected a program and its arguments, or a URL")
    is_url = len(words) == 1 and words[0].startswith(("http://", "https://"))
    return ServerSpec(
        name_from_command(words) if name is None else name,
        command=() if is_url else words,
        url=words[0] if is_url else None,
        **more,
    )


def read_spec(name: str, table: Mapping[str, Any]) -> ServerSpec:
    """A server from its table in the settings. Raises UsageError."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        setting = _SETTINGS.get(key)
        if setting is None:
            known = ", ".join(_SETTINGS)
            raise UsageError(f"the server {name!r} has the setting {key!r}; expected {known}")
        accepts, expected, read = setting
        if not accepts(value):
            raise UsageError(f"{key} of the server {name!r} is {value!r}; expected {expected}")
        values[key] = read(value)
    return ServerSpec(name, **values)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def _is_command_line(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(shlex.split(value))
    except ValueError:
        return False


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_Setting = tuple[Callable[[Any], bool], str, Callable[[Any], Any]]

_SETTINGS: Final[dict[str, _Setting]] = {
    "command": (
        lambda value: _are_words(value) or _is_command_line(value),
        "a list of words, or a command line",
        lambda value: tuple(shlex.split(value) if isinstance(value, str) else value),
    ),
    "url": (_is_text, "an address", str),
    "env": (_are_texts, "names, each with a text", dict),
    "cwd": (_is_text, "a folder", lambda value: Path(value).expanduser()),
    "headers": (_are_texts, "names, each with a text", dict),
    "policy": (lambda value: value in POLICIES, ", ".join(POLICIES), str),
    "start_seconds": (_is_number, "a number", float),
    "call_seconds": (_is_number, "a number", float),
    "restarts": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number", int),
}
"""What a table may hold: what is accepted, how that is called, and how it is read."""
