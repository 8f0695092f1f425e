"""A place that tools come from, which may offer others at the next turn."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from gptoss_mlx.tools.tool import Tool


class ToolSource(ABC):
    """Stands among `tools=` for all the tools that it has when a turn begins."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name, which is the namespace of its tools."""

    @abstractmethod
    def offered_tools(self) -> Sequence[Tool]:
        """The tools that there are now. Raises UsageError where it is not in use yet, or no more."""
