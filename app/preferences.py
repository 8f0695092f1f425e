"""What the user set for every chat: a TOML file that explains itself, read and changed here.

The file is the user's: it is written once with every setting explained and commented out, and after that only the line
of a setting that is changed in the app. A value that cannot be used is told in one sentence, and its default is used.
"""

import contextlib
import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.settings import home_folder
from gptoss_mlx.whole_file import locked, write_whole

if TYPE_CHECKING:
    from gptoss_mlx.tools import Policy

FILE_NAME: Final = "settings.toml"

EFFORTS: Final = ("none", "low", "medium", "high")
"""As `gptoss_mlx.options.EFFORTS`, which brings MLX with it."""

POLICIES: Final = ("ask", "always", "never")
"""As `gptoss_mlx.tools.POLICIES`, which an empty screen is painted without."""

OVERFLOWS: Final = ("drop_oldest", "error")
"""As `gptoss_mlx.context.OVERFLOWS`; the app's default first."""

PROVIDERS: Final = ("exa", "brave")
"""As `gptoss_mlx.tools.browser.providers.PROVIDERS`."""

HOST_MODES: Final = ("tensor", "pipeline")
"""As `gptoss_mlx.distributed.plan.MODES`."""

DEFAULT_THEME: Final = "auto"
"""The app's own colours, dark or light as the terminal is."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """What holds where a conversation says nothing else."""

    theme: str = DEFAULT_THEME
    """Name of the app's colours."""
    model: str | None = None
    """The model used last; None: the app chooses."""
    effort: str | None = None
    """How long to think: one of `EFFORTS`; None: medium, and high with the pocket model."""
    temperature: float | None = None
    """None: as OpenAI has it, 1."""
    top_p: float | None = None
    """None: as OpenAI has it, 1."""
    max_tokens: int | None = None
    """Tokens of an answer at most, reasoning included; None: up to the context length."""
    max_reasoning_tokens: int | None = None
    """Tokens of reasoning at most; None: no limit."""
    instructions: str | None = None
    """The developer's instructions ("system prompt")."""
    context: int | None = None
    """Tokens of a conversation at most; None: what the model was made for."""
    overflow: str = "drop_oldest"
    """What happens when a conversation does not fit the context: one of `OVERFLOWS`."""
    keep_read: bool = True
    """Whether what models have read of conversations is kept in files."""
    keep_read_gb: float = 8.0
    """What these files take together at most, in 10^9 bytes."""
    unload_after_minutes: float | None = None
    """How long a model that nobody asks stays in memory; None: for ever."""
    hosts: str | None = None
    """The machines that share the model, names with commas between; None: this one alone."""
    host_mode: str | None = None
    """How they share it: one of `HOST_MODES`; None: what seems faster."""
    host_timeout_seconds: float | None = None
    """After how long a host that says nothing is given up; None: 10 s."""
    keep_reasoning_open: bool = False
    """Whether reasoning stays unfolded when the answer begins."""
    show_statistics: bool = False
    """Whether the panel with the figures of the last answer is shown."""
    tools: "Mapping[str, Policy]" = field(default_factory=dict)
    """Policy of a tool by its name: one of `POLICIES`; for others, what the tool itself says, else ask. A tool of a
    server is called `server.tool`, all of a server's are `server.*`."""
    browse: Sequence[str] = ()
    """Folders and files that models may search and read."""
    browse_web: bool = False
    """Whether they may open pages of the web."""
    search_provider: str | None = None
    """Who searches the web for them: one of `PROVIDERS`; None: nobody."""
    python: bool = False
    """Whether models may run Python in conversations that do not say."""
    mcp: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Servers of tools: name -> table, as `tool_servers.read_servers` reads them."""
    problems: tuple[str, ...] = ()
    """A sentence for each value of the file that cannot be used, for the user; not a setting."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting is explained in the file, and checked."""

    explanation: str
    """One sentence."""
    example: str
    """A value as TOML has it, for the commented line."""
    expected: str
    """What can stand there, for messages."""
    accepts: Callable[[Any], bool]
    """Whether a value can be used."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_policies(value: Any) -> bool:
    return isinstance(value, dict) and all(policy in POLICIES for policy in value.values())


def _are_tables(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(table, dict) for table in value.values())


SETTINGS: Final[dict[str, Setting]] = {
    "theme": Setting(
        "The colours of the app: auto goes by the terminal, the app lists the others.",
        f'"{DEFAULT_THEME}"',
        "a theme's name",
        _is_text,
    ),
    "model": Setting(
        "The model to begin with: a name from `gptoss list`, or a folder. The app notes the last one here.",
        '"20b"',
        "a model's name",
        _is_text,
    ),
    "effort": Setting(
        "How long to think before answering: none, low, medium or high; without it medium, with the pocket model high.",
        '"medium"',
        "one of none, low, medium, high",
        lambda value: value in EFFORTS,
    ),
    "temperature": Setting(
        "How freely words are chosen: 0 always takes the likeliest; the model was made for 1.",
        "1.0",
        "a number, 0 or more",
        lambda value: _is_number(value) and value >= 0,
    ),
    "top_p": Setting(
        "Choose among the likeliest words only, those that have this share together.",
        "1.0",
        "a number above 0, at most 1",
        lambda value: _is_number(value) and 0 < value <= 1,
    ),
    "max_tokens": Setting(
        "Tokens of an answer at most, reasoning included; without it, up to the context length.",
        "4096",
        "a whole number, 1 or more",
        _is_count(1),
    ),
    "max_reasoning_tokens": Setting(
        "Tokens of reasoning at most, then the answer begins; without it, no limit.",
        "2048",
        "a whole number, 0 or more",
        _is_count(0),
    ),
    "instructions": Setting(
        'What the model is told before every chat (its "system prompt").',
        '"Answer in plain words."',
        "text",
        _is_text,
    ),
    "context": Setting(
        "Tokens of a conversation at most: fewer need less memory; without it, what the model was made for.",
        "8192",
        "a whole number, 2 or more",
        _is_count(2),
    ),
    "overflow": Setting(
        "When a conversation does not fit: drop_oldest leaves its oldest turns out of what is read, error stops there.",
        '"drop_oldest"',
        "one of drop_oldest, error",
        lambda value: value in OVERFLOWS,
    ),
    "keep_read": Setting(
        "Whether what the model has read of a chat is kept in a file, so that it is not read again after a restart "
        "(25 KB a token for gpt-oss-20b); false removes what was kept.",
        "true",
        "true or false",
        _is_switch,
    ),
    "keep_read_gb": Setting(
        "What these files take together at most, in GB; the chats that were used longest ago lose theirs first.",
        "8.0",
        "a number, 0 or more",
        lambda value: _is_number(value) and value >= 0,
    ),
    "unload_after_minutes": Setting(
        "Minutes without a message after which the model leaves memory, to be loaded again with the next one; without "
        "it, never.",
        "30.0",
        "a number above 0",
        lambda value: _is_number(value) and value > 0,
    ),
    "hosts": Setting(
        "Machines that share the model: names that ssh knows, with commas between, or a hostfile of MLX; without it, "
        "this one has all of it. `gptoss hosts check` says whether they can.",
        '"mac1,mac2"',
        "names of hosts with commas between",
        _is_text,
    ),
    "host_mode": Setting(
        "How they share it: tensor (each has a part of every layer) or pipeline (each has some of the layers); without "
        "it, what seems faster.",
        '"pipeline"',
        "one of tensor, pipeline",
        lambda value: value in HOST_MODES,
    ),
    "host_timeout_seconds": Setting(
        "Seconds after which a host that says nothing is given up.",
        "10.0",
        "a number above 0",
        lambda value: _is_number(value) and value > 0,
    ),
    "keep_reasoning_open": Setting(
        "Whether reasoning stays unfolded when the answer begins.", "true", "true or false", _is_switch
    ),
    "show_statistics": Setting(
        "Whether the panel with the figures of the last answer is shown.", "true", "true or false", _is_switch
    ),
    "tools": Setting(
        "Whether a tool runs when the model calls it, by its name: ask each time, always, or never; a server's tool is "
        "server.tool, all of its tools are server.*",
        '{ calculator = "always", "files.*" = "ask" }',
        "names of tools, each with ask, always or never",
        _are_policies,
    ),
    "browse": Setting(
        "Folders and files that the model may search and read, without asking; names that begin with a dot are left "
        "out.",
        '["~/notes"]',
        "a list of folders",
        _are_texts,
    ),
    "browse_web": Setting(
        "Whether the model may open pages of the web; it asks before each.", "true", "true or false", _is_switch
    ),
    "search_provider": Setting(
        "Who searches the web for the model: exa or brave, with your key in EXA_API_KEY or BRAVE_API_KEY; without it, "
        "nobody.",
        '"exa"',
        "one of exa, brave",
        lambda value: value in PROVIDERS,
    ),
    "python": Setting(
        "Whether the model may run Python, in a sandbox: no network, none of your files (F6 switches it).",
        "true",
        "true or false",
        _is_switch,
    ),
    "mcp": Setting(
        "Servers of tools that speak MCP, by name: the command that starts each, or its url; also env, cwd, headers, "
        "policy (ask, always, never), start_seconds, call_seconds, restarts. Easier to read as tables at the end of "
        "this file: [mcp.files], and below it command = [...]",
        '{ files = { command = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "/a/folder"] } }',
        "tables by the name of a server",
        _are_tables,
    ),
}
"""Every setting, in the order of `Preferences`."""

_HEAD: Final = """\
# Settings of the gptoss app. A line that begins with # is not read: take the # away to set it.
# What is changed in the app is changed here; your comments stay.
"""


def preferences_file() -> Path:
    """Where the settings stand."""
    return home_folder() / FILE_NAME


def load_preferences(path: Path | None = None) -> Preferences:
    """The settings of the file; for one that cannot be used the default, and a sentence in `problems`.

    Writes the file, every setting explained, where there is none and one can be written.
    """
    path = preferences_file() if path is None else path
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # A folder that may only be read is no reason not to chat: it is told when something is to be saved.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, _explained(), overwrite=False)
        return Preferences()
    except OSError as error:
        return Preferences(problems=(f"{path} cannot be read ({_said(error)}); the default settings are used",))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = f"{path} is no TOML ({error}); the default settings are used: correct or delete it"
        return Preferences(problems=(problem,))
    return _read(values, path)


def save_preference(name: str, value: Any, path: Path | None = None) -> None:
    """Sets one setting in the file; None takes it out. All else in it stays as it is, comments too.

    Raises UsageError for an unknown setting, a value that it cannot have, and a file that cannot be read or written.
    """
    path = preferences_file() if path is None else path
    setting = SETTINGS.get(name)
    if setting is None:
        raise UsageError(f"there is no setting {name!r}; expected one of {', '.join(SETTINGS)}")
    if value is not None and not setting.accepts(value):
        raise UsageError(f"{name} is {value!r}; expected {setting.expected}")
    try:
        with locked(path):
            write_whole(path, _changed(path, name, value))
    except OSError as error:
        raise UsageError(f"{name} cannot be saved in {path}: {_said(error)}; it holds until the app ends") from error


def _read(values: dict[str, Any], path: Path) -> Preferences:
    usable: dict[str, Any] = {}
    sentences: list[str] = []
    for name, value in values.items():
        setting = SETTINGS.get(name)
        if setting is None:
            near = difflib.get_close_matches(name, SETTINGS, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(SETTINGS)}"
            sentences.append(f"{path} sets {name!r}, which is no setting; {hint}")
        elif not setting.accepts(value):
            sentences.append(f"{name} in {path} is {value!r}; expected {setting.expected}: the default is used")
        else:
            usable[name] = value
    return Preferences(**usable, problems=tuple(sentences))


def _explained() -> str:
    """The file as it is written first."""
    parts = [f"# {setting.explanation}\n# {name} = {setting.example}\n" for name, setting in SETTINGS.items()]
    return "\n".join((_HEAD, *parts))


def _changed(path: Path, name: str, value: Any) -> str:
    """The file's text with the setting changed."""
    # Only when something is saved: the app starts without it.
    import tomlkit
    from tomlkit.exceptions import ParseError

    try:
        text = path.read_text(encoding="utf-8") if path.exists() else _explained()
        document = tomlkit.parse(text)
    except (ParseError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name} cannot be saved: {path} is no TOML ({error}); correct or delete it") from error
    if value is None:
        document.pop(name, None)
        return tomlkit.dumps(document)
    if isinstance(value, Mapping):
        if isinstance(table := document.get(name), dict):
            # Where the user wrote it as a [table], it stays one.
            for key in [key for key in table if key not in value]:
                del table[key]
            table.update(value)
            return tomlkit.dumps(document)
        inline = tomlkit.inline_table()
        inline.update(value)
        value = inline
    if name in document:
        document[name] = value
        return tomlkit.dumps(document)
    line = f"{name} = {tomlkit.item(value).as_string()}"
    # Beside its explanation, where that still stands; at the top otherwise: below a [table] it would belong to it.
    commented = re.compile(rf"^# *{name} *=.*$", re.MULTILINE)
    beside = commented.sub(lambda match: f"{match.group()}\n{line}", text, count=1)
    # Within a text of several lines, what looks like the comment is none.
    with contextlib.suppress(tomllib.TOMLDecodeError):
        if tomllib.loads(beside) == {**tomllib.loads(text), name: value}:
            return beside
    return f"{line}\n{text}"


def _said(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
