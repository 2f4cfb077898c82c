"""Two ends of XEP-0200 with keys given by hand, in a small group, so that tests are fast and repeat."""

from __future__ import annotations

from random import Random

from tillie.crypto import modp
from tillie.schemes.esession import channel
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.keys import Pair
from tillie.schemes.esession.profile import STRICT, Profile

GROUP = 1  # 768 bits: the protocol is the same, and an exponentiation takes a tenth of a millisecond
NOW = 1_780_000_000.0


def pair(
    seed: int = 0,
    *,
    profile: Profile = STRICT,
    cipher: str = "aes128-ctr",
    hash_name: str = "sha256",
    group: int = GROUP,
    rekey_freq: int = 1,
    counter: int | None = None,
    now: float = NOW,
) -> tuple[Channel, Channel]:
    """The initiator's and the responder's end."""
    random = Random(seed)
    sizes = profile.cipher_key(cipher, hash_name), profile.hmac_key(hash_name)
    ours, theirs = (Pair(*map(random.randbytes, sizes)) for _ in range(2))
    start = random.getrandbits(128) if counter is None else counter
    counters = (start, start ^ 1 << 127)
    used = modp.GROUPS[group]
    privates = [modp.private(used, draw=random.randbytes) for _ in range(2)]
    ends = []
    for me, (out, into) in enumerate(((ours, theirs), (theirs, ours))):
        ends.append(
            channel.begin(
                out=out,
                into=into,
                counter_out=counters[me],
                counter_in=counters[1 - me],
                group=group,
                private=privates[me],
                peer=modp.public(used, privates[1 - me]),
                now=now,
                profile=profile,
                cipher=cipher,
                hash_name=hash_name,
                rekey_freq=rekey_freq,
            )
        )
    return ends[0], ends[1]
