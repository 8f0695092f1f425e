"""Hosts as a user names them, and the addresses at which their ranks find each other.

    mac2                  a name that ssh knows: of ~/.ssh/config, DNS or Bonjour; user@mac2, too
    mac2=10.0.0.2         the same, and the address that the ranks use, such as that of a Thunderbolt cable
    127.0.0.1, localhost  this machine, without ssh; named several times, it runs as many ranks, which is for tests
                          and for trying: they share one memory and one GPU, and are slower than the model by itself
    hosts.json            a hostfile of MLX (`mlx.distributed_config` writes one)

Owns: reading these, and finding addresses. Does not own: whether anybody is there (`start`, `checks`).
"""

import ipaddress
import json
import os
import re
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gptoss_mlx.errors import HostsError, UsageError

LOOPBACK: Final = "127.0.0.1"

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%-]*")
_HERE: Final = frozenset((LOOPBACK, "localhost", "::1"))

RESOLVE_SECONDS: Final = 5.0
"""How long ssh may take to say what it makes of a name."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that runs a rank."""

    name: str
    """As it was said, and what ssh is given."""
    local: bool
    """Whether it is this machine, which needs no ssh."""
    address: str = ""
    """Where the other ranks find it; "" until `find_addresses`."""


def read_hosts(hosts: str | os.PathLike[str] | Sequence[str]) -> tuple[Host, ...]:
    """The hosts that are meant: a list of names, names with commas between them, or the path of a hostfile.

    Raises UsageError for what is no name of a host, and for fewer than two.
    """
    if isinstance(hosts, os.PathLike) or (isinstance(hosts, str) and hosts.endswith(".json")):
        found = _of_hostfile(Path(hosts))
    else:
        names = hosts.split(",") if isinstance(hosts, str) else list(hosts)
        found = [one_host(name.strip()) for name in names]
    if len(found) < 2:
        raise UsageError(
            f"hosts names {len(found)} host; expected two or more, such as mac1,mac2 (127.0.0.1,127.0.0.1 runs two "
            "ranks on this machine)"
        )
    return tuple(found)


def one_host(word: str) -> Host:
    """The host of one name, NAME or NAME=ADDRESS. Raises UsageError."""
    name, _, address = word.partition("=")
    # A name that begins with a dash would be an option of ssh.
    if not _NAME.fullmatch(name):
        raise UsageError(f"{word!r} is no host; expected a name that ssh knows, such as mac2 or me@mac2")
    if address:
        _check_address(address, word)
    return Host(name, _is_here(name), address)


def _of_hostfile(path: Path) -> list[Host]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        entries = values["hosts"] if isinstance(values, dict) else values
        hosts = []
        for entry in entries:
            host = one_host(str(entry["ssh"]))
            if ips := entry.get("ips", []):
                _check_address(str(ips[0]), str(path))
                host = replace(host, address=str(ips[0]))
            hosts.append(host)
        return hosts
    except OSError as error:
        raise UsageError(f"the hostfile {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f'{path} is no hostfile ({error!r}); expected what mlx.distributed_config writes: a list of {{"ssh": NAME, '
            '"ips": [ADDRESS]}'
        ) from error


def _check_address(address: str, where: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise UsageError(f"{address!r} in {where} is no IP address; expected one such as 10.0.0.2") from error


def _is_here(name: str) -> bool:
    name = name.rpartition("@")[2]
    here = socket.gethostname().lower()
    return name.lower() in _HERE | {here, here.removesuffix(".local"), f"{here.removesuffix('.local')}.local"}


def find_addresses(hosts: Sequence[Host]) -> tuple[Host, ...]:
    """The hosts with the addresses at which their ranks find each other.

    Raises HostsError for a name that leads nowhere.
    """
    if all(host.local for host in hosts):
        return tuple(replace(host, address=host.address or LOOPBACK) for host in hosts)
    found = [host if host.address or host.local else replace(host, address=_resolve(host.name)) for host in hosts]
    peer = next(host.address for host in found if not host.local)
    return tuple(replace(host, address=host.address or _own_address(peer)) for host in found)


def _resolve(name: str) -> str:
    """The address behind a name, which may be one of ssh's own."""
    real = name.rpartition("@")[2]
    try:
        said = subprocess.run(
            ["ssh", "-G", "--", name],
            capture_output=True,
            text=True,
            timeout=RESOLVE_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
        ).stdout
        real = next((line.split()[1] for line in said.splitlines() if line.startswith("hostname ")), real)
    except FileNotFoundError as error:
        raise HostsError(f"{name} is reached with ssh, and there is no ssh on this machine") from error
    except (OSError, subprocess.SubprocessError, IndexError):
        # What ssh does not tell, the resolver may.
        pass
    try:
        found = socket.getaddrinfo(real, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostsError(
            f"there is no address for host {name!r}" + (f" ({real})" if real != name else "") + f": {error.strerror}; "
            f"check the name, or give the address: {name}=10.0.0.2"
        ) from error
    addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    return addresses[0]


def _own_address(peer: str) -> str:
    """This machine's address on the way to `peer`."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the system only chooses the way.
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
        except OSError as error:
            raise HostsError(f"there is no way from this machine to {peer}: {error.strerror or error}") from error
