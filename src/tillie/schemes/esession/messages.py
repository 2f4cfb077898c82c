"""The four forms of a negotiation (XEP-0116 section 4, XEP-0217 section 4): how they are laid out, and reading them.

`Layout` says which fields, in which order, of which types: a MAC covers all of it, so an order is never changed. The
layout of Gajim is what Gajim 0.16.9 writes, to the letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tillie.crypto.ctr import BLOCK, BLOCK_BITS
from tillie.errors import Malformed, NegotiationFailed
from tillie.negotiation.options import FORM_TYPE, SSN
from tillie.schemes.esession.identity import ALGORITHMS
from tillie.schemes.esession.keys import from_mpi, mpi
from tillie.schemes.esession.parameters import NOT_ACCEPTABLE, NOT_IMPLEMENTED, Asked, Parameters, spelled
from tillie.schemes.esession.profile import GAJIM, Layout
from tillie.schemes.esession.settings import NEVER_REKEY, VERSION, Settings, Shield
from tillie.wire import base64, forms
from tillie.wire.forms import Dialect, Field, Form, write

MIN_NONCE, MAX_NONCE = 8, 64  # octets; the XEP says nothing, and Gajim has 8
MAX_HASHES = 256  # of retained secrets, in one message
MAX_IDENTITY = 8_192  # octets: a key, and a signature
UNMACED = ("identity", "mac")  # what formA2 and formB2 leave out

_GAJIM_ANSWER = (
    *("crypt_algs", "disclosure", "logging", "sign_algs", "compress", "init_pubkey", "stanzas", "hash_algs", "ver"),
    *("sas_algs", "resp_pubkey", "security", "rekey_freq", "modp", "nonce", "my_nonce", "counter", "dhkeys"),
)
_STRICT_ANSWER = (
    *(
        "logging",
        "otr",
        "disclosure",
        "security",
        "modp",
        "crypt_algs",
        "hash_algs",
        "sign_algs",
        "compress",
        "stanzas",
    ),
    *("init_pubkey", "resp_pubkey", "ver", "rekey_freq", "my_nonce", "sas_algs", "dhkeys", "nonce", "counter"),
)


# -- message 1 ------------------------------------------------------------------------------------------------------


def write_offer(settings: Settings, nonce: bytes, values: Sequence[bytes], *, three: bool) -> Form:
    """Message 1. `values` are the hashes of e, or e itself with three messages, in the order of the groups."""
    layout = settings.profile.layout
    name = "dhkeys" if three else "dhhashes"
    last = Field(name, "hidden", tuple(base64.encode(value) for value in values))
    mine = Field("my_nonce", "hidden", (base64.encode(nonce),))
    if layout is Layout.GAJIM:
        return write("form", (*_gajim_fields(settings), mine, _gajim_groups(settings), last))
    fields = _subset_fields(settings) if layout is Layout.SUBSET else _strict_fields(settings, three=three)
    return write("form", (Field(FORM_TYPE, "hidden", (SSN,)), Field("accept", "boolean", ("1",)), *fields, mine, last))


def _choice(var: str, options: Iterable[str]) -> Field:
    return Field(var, "list-single", options=tuple(options))


def _fixed(var: str, value: str) -> Field:
    return Field(var, "hidden", (value,))


def _groups(settings: Settings) -> tuple[str, ...]:
    return tuple(map(str, settings.groups))


def _strict_fields(settings: Settings, *, three: bool) -> list[Field]:
    # With four messages the first key that is shown is ours, to whoever answered.
    own = ("none",) if settings.shield is Shield.OURS and not three else settings.own_key
    peer = settings.peer_key
    if three:
        own, peer = (tuple(way for way in ways if way != "none") for ways in (own, peer))
    fields = [
        _choice("logging", settings.logging),
        _choice("disclosure", ("never",)),
        _choice("security", ("e2e",)),
        _choice("modp", _groups(settings)),
        _choice("crypt_algs", settings.ciphers),
        _choice("hash_algs", settings.hashes),
    ]
    if {*own, *peer} != {"none"}:
        # One algorithm serves both sides, and what it would be must not leave us without a key that we promised.
        fields.append(_choice("sign_algs", settings.identity.algorithms if settings.identity else ALGORITHMS))
    fields += [
        _choice("compress", settings.compress),
        Field("stanzas", "list-multi", options=settings.stanzas),
        _choice("init_pubkey", own),
        _choice("resp_pubkey", peer),
        _choice("ver", (VERSION,)),
        Field("rekey_freq", "text-single", (str(settings.rekey_frequency),)),
    ]
    if not three:
        fields.append(_choice("sas_algs", settings.offered_strings))
    return fields


def _subset_fields(settings: Settings) -> list[Field]:
    """XEP-0217 section 4.1: what is not negotiated has its fixed value."""
    return [
        _choice("otr", ("true" if way == "mustnot" else "false" for way in settings.logging)),
        _choice("disclosure", ("never",)),
        _choice("security", ("e2e",)),
        _choice("modp", _groups(settings)),
        _fixed("crypt_algs", "aes128-ctr"),
        _fixed("hash_algs", "sha256"),
        _fixed("compress", "none"),
        Field("stanzas", "list-multi", options=settings.stanzas),
        _fixed("init_pubkey", "none"),
        _fixed("resp_pubkey", "none"),
        _choice("ver", (VERSION,)),
        _fixed("rekey_freq", str(NEVER_REKEY)),
        _fixed("sas_algs", settings.offered_strings[0]),
    ]


def _gajim_fields(settings: Settings) -> list[Field]:
    return [
        Field(FORM_TYPE, "hidden", (SSN,)),
        Field("accept", "boolean", ("1",), required=True),
        Field("logging", "list-single", options=settings.logging, required=True),
        Field("disclosure", "list-single", options=("never",), required=True),
        Field("security", "list-single", options=("e2e",), required=True),
        _fixed("crypt_algs", "aes128-ctr"),
        _fixed("hash_algs", "sha256"),
        _fixed("compress", "none"),
        Field("stanzas", "list-multi", options=("message",)),
        _choice("init_pubkey", ("none", "key", "hash") if settings.profile.draws_like_gajim else ("none",)),
        _choice("resp_pubkey", ("none", "key") if settings.profile.draws_like_gajim else ("none",)),
        _fixed("ver", VERSION),
        _fixed("rekey_freq", str(NEVER_REKEY)),
        _fixed("sas_algs", settings.offered_strings[0]),
        _fixed("sign_algs", ALGORITHMS[0]),
    ]


def _gajim_groups(settings: Settings) -> Field:
    return Field("modp", "list-single", options=_groups(settings), labels=("None",) * len(settings.groups))


# -- message 2 ------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """The octets in message 2: N_A, N_B, C_A and d, and ID_B and M_B with three messages."""

    nonce_a: bytes
    nonce_b: bytes
    counter: int
    public: int


def write_answer(asked: Asked, chosen: Parameters, answer: Answer) -> Form:
    """Message 2, in the layout of the offer: a value for each of its fields. With three messages `prove` it."""
    gajim = asked.layout is Layout.GAJIM
    counter = GAJIM.minimal(answer.counter) if gajim else answer.counter.to_bytes(BLOCK, "big")
    values: dict[str, tuple[str, ...]] = {
        "modp": (str(chosen.group),),
        "crypt_algs": (chosen.cipher,),
        "hash_algs": (chosen.hash,),
        "sign_algs": (chosen.sign,),
        "compress": (chosen.compress,),
        "stanzas": chosen.stanzas,
        "init_pubkey": (chosen.init_pubkey,),
        "resp_pubkey": (chosen.resp_pubkey,),
        "ver": (VERSION,),
        "rekey_freq": (str(chosen.rekey_freq),),
        "sas_algs": (chosen.string,),
        "security": ("e2e",),
        "disclosure": ("never",),
        "logging": (spelled(asked, "logging", chosen.logging),),
        "otr": (spelled(asked, "otr", chosen.logging),),
        "nonce": (base64.encode(answer.nonce_a),),
        "my_nonce": (base64.encode(answer.nonce_b),),
        "counter": (base64.encode(counter),),
        "dhkeys": (base64.encode(mpi(answer.public)),),
    }
    always = ("nonce", "my_nonce", "counter", "dhkeys")
    order = _GAJIM_ANSWER if gajim else _STRICT_ANSWER
    kind = "text-single" if gajim else ""
    fields = [Field(FORM_TYPE, kind, (SSN,)), Field("accept", kind, ("true" if gajim else "1",))]
    fields += [Field(name, kind, values[name]) for name in order if name in always or name in asked.options]
    return write("submit", fields)


# -- messages 3 and 4 -----------------------------------------------------------------------------------------------


def write_conclusion(layout: Layout, nonce: bytes, e: int | None, hashes: Sequence[bytes]) -> Form:
    """Message 3, to `prove`. `e` is None, and there are no `hashes`, with three messages."""
    gajim = layout is Layout.GAJIM
    octets: list[tuple[str, tuple[bytes, ...]]] = [("nonce", (nonce,))]
    if e is not None:
        octets.insert(1, ("dhkeys", (mpi(e),)))
        octets.insert(1 if gajim else 2, ("rshashes", tuple(hashes)))
    return _result(layout, "1", octets)


def write_acceptance(layout: Layout, nonce: bytes, srshash: bytes) -> Form:
    """Message 4, to `prove`."""
    return _result(layout, "", [("nonce", (nonce,)), ("srshash", (srshash,))])


def _result(layout: Layout, accept: str, octets: Iterable[tuple[str, tuple[bytes, ...]]]) -> Form:
    kind = "text-single" if layout is Layout.GAJIM else ""
    fields = [Field(FORM_TYPE, kind, (SSN,))]
    if accept:
        fields.append(Field("accept", kind, (accept,)))
    fields += [Field(name, kind, tuple(map(base64.encode, values))) for name, values in octets]
    return write("result", fields)


def prove(form: Form, identity: bytes, mac: bytes) -> Form:
    """A message with ID and M at its end, which cover the rest of it."""
    kind = form.fields[0].type if form.fields[0].type == "text-single" else ""
    end = write(form.type, (Field(n, kind, (base64.encode(v),)) for n, v in zip(UNMACED, (identity, mac), strict=True)))
    return Form(form.type, form.fields + end.fields, form.xml.removesuffix(b"</x>") + end.xml.partition(b">")[2])


def write_termination(layout: Layout) -> Form:
    """The form that ends a session (XEP-0155 section 9)."""
    kind = "text-single" if layout is Layout.GAJIM else ""
    return write("submit", (Field(FORM_TYPE, kind, (SSN,)), Field("terminate", kind, ("1",))))


def normal(x: bytes, dialect: Dialect) -> bytes:
    """The normal form of a message that we sent, or read, and kept: it is not read again."""
    return forms.normal(x, dialect)


# -- reading --------------------------------------------------------------------------------------------------------


class Reader:
    """Reads the octets in a form. What does not fit raises NegotiationFailed with `condition`, and with the field's
    name where that is said to the peer: of messages 3 and 4 it never is, all their failures look alike."""

    def __init__(self, form: Form, condition: str) -> None:
        self.form = form
        self.condition = condition

    def failed(self, detail: str, *names: str) -> NegotiationFailed:
        fields = names if self.condition == NOT_ACCEPTABLE else ()
        return NegotiationFailed(detail, condition=self.condition, fields=fields)

    def expect(self, form_type: str, *, accept: bool = True) -> None:
        """Checks the type of the form, FORM_TYPE, and that it accepts."""
        if self.form.type != form_type:
            raise self.failed("That form has the wrong type.")
        if self.form.values(FORM_TYPE) != (SSN,):
            raise self.failed("That form negotiates something else.", FORM_TYPE)
        if accept:
            try:
                accepted = self.form.boolean("accept")
            except Malformed:
                raise self.failed("It is not clear whether that form accepts.", "accept") from None
            if accepted is None:
                raise self.failed("It is not clear whether that form accepts.", "accept")
            if not accepted:
                raise NegotiationFailed("The other side declined.")

    def octets(self, name: str, least: int, most: int) -> bytes:
        """The one value of a field, of so many octets."""
        values = self.many(name, least, most, count=1)
        return values[0]

    def many(self, name: str, least: int, most: int, *, count: int = 0) -> list[bytes]:
        """All values of a field, each of so many octets; exactly `count` of them, if that is given."""
        values = self.form.values(name)
        if (count and len(values) != count) or len(values) > MAX_HASHES:
            raise self.failed(f"The field {name!r} has {len(values)} values.", name)
        try:
            found = [base64.decode(value, max_bytes=most) for value in values]
        except Malformed as error:
            raise self.failed(f"The field {name!r}: {error.detail}", name) from None
        if any(not least <= len(value) <= most for value in found):
            raise self.failed(f"The field {name!r} has the wrong length.", name)
        return found

    def nonce(self) -> bytes:
        """my_nonce."""
        return self.octets("my_nonce", MIN_NONCE, MAX_NONCE)

    def echo(self, nonce: bytes) -> None:
        """Checks that the field `nonce` has our own."""
        if self.octets("nonce", MIN_NONCE, MAX_NONCE) != nonce:
            raise self.failed("The answer is to something else: the nonce is not ours.", "nonce")

    def integers(self, name: str, size: int, count: int) -> list[int]:
        """`count` integers of at most `size` octets, without leading zeros."""
        try:
            return [from_mpi(octets, max_bytes=size) for octets in self.many(name, 1, size, count=count)]
        except Malformed as error:
            raise self.failed(f"The field {name!r}: {error.detail}", name) from None

    def counter(self) -> int:
        """The block counter: all of its n bits, or, as Gajim writes it, without leading zeros."""
        octets = self.octets("counter", 0, BLOCK_BITS // 8)
        if len(octets) < BLOCK and octets[:1] == b"\0" and octets != GAJIM.zero:
            raise self.failed("The block counter has the wrong length.", "counter")
        return int.from_bytes(octets, "big")

    def proof(self, size: int) -> tuple[bytes, bytes]:
        """`identity`, and `mac` of `size` octets."""
        return self.octets("identity", 1, MAX_IDENTITY), self.octets("mac", size, size)


def answers(form: Form) -> Reader:
    """A reader of messages 1 and 2."""
    return Reader(form, NOT_ACCEPTABLE)


def proofs(form: Form) -> Reader:
    """A reader of messages 3 and 4."""
    return Reader(form, NOT_IMPLEMENTED)
