"""The built-in `python` tool: what the model is told of it, and what it wrote read as code.

The model was trained with it: its description is OpenAI's, word for word, in the system message; its calls are bare
code, sent to `python` on the analysis channel; its results come from `python`, on the same channel.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from gptoss_mlx.harmony import PYTHON
from gptoss_mlx.python_sandbox.limits import PythonLimits
from gptoss_mlx.tools import Namespace, Policy, Tool, ToolSession

NAME: Final = PYTHON.name
"""What the model calls."""

SUMMARY: Final = "Runs Python code of the model in a sandbox: no network, none of your files. Names stay between calls."
"""The tool for people."""

_GRACE_SECONDS: Final = 20.0
"""How much longer than a cell a call may take: a new interpreter starts in it."""

_FENCED: Final = re.compile(r"\s*(?P<fence>`{3,}|~{3,})[ \t]*[\w+.-]*[ \t]*\n(?P<code>.*?)\n?(?P=fence)\s*", re.DOTALL)


def make_python_tool(
    *,
    limits: PythonLimits | None = None,
    unsandboxed: bool = False,
    policy: Policy | None = None,
    check: bool = True,
) -> Tool:
    """The tool `python`, for `tools=`: code that the model writes runs on this machine, in a sandbox.

    Each conversation has an interpreter of its own, begun with its first call and ended with the conversation.
    `unsandboxed` runs the code as any other program of the user's, with limits only: it can read and change all that
    the user can. `check` makes a sandbox now, to see whether there can be one. Raises SandboxError where not.
    """
    if check:
        # Of no use to whoever only lists the tool.
        from gptoss_mlx.python_sandbox.session import check_sandbox

        check_sandbox(unsandboxed=unsandboxed)
    opener = _Opener(limits or PythonLimits(), unsandboxed)
    return Tool(
        NAME,
        SUMMARY,
        None,
        function=opener.once,
        policy=policy,
        max_seconds=opener.limits.seconds + _GRACE_SECONDS,
        namespace=Namespace(PYTHON.name, PYTHON.description, builtin=True),
        read=read_arguments,
        begin=opener,
    )


def read_arguments(raw: str) -> dict[str, Any]:
    """The arguments of a call that the model wrote."""
    return {"code": read_code(raw)}


def read_code(raw: str) -> str:
    """The code in what the model wrote: all of it, or what is meant where it took the tool for a function of JSON, or
    put the code into a fence. Neither of these would do anything as code."""
    text = raw.strip()
    if text.startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and list(value) == ["code"] and isinstance(value["code"], str):
            raw = value["code"]
    fenced = _FENCED.fullmatch(raw)
    return raw if fenced is None else fenced["code"]


@dataclass(frozen=True, slots=True)
class _Opener:
    """Begins sessions; equal ones begin the same."""

    limits: PythonLimits
    unsandboxed: bool

    def __call__(self) -> ToolSession:
        from gptoss_mlx.python_sandbox.session import PythonSession

        return PythonSession(self.limits, unsandboxed=self.unsandboxed)

    def once(self, code: str) -> Any:
        """The result of a cell in an interpreter of its own."""
        session = self()
        try:
            return session({"code": code}, ())
        finally:
            session.close()
