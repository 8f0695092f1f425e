"""What the tools of one conversation keep between their calls."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gptoss_mlx.tools.tool import Tool, ToolSession


class ToolSessions:
    """The sessions of one conversation, begun when they are first needed. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Callable[[], ToolSession], ToolSession]] = {}
        """By the tool's name: what began it, and it."""

    def bound(self, tool: Tool, earlier: Sequence[str]) -> Tool:
        """The tool with its session in this conversation as its function; itself, where it keeps nothing.

        `earlier`: what the model wrote in the conversation's calls of it before.
        """
        if tool.begin is None:
            return tool
        session = self._session(tool.name, tool.begin)

        def call(**arguments: Any) -> Any:
            return session(arguments, earlier)

        return replace(tool, function=call)

    def close(self) -> None:
        """Ends them all. Calls after that begin anew."""
        with self._lock:
            sessions, self._open = [session for _, session in self._open.values()], {}
        for session in sessions:
            session.close()

    def _session(self, name: str, begin: Callable[[], ToolSession]) -> ToolSession:
        with self._lock:
            known = self._open.get(name)
            if known is not None and known[0] == begin:
                return known[1]
            # Another tool, or other settings of it, under the same name.
            self._open[name] = (begin, begin())
            session = self._open[name][1]
        if known is not None:
            known[1].close()
        return session
