"""How often somebody may ask: token buckets, in bounded memory. They are not kept across a restart."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from tillie.home.config import Limits, Rate

MAX_BUCKETS = 20_000  # of one kind; the one that was used longest ago goes first
LOGINS_ADDRESS = "logins_address"
FROM_ONE_ADDRESS = 10  # times as many attempts to log in, on whomever, as there may be on one user
LONGEST_WAIT = 3_600.0  # seconds that are named, also where nothing is allowed at all


class Buckets:
    """One bucket for each kind (a field of `config.Limits`, or LOGINS_ADDRESS) and each user, server or network
    address."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._rates: dict[str, Rate] = {name: getattr(limits, name) for name in limits.__struct_fields__}
        one = limits.logins
        self._rates[LOGINS_ADDRESS] = Rate(FROM_ONE_ADDRESS * one.per_second, FROM_ONE_ADDRESS * one.burst)
        self._buckets: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in self._rates}
        self._clock = clock

    def take(self, kind: str, who: str, amount: int = 1) -> float:
        """Take so many from somebody's bucket. 0.0: taken; else the seconds to wait before it is worth asking again,
        and nothing was taken. More than the bucket holds may be taken from a full one, which then is in debt."""
        rate, buckets = self._rates[kind], self._buckets[kind]
        now = self._clock()
        level, then = buckets.pop(who, (float(rate.burst), now))
        level = min(rate.burst, level + max(0.0, now - then) * rate.per_second)
        needed = min(amount, rate.burst)
        enough = level >= needed
        buckets[who] = (level - amount if enough else level, now)
        if len(buckets) > MAX_BUCKETS:
            del buckets[next(iter(buckets))]
        if enough:
            return 0.0
        return min(LONGEST_WAIT, (needed - level) / rate.per_second) if rate.per_second else LONGEST_WAIT


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 one, all of which one machine may have."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
