"""`gptoss hosts check`: whether hosts can share a model, looked at one by one and then together; every finding with
what to do about it.

Owns: what is looked at and said. Does not own: starting ranks for a model (`start`), whose steps it uses.
"""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import GptOssError, HostsError
from gptoss_mlx.hosts.addresses import Host, find_addresses
from gptoss_mlx.hosts.process import CONNECT_SECONDS, SSH_FAILED, ssh_command
from gptoss_mlx.hosts.sharing import measure, share_model
from gptoss_mlx.hosts.start import (
    HostFacts,
    check_model_there,
    describe,
    find_model_there,
    join,
    open_cluster,
    verify_model_there,
)
from gptoss_mlx.memory import gigabytes, memory_limit
from gptoss_mlx.models import FoundModel

CHECK_PATIENCE_SECONDS: Final = 10.0

What: TypeAlias = Literal["address", "ssh", "gptoss-mlx", "memory", "model", "network", "link", "share", "speed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    host: str
    """Which host, or all of them with commas between."""
    what: What
    ok: bool
    said: str
    """One sentence; where it is not `ok`, with what to do."""


def check_hosts(
    hosts: Sequence[Host], model: FoundModel, *, name: str, stage: Callable[[str], None] = lambda sentence: None
) -> Iterator[Finding]:
    """What there is to be said, host by host as it is found, then of all together."""
    well = True
    there: list[Host] = []
    for host in hosts:
        try:
            there += find_addresses([host])
        except HostsError as error:
            well = False
            yield Finding(host.name, "address", False, str(error))
    if not there:
        return
    different = list(dict.fromkeys(find_addresses(there)))
    with ThreadPoolExecutor(len(different)) as pool:
        for findings in pool.map(lambda host: _look_at(host, model, name), different):
            for finding in findings:
                well = well and finding.ok
                yield finding
    if well:
        stage("connecting the hosts with each other")
        yield from _look_together(hosts, model)


def _look_at(host: Host, model: FoundModel, name: str) -> list[Finding]:
    """One host by itself."""
    findings = [Finding(host.name, "address", True, "this machine" if host.local else host.address)]
    if not host.local and (ssh := _try_ssh(host)):
        findings.append(ssh)
        if not ssh.ok:
            return findings
    try:
        cluster = open_cluster([host], patience_seconds=CHECK_PATIENCE_SECONDS)
    except GptOssError as error:
        return [*findings, Finding(host.name, "gptoss-mlx", False, str(error))]
    try:
        hello = cluster.wait_until_there()[0]
        versions = f"{hello['version']} with MLX {hello['mlx']} and Python {hello['python']}, as here"
        findings.append(Finding(host.name, "gptoss-mlx", True, versions))
        findings.append(_memory(describe(cluster)[0]))
        found = find_model_there(cluster, name, model.folder)
        try:
            check_model_there(cluster, name, model.folder, found)
            verify_model_there(cluster, found)
        except GptOssError as error:
            findings.append(Finding(host.name, "model", False, str(error)))
        else:
            findings.append(Finding(host.name, "model", True, f"{name}, the same as here, in {found[0].folder}"))
    except GptOssError as error:
        findings.append(Finding(host.name, "gptoss-mlx", False, str(error)))
    finally:
        cluster.close()
    return findings


def _try_ssh(host: Host) -> Finding:
    try:
        tried = subprocess.run(
            ssh_command(host, "true"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * CONNECT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return Finding(host.name, "ssh", False, "there is no ssh on this machine; install it")
    except subprocess.TimeoutExpired:
        said = f"ssh did not connect within {2 * CONNECT_SECONDS} s; try `ssh {host.name}`"
        return Finding(host.name, "ssh", False, said)
    if tried.returncode == 0:
        return Finding(host.name, "ssh", True, "connects without asking for a password")
    said = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
    advice = f"make `ssh {host.name}` work without a password: `ssh-copy-id {host.name}`"
    if tried.returncode == SSH_FAILED and "denied" not in said.lower():
        advice = f"see that it is on, that Remote Login is switched on there, and that `ssh {host.name}` finds it"
    return Finding(host.name, "ssh", False, f"{said}; {advice}")


def _memory(facts: HostFacts) -> Finding:
    limit = memory_limit(facts.device)
    free = facts.free_bytes
    said = f"{gigabytes(limit)} may be used of {gigabytes(facts.device.memory_bytes)}"
    if free is not None:
        said += f", {gigabytes(free)} free now"
    return Finding(facts.host.name, "memory", True, f"{said} ({facts.device.name})")


def _look_together(hosts: Sequence[Host], model: FoundModel) -> Iterator[Finding]:
    try:
        cluster = open_cluster(hosts, patience_seconds=CHECK_PATIENCE_SECONDS)
    except GptOssError as error:
        yield Finding(_all(hosts), "network", False, str(error))
        return
    try:
        facts = describe(cluster)
        try:
            join(cluster)
        except GptOssError as error:
            yield Finding(_all(hosts), "network", False, str(error))
            return
        addresses = ", ".join(host.address for host in cluster.hosts)
        yield Finding(_all(hosts), "network", True, f"each reaches the next: {addresses}")
        link = measure(cluster)
        yield Finding(_all(hosts), "link", True, link.sentence())
        try:
            sharing = share_model(model.folder, _config(model), facts, link)
            sharing.choose_context(None, model.name, force=False)
        except GptOssError as error:
            yield Finding(_all(hosts), "share", False, str(error))
            return
        parts = ", ".join(f"{share.host} {share.part} ({gigabytes(share.weights_bytes)})" for share in sharing.shares)
        yield Finding(_all(hosts), "share", True, parts)
        yield Finding(_all(hosts), "speed", True, sharing.reason.rpartition("; ")[2])
    except GptOssError as error:
        yield Finding(_all(hosts), "link", False, str(error))
    finally:
        cluster.close()


def _config(model: FoundModel) -> ModelConfig:
    return ModelConfig.from_file(model.folder / "config.json")


def _all(hosts: Sequence[Host]) -> str:
    return ",".join(host.name for host in hosts)


def as_values(finding: Finding) -> dict[str, Any]:
    """The finding as JSON values."""
    return {"host": finding.host, "what": finding.what, "ok": finding.ok, "said": finding.said}
