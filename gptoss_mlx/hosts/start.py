"""From the names of hosts to ranks that have the model's parts: started, checked, joined, loaded.

Everything that can be wrong is found before the first weight is read, in an order in which each step makes sense of the
next: the processes come up, versions are the same, the model is there, the same and whole, the hosts reach each other
at the addresses of the ring, the parts fit. Owns: this order and what is said of faults. Does not own: commands and
the watch (`cluster`, `commands`), what is wrong with a host that is merely looked at (`checks`).
"""

import importlib.metadata
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.device import Device
from gptoss_mlx.distributed.plan import Plan
from gptoss_mlx.errors import HostsError, ModelNotFound
from gptoss_mlx.hosts.addresses import Host, find_addresses
from gptoss_mlx.hosts.cluster import Cluster
from gptoss_mlx.hosts.commands import JOIN_SECONDS
from gptoss_mlx.hosts.model_there import ModelThere
from gptoss_mlx.hosts.rank import PROTOCOL
from gptoss_mlx.hosts.remote_model import RemoteModel
from gptoss_mlx.model_identity import fingerprint
from gptoss_mlx.models import POCKET, POCKET_FOLDER, PUBLISHED
from gptoss_mlx.settings import kernel_setting
from gptoss_mlx.version import __version__

PATIENCE_SECONDS: Final = 10.0
"""Without a sign of life for so long, a host counts as lost, unless the caller says otherwise."""

DESCRIBE_SECONDS: Final = 60.0
"""How long a rank may take to import MLX and look at its machine."""

REACH_SECONDS: Final = 5.0
"""How long a connection between two hosts may take."""

PORTS: Final = range(20_000, 32_000)
"""Where the ring's ports are sought: below those that systems give to connections."""

PORT_TRIES: Final = 8
"""Sets of ports that are tried before it is said that there are none."""

STANDSTILL_SECONDS: Final = 120.0
"""Reading files may go without progress for so long."""

Stage = Callable[[str], None]
"""Hears what begins, one sentence."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a rank says of its machine."""

    host: Host
    device: Device
    free_bytes: int | None
    """Memory that nobody needs there now."""


def _no_stage(sentence: str) -> None:
    """For a caller that wants to hear nothing."""


def open_cluster(hosts: Sequence[Host], *, patience_seconds: float, stage: Stage = _no_stage) -> Cluster:
    """Ranks of this version on all hosts, which know nothing of each other yet. Raises HostsError."""
    found = find_addresses(hosts)
    stage(f"starting {', '.join(dict.fromkeys(host.name for host in found))}")
    cluster = Cluster(found, patience_seconds=patience_seconds)
    try:
        for number, hello in enumerate(cluster.wait_until_there()):
            _check_version(cluster.called(number), hello)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _check_version(called: str, hello: dict[str, Any]) -> None:
    mlx = importlib.metadata.version("mlx")
    if hello.get("version") != __version__ or hello.get("protocol") != PROTOCOL:
        raise HostsError(
            f"{called} has gptoss-mlx {hello.get('version')} and here is {__version__}; install the same on both: pip "
            f"install gptoss-mlx=={__version__}"
        )
    if hello.get("mlx") != mlx:
        raise HostsError(
            f"{called} has MLX {hello.get('mlx')} and here is {mlx}; install the same on both: pip install mlx=={mlx}"
        )


def describe(cluster: Cluster) -> list[HostFacts]:
    """The machines of the ranks. Raises HostLost."""
    answers = cluster.call("describe", limit_seconds=DESCRIBE_SECONDS, of_all=True)
    return [
        HostFacts(host, Device(**answer.values["device"]), answer.values["free_bytes"])
        for host, answer in zip(cluster.hosts, answers, strict=True)
    ]


def find_model_there(cluster: Cluster, name: str, folder: Path) -> list[ModelThere]:
    """What each rank has of the model that is `name` here, in `folder`: under the same name, or at the same path."""
    here, known = str(folder.absolute()), POCKET if folder == POCKET_FOLDER else folder.absolute().name
    wide = [here, known] if "/" in name else [name, known]
    each = [{"names": [here] if host.local else wide} for host in cluster.hosts]
    answers = cluster.call("find", limit_seconds=STANDSTILL_SECONDS, of_all=True, each=each)
    return [ModelThere(**answer.values) for answer in answers]


def check_model_there(cluster: Cluster, name: str, folder: Path, found: Sequence[ModelThere]) -> None:
    """Raises ModelNotFound or HostsError for a rank that lacks the model, a part of it, or has another one."""
    expected = fingerprint(folder)
    for number, (host, there) in enumerate(zip(cluster.hosts, found, strict=True)):
        called = cluster.called(number)
        copy = f"`gptoss hosts copy {name} {host.name}` copies it there from here"
        if there.folder is None:
            pull = f", or run `gptoss pull {name}` there" if name in PUBLISHED else ""
            raise ModelNotFound(f"{called} does not have the model {name}: {copy}{pull}")
        if len(there.missing) > 0:
            more = f" and {len(there.missing) - 1} more" if len(there.missing) > 1 else ""
            raise HostsError(
                f"{called} does not have all of {name}: {there.missing[0]}{more} is missing in {there.folder}, or not "
                f"whole: {copy}"
            )
        if there.why:
            raise HostsError(f"{called} cannot use its {name}: {there.why}; {copy}")
        if there.fingerprint != expected:
            raise HostsError(
                f"{called} has another {name} in {there.folder} than this machine in {folder}; expected the same "
                f"model, converted in the same way: {copy}"
            )


def verify_model_there(cluster: Cluster, found: Sequence[ModelThere], stage: Stage = _no_stage) -> None:
    """Has each rank compare the files that it has not compared yet with their checksums. Raises ChecksumError."""
    said: dict[int, int] = {}

    def report(rank: int, done: int, total: int) -> None:
        percent = 100 * done // max(1, total)
        if said.get(rank) != percent:
            said[rank] = percent
            stage(f"checking the files on {cluster.hosts[rank].name}, once: {percent} %")

    each = [{"folder": there.folder} for there in found]
    cluster.call("verify", limit_seconds=STANDSTILL_SECONDS, of_all=True, each=each, progress=report)


def join(cluster: Cluster, stage: Stage = _no_stage) -> None:
    """Lets the ranks find each other. Raises HostsError where one cannot reach the next."""
    stage("connecting the hosts with each other")
    hosts, count = cluster.hosts, len(cluster.hosts)
    failed: list[tuple[int, str]] = []
    places: list[dict[str, Any]] = []
    for _ in range(PORT_TRIES):
        base = random.choice(PORTS[: -count or None])
        places = [{"address": host.address, "port": base + rank} for rank, host in enumerate(hosts)]
        answers = cluster.call("listen", limit_seconds=DESCRIBE_SECONDS, of_all=True, each=places)
        failed = [(rank, str(a.values["why"])) for rank, a in enumerate(answers) if a.values["why"]]
        if not failed:
            break
    if failed:
        rank, why = failed[0]
        raise HostsError(
            f"{cluster.called(rank)} cannot listen at {hosts[rank].address}: {why}; check that the address is its own, "
            f"or give another: {hosts[rank].name}=10.0.0.2"
        )
    nexts = [{**places[(rank + 1) % count], "patience": REACH_SECONDS} for rank in range(count)]
    answers = cluster.call("reach", limit_seconds=DESCRIBE_SECONDS, of_all=True, each=nexts)
    for rank, answer in enumerate(answers):
        if why := answer.values["why"]:
            other = (rank + 1) % count
            raise HostsError(
                f"{cluster.called(rank)} cannot reach {cluster.called(other)} at {hosts[other].address}: {why}; check "
                f"cable, network and firewall, or give an address that it reaches: {hosts[other].name}=10.0.0.2"
            )
    cluster.call("let_port_go", limit_seconds=DESCRIBE_SECONDS, of_all=True)
    ring = [[_address(place["address"], place["port"])] for place in places]
    each = [{"rank": rank} for rank in range(count)]
    cluster.call("join", limit_seconds=2 * JOIN_SECONDS, of_all=True, each=each, ring=ring)


def _address(address: object, port: object) -> str:
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def load_parts(
    cluster: Cluster,
    config: ModelConfig,
    folders: Sequence[str],
    plan: Plan,
    progress: Callable[[int, int], None] | None = None,
) -> RemoteModel:
    """The model, each rank having loaded its part of it as `plan` says. Raises what loading raises, and HostLost."""
    done: dict[int, int] = {}
    totals: dict[int, int] = {}

    def report(rank: int, rank_done: int, rank_total: int) -> None:
        done[rank], totals[rank] = rank_done, rank_total
        if progress is not None and len(totals) == len(cluster.hosts):
            progress(sum(done.values()), sum(totals.values()))

    each = [{"folder": folder} for folder in folders]
    answers = cluster.call(
        "load",
        limit_seconds=STANDSTILL_SECONDS,
        of_all=True,
        each=each,
        progress=report,
        plan=plan.to_json(),
        # This machine's setting holds on all of them. What is right and faster is known of whole models only: on a
        # part, no kernel runs unless all are asked for.
        kernels=kernel_setting(),
    )
    dtype = getattr(mx, str(answers[0].values["dtype"]))
    return RemoteModel(cluster, config, dtype)
