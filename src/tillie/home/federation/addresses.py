"""Which network addresses a home may speak to.

Anybody may name a server, and the home asks it: without this, strangers could have it ask the machines behind its
firewall, or the address from which a cloud gives its machines their passwords.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR notation. Raises ValueError."""
    return tuple(ipaddress.ip_network(each) for each in texts)


def literal(host: str) -> Address | None:
    """The address that a host name is, if it is one; IPv6 with or without brackets."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def is_ambiguous(host: str) -> bool:
    """Whether something that is no address (`literal`) may still be read as one: "127.1", "2130706433"."""
    last = host.rstrip(".").rpartition(".")[2]
    return ":" in host or last.isdigit() or last[:2].lower() == "0x"


def may_speak_to(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether this address is public, also as it is meant when an IPv6 one wraps an IPv4 one, or explicitly allowed."""
    meant = _unwrapped(address)
    if any(each.version == network.version and each in network for each in (address, meant) for network in allowed):
        return True
    is_of_a_site = isinstance(meant, ipaddress.IPv6Address) and meant.is_site_local  # deprecated, and no less private
    return meant.is_global and not (meant.is_multicast or meant.is_reserved or is_of_a_site)


def _unwrapped(address: Address) -> Address:
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
