"""The tools that hold while the app runs: which there are, where they come from, and whether a call of one asks first.

What holds for a call is looked up when it comes, so that a policy that is changed holds at once, in an answer under
way too. Knows no Textual.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from gptoss_mlx.harmony import ToolDescription
    from gptoss_mlx.tools import Policy, Tool

PYTHON: Final = "python"
"""The tool that comes with the app, off until it is switched on; as `gptoss_mlx.python_sandbox.tool.NAME`, which an
empty screen is painted without."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tool, and where it comes from."""

    tool: "Tool"
    place: str
    """As the user named it: `--tool calc.py:multiply`."""


class Toolbox:
    """The tools, and what the user said of them."""

    def __init__(
        self,
        sources: Sequence[Source] = (),
        *,
        run_all: bool = False,
        kept: "Callable[[], Mapping[str, Policy]]" = dict,
        unsandboxed: bool = False,
    ) -> None:
        """`run_all`: what would ask runs at once (`--yes`); `kept` gives the preferences' policies by name;
        `unsandboxed` has Python run without a sandbox.

        Raises UsageError when two tools have one name.
        """
        self.sources = tuple(sources)
        """Those of the command line."""
        self.kept: Callable[[], Mapping[str, Policy]] = kept
        self._run_all = run_all
        self._unsandboxed = unsandboxed
        self._chosen: dict[str, Policy] = {}
        """By name: what was chosen since the app began."""
        places: dict[str, str] = {}
        for source in self.sources:
            other = places.setdefault(source.tool.name, source.place)
            if other is not source.place:
                raise UsageError(
                    f"{other} and {source.place} are both called {source.tool.name!r}; expected each name once"
                )

    @cached_property
    def listed(self) -> Sequence[Source]:
        """All tools that there can be: those of the command line, and Python, where none of them has its name."""
        return (*self.sources, *([self._python] if self.has_python else []))

    @property
    def has_python(self) -> bool:
        """Whether `python` is the tool that comes with the app."""
        return all(source.tool.name != PYTHON for source in self.sources)

    @cached_property
    def _python(self) -> Source:
        # Imported when it is wanted.
        from gptoss_mlx.python_sandbox.tool import make_python_tool

        place = "built in, WITHOUT A SANDBOX" if self._unsandboxed else "built in, in a sandbox"
        # Whether there can be one is looked at when it is switched on, beside the keys.
        return Source(make_python_tool(unsandboxed=self._unsandboxed, check=False), place)

    def check_python(self) -> None:
        """Looks whether Python can run here; takes a moment. Raises SandboxError, saying why not."""
        from gptoss_mlx.python_sandbox.session import check_sandbox

        check_sandbox(unsandboxed=self._unsandboxed)

    def policy(self, name: str) -> "Policy":
        """What holds for the tool of that name: what was chosen last, else the preferences' word, else its own."""
        if name in self._chosen:
            return self._chosen[name]
        own = next((source.tool for source in self.sources if source.tool.name == name), None)
        said = self.kept().get(name) or (None if own is None else own.policy)
        if said is not None and said != "ask":
            return said
        return "always" if self._run_all else "ask"

    def place(self, name: str) -> str:
        """Where the tool of that name comes from; empty where there is none."""
        return next((source.place for source in self.listed if source.tool.name == name), "")

    def choose(self, name: str, policy: "Policy") -> None:
        """The policy of that tool from now on, while the app runs."""
        self._chosen[name] = policy

    def offered(self, off: Collection[str] = (), *, python: bool = False) -> "list[ToolDescription]":
        """The tools that a model is told of, those in `off` left out, and with `python`, Python. Each asks, so that
        the policy of the moment holds."""
        sources = [source for source in self.sources if source.tool.name not in off]
        if python and self.has_python:
            sources.append(self._python)
        return [replace(source.tool, policy="ask") for source in sources]
