"""Key associations: which addresses a key was seen under, and what its owner is called here (XEP-0116 section 9.4).

"Entities MUST associate one or more JIDs with each public key fingerprint that they store, and alert their users
immediately if another JID presents the same public key." And: "petnames". A key here is `model.Device.key` of a scheme
whose keys are met and not looked up: a public key that signed, or the chain of secrets retained with one client.
A decision on a key is `decisions`' and holds for one address; an association only says what was seen.

Records: ("trust", "associations", hex of the key) -> version byte, then msgpack of `Association`.
"""

from __future__ import annotations

import msgspec

from tillie.errors import StoreTooNew, UsageError
from tillie.model import Address, Key, State, Time, Trust
from tillie.trust import decisions
from tillie.wire.display import printable

VERSION = 1
MAX_PETNAME = 100  # characters
MAX_ADDRESSES = 32  # of one key, the last seen


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """One bare address that a key was seen under, and when first and last."""

    address: str
    first: Time
    last: Time


class Association(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one key: the petname that its owner has here, and its addresses, the last seen first."""

    key: bytes
    petname: str = ""
    seen: tuple[Seen, ...] = ()

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(Address(each.address) for each in self.seen)

    @property
    def shown(self) -> str:
        """What a person is told it is: "MUST present any public key petnames ... more prominently than ... the JID"."""
        return self.petname or (self.seen[0].address if self.seen else "somebody")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Association).decode


def load(s: State, key: bytes) -> Association:
    """What is known of a key; an empty association if nothing is."""
    data = s.get(_place(key))
    return _read(data) if data is not None else Association(key)


def all_of(s: State) -> tuple[Association, ...]:
    """Every association."""
    return tuple(_read(data) for _, data in s.scan(Key("trust", "associations", "")))


def under(s: State, address: Address) -> tuple[Association, ...]:
    """The associations of a bare address."""
    return tuple(each for each in all_of(s) if address in each.addresses)


def name(s: State, key: bytes, petname: str) -> None:
    """Give the owner of a key a petname; "" takes it away. Raises `UsageError`."""
    if len(petname) > MAX_PETNAME or printable(petname, MAX_PETNAME) != petname:
        raise UsageError(f"A petname has at most {MAX_PETNAME} characters, all of them visible.")
    known = load(s, key)
    if not known.seen and s.get(_place(key)) is None:
        raise UsageError("This key was never seen.")
    _save(s, Association(key, petname, known.seen))


def saw(s: State, key: bytes, address: Address, now: Time) -> tuple[str, ...]:
    """Remember that a key came from an address. What a person must hear at once is returned, in sentences."""
    known = load(s, key)
    findings = []
    others = tuple(each for each in known.addresses if each != address)
    if address not in known.addresses:
        if others:
            findings.append(f"the same key is known as {known.shown} ({', '.join(others[:3])})")
        before = tuple(each for each in under(s, address) if each.key != key)
        if before:
            findings.append(_another(s, before, address))
    first = next((each.first for each in known.seen if each.address == address), now)
    rest = tuple(each for each in known.seen if each.address != address)
    seen = (Seen(str(address), first, now), *rest)[:MAX_ADDRESSES]
    _save(s, Association(key, known.petname, seen))
    return tuple(findings)


def _another(s: State, before: tuple[Association, ...], address: Address) -> str:
    decided = decisions.load(s, address)
    verified = [each for each in before if each.key in decided and decided[each.key].trust is Trust.VERIFIED]
    if verified:
        return f"this is not the client of {verified[0].shown} that was verified: compare the strings again"
    return "this is another client than the one that was seen here before, or somebody else"


def join(s: State, old: bytes, new: bytes, address: Address, now: Time) -> None:
    """The owner of `old` proved to hold `new` as well: it keeps its petname, its addresses, and what was decided of it
    at this address, unless somebody has decided on `new` already."""
    before, after = load(s, old), load(s, new)
    known = {each.address: each for each in (*before.seen, *after.seen)}
    newest = sorted(known.values(), key=lambda each: each.last, reverse=True)[:MAX_ADDRESSES]
    _save(s, Association(new, after.petname or before.petname, tuple(newest)))
    decided = decisions.load(s, address)
    if old in decided and new not in decided:
        decisions.decide(s, address, new, decided[old].trust, now)


def forget(s: State, key: bytes) -> None:
    """Drop an association, with its petname."""
    s.put(_place(key), None)


def _place(key: bytes) -> Key:
    return Key("trust", "associations", key.hex())


def _save(s: State, association: Association) -> None:
    s.put(_place(association.key), bytes((VERSION,)) + _encode(association))


def _read(data: bytes) -> Association:
    if data[0] != VERSION:
        raise StoreTooNew(f"a key association has version {data[0]}; this version of Tillie reads {VERSION}.")
    return _decode(data[1:])
