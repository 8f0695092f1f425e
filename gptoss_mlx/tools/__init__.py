"""Functions that the model may call: described, checked, approved and run.

    callable ── signatures ──> Tool ── harmony shows it to the model
    the call ── arguments ──> keyword arguments ── approval ──> running ── results ──> the text that the model reads

Tools of MCP servers come from `mcp/`, which is imported where there is one.

Knows no model and no conversation; `tool_loop` puts the steps together.
"""

from gptoss_mlx.tools.approval import ApprovalRequest, Approve, ApproveOption, Verdict
from gptoss_mlx.tools.arguments import ArgumentError, read_call_arguments
from gptoss_mlx.tools.limits import ToolLimits
from gptoss_mlx.tools.namespaces import OWN_FUNCTIONS, Namespace, full_name, group_tools, namespace_of, short_name
from gptoss_mlx.tools.results import cut_middle, result_text
from gptoss_mlx.tools.running import Outcome, RunningCall, ToolFailure, current_call, run_call
from gptoss_mlx.tools.source import ToolSource
from gptoss_mlx.tools.tool import POLICIES, Policy, Tool, make_tool

__all__ = [
    "OWN_FUNCTIONS",
    "POLICIES",
    "ApprovalRequest",
    "Approve",
    "ApproveOption",
    "ArgumentError",
    "Namespace",
    "Outcome",
    "Policy",
    "RunningCall",
    "Tool",
    "ToolFailure",
    "ToolLimits",
    "ToolSource",
    "Verdict",
    "current_call",
    "cut_middle",
    "full_name",
    "group_tools",
    "make_tool",
    "namespace_of",
    "read_call_arguments",
    "result_text",
    "run_call",
    "short_name",
]
