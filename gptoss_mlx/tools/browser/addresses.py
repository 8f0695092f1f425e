"""Which addresses of the network a page may come from.

The model, or a page that it read, decides what is opened: neither may reach into the user's own network. A name is
looked up once, all of its addresses are judged, and the connection goes to one of those, so that a name that means
something else a moment later gains nothing.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

from gptoss_mlx.tools.browser.backend import BrowseError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

Resolve: TypeAlias = Callable[[str, int], list[str]]
"""Host and port to addresses. Raises OSError."""

_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses as a translator (NAT64) writes them."""


def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system says. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host!r} is no name of a host") from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, also where one of the old kind stands in one of the new."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(map(_is_global, _meant(address)))


def public_addresses(host: str, port: int, resolve: Resolve, *, private: bool) -> list[str]:
    """The addresses to connect to. Raises BrowseError where one of them is not public (unless `private`)."""
    try:
        found = resolve(host, port)
    except OSError as error:
        raise BrowseError(
            f"there is no host `{host}`, or it cannot be looked up ({error.strerror or error})"
        ) from error
    if not found:
        raise BrowseError(f"the host `{host}` has no address")
    if not private and not all(map(is_public, found)):
        raise BrowseError(f"`{host}` may not be opened: it is in a private network or on this machine")
    return found


def _is_global(address: Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _meant(address: Address) -> list[Address]:
    """The addresses that are reached by this one: an IPv6 address may stand for an IPv4 one, or lead by way of some."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _TRANSLATED:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    by_way_of = [address.sixtofour, *(address.teredo or ())]
    return [address, *(each for each in by_way_of if each is not None)]
