"""The servers of tools that the settings name, as they are started. Imported where there are some."""

from collections.abc import Mapping
from dataclasses import replace

from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.errors import UsageError
from gptoss_mlx.tools import Policy
from gptoss_mlx.tools.mcp import ServerSpec, read_spec


def read_servers(preferences: Preferences) -> tuple[list[ServerSpec], dict[str, str]]:
    """The servers, with the policies that the settings have for their tools; and for each name that cannot be used a
    sentence that says why."""
    specs: list[ServerSpec] = []
    problems: dict[str, str] = {}
    for name, table in preferences.mcp.items():
        try:
            specs.append(with_policies(read_spec(name, table), preferences.tools))
        except UsageError as error:
            problems[name] = str(error)
    return specs, problems


def with_policies(spec: ServerSpec, policies: "Mapping[str, Policy]") -> ServerSpec:
    """The server with what is said of `server.*` and `server.tool`."""
    own = {
        name.removeprefix(f"{spec.name}."): policy
        for name, policy in policies.items()
        if name.startswith(f"{spec.name}.")
    }
    return replace(spec, policy=own.pop("*", spec.policy), policies={**spec.policies, **own})
