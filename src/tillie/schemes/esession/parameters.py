"""What a negotiation of XEP-0116 agrees on: the fields of messages 1 and 2 that are chosen (section 4.3).

`read_offer` reads an offer; `choose` picks from it; `check_answer` verifies what a peer picked from ours. An offer
lists options in its sender's order of preference; hidden fields of Gajim and XEP-0217 leave one value each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from tillie.crypto import modp
from tillie.errors import NegotiationFailed
from tillie.schemes.esession.identity import ALGORITHMS
from tillie.schemes.esession.profile import Layout
from tillie.schemes.esession.settings import NEVER_REKEY, VERSION, Settings, Shield
from tillie.trust.strings import SAS28X5
from tillie.wire.forms import Form

NOT_ACCEPTABLE = "not-acceptable"
NOT_IMPLEMENTED = "feature-not-implemented"

# XEP-0155 has logging may/mustnot. The examples of XEP-0116 have true/false there, XEP-0217 asks `otr`: the contrary.
_LOGGING = {"logging": {"may": "may", "mustnot": "mustnot", "true": "may", "false": "mustnot"}}
_LOGGING["otr"] = {"true": "mustnot", "false": "may", "1": "mustnot", "0": "may", "mustnot": "mustnot", "may": "may"}
_CHOICES = ("modp", "crypt_algs", "hash_algs", "compress", "ver", "security", "disclosure", "logging", "otr")
_NEEDED = ("security", "modp", "crypt_algs", "hash_algs", "compress", "stanzas", "ver", "rekey_freq")
_PUBKEYS = ("init_pubkey", "resp_pubkey")
_KNOWN = frozenset((*_CHOICES, *_NEEDED, *_PUBKEYS, "FORM_TYPE", "accept", "sas_algs", "sign_algs", "my_nonce"))
_KNOWN |= {"dhhashes", "dhkeys"}


class Parameters(msgspec.Struct, frozen=True, array_like=True):
    """What was agreed on. `init_pubkey` and `resp_pubkey` say how the initiator and the responder are identified:
    "key", "hash" or "none". `string` is "" with three messages."""

    group: int
    cipher: str
    hash: str
    compress: str
    stanzas: tuple[str, ...]
    init_pubkey: str
    resp_pubkey: str
    sign: str
    string: str
    rekey_freq: int
    logging: str  # "may" or "mustnot", however it was spelled
    three: bool = False


class Asked(NamedTuple):
    """The offer of a peer: for each field what may be chosen, best first."""

    form: Form
    options: Mapping[str, tuple[str, ...]]
    three: bool
    layout: Layout

    @property
    def groups(self) -> tuple[str, ...]:
        return self.options.get("modp", ())


def read_offer(form: Form) -> Asked:
    """An offer, whoever may want it. NegotiationFailed: "not-acceptable" with the fields that hold an option twice.

    A repeated group would let its sender choose later which of two values she opens, and so search for a short string.
    """
    repeated = tuple(
        f.var for f in form.fields if len({*f.options}) < len(f.options) or len({*f.values}) < len(f.values)
    )
    if repeated:
        raise NegotiationFailed("An option is offered twice.", condition=NOT_ACCEPTABLE, fields=repeated)
    options = {field.var: field.options or field.values for field in form.fields}
    crypt = form.get("crypt_algs")
    if not crypt or crypt.options:
        layout = Layout.STRICT
    else:
        layout = Layout.GAJIM if "sign_algs" in options else Layout.SUBSET
    return Asked(form, options, "dhkeys" in options and "dhhashes" not in options, layout)


def choose(asked: Asked, settings: Settings) -> Parameters:
    """Our choice from an offer. NegotiationFailed: "not-acceptable" with all fields of which we support no option, or
    "feature-not-implemented" with those that are required and that we don't know."""
    unknown = tuple(field.var for field in asked.form.fields if field.required and field.var not in _KNOWN)
    if unknown:
        raise NegotiationFailed("The offer requires what is not there.", condition=NOT_IMPLEMENTED, fields=unknown)
    supported = _supported(asked, settings)
    chosen: dict[str, str] = {}
    impossible = [name for name in _NEEDED if not asked.options.get(name)]
    for name in _CHOICES:
        offered = asked.options.get(name)
        if not offered:
            continue
        spelled = _LOGGING.get(name)
        picked = next((o for o in offered if (spelled.get(o) if spelled else o) in supported[name]), None)
        if picked is None:
            impossible.append(name)
        else:
            chosen[name] = picked
    stanzas = tuple(kind for kind in asked.options.get("stanzas", ()) if kind in settings.stanzas)
    if not stanzas:
        impossible.append("stanzas")
    string = _choose_string(asked, settings, impossible)
    rekey_freq = _frequency(asked.options.get("rekey_freq", ()))
    if rekey_freq is None:
        impossible.append("rekey_freq")
    ways = _choose_keys(asked, settings, impossible)
    if impossible or rekey_freq is None:
        raise NegotiationFailed(
            "None of the options can be chosen.", condition=NOT_ACCEPTABLE, fields=tuple(dict.fromkeys(impossible))
        )
    return Parameters(
        group=int(chosen["modp"]),
        cipher=chosen["crypt_algs"],
        hash=chosen["hash_algs"],
        compress=chosen["compress"],
        stanzas=stanzas,
        init_pubkey=ways[0],
        resp_pubkey=ways[1],
        sign=ways[2],
        string=string,
        rekey_freq=max(rekey_freq, settings.rekey_frequency),
        logging=_read_logging(chosen.get("logging", ""), chosen.get("otr", "")),
        three=asked.three,
    )


def _supported(asked: Asked, settings: Settings) -> dict[str, tuple[str, ...]]:
    groups = tuple(map(str, settings.groups)) if modp.backend() else ()
    return {
        "modp": groups,
        "crypt_algs": settings.ciphers,
        "hash_algs": settings.hashes,
        "compress": settings.compress,
        "ver": (VERSION,),
        "security": ("e2e",),
        "disclosure": ("never",),
        "logging": settings.logging,
        "otr": settings.logging,
    }


def _choose_string(asked: Asked, settings: Settings, impossible: list[str]) -> str:
    """The old string where it is all that there is: with peers of XEP-0217 and Gajim, who send it without a choice."""
    offered = asked.options.get("sas_algs", ())
    if asked.three:
        if offered:
            impossible.append("sas_algs")
        return ""
    strings = settings.strings if asked.layout is Layout.STRICT else (*settings.strings, SAS28X5)
    picked = next((name for name in strings if name in offered), "")  # in our order: ours can't be forged
    if not picked:
        impossible.append("sas_algs")
    return picked


def _choose_keys(asked: Asked, settings: Settings, impossible: list[str]) -> tuple[str, str, str]:
    """How each side is identified, and the signature algorithm, of which there is one for both sides."""
    theirs = next((way for way in settings.peer_key if way in asked.options.get("init_pubkey", ())), "")
    own_ways = settings.own_key
    signs = asked.options.get("sign_algs", ())
    own = next((name for name in settings.identity.algorithms if name in signs), "") if settings.identity else ""
    if not own or (settings.shield is Shield.OURS and (theirs == "none" or asked.three)):
        own_ways = ("none",)  # nobody would have proven anything to us before we tell who we are
    ours = next((way for way in asked.options.get("resp_pubkey", ()) if way in own_ways), "")
    if asked.three and "none" in (theirs, ours):
        impossible.extend(_PUBKEYS)
    impossible.extend(name for name, way in zip(_PUBKEYS, (theirs, ours), strict=True) if not way)
    if theirs == ours == "none":
        return theirs, ours, signs[0] if signs else ""  # of no consequence
    sign = own if ours != "none" else next((name for name in signs if name in ALGORITHMS), "")
    if not sign and theirs and ours:
        impossible.append("sign_algs")
    return theirs, ours, sign


def check_answer(asked: Asked, answer: Form) -> Parameters:
    """What a peer chose from our own offer. NegotiationFailed: "not-acceptable" with all fields that do not fit it."""
    wrong = [name for name in _CHOICES if name in asked.options and not _is_one_of(answer.values(name), asked, name)]
    if asked.options.get("sas_algs") and not _is_one_of(answer.values("sas_algs"), asked, "sas_algs"):
        wrong.append("sas_algs")
    stanzas = answer.values("stanzas")
    if not stanzas or len(set(stanzas)) < len(stanzas) or not set(stanzas) <= set(asked.options["stanzas"]):
        wrong.append("stanzas")
    wrong.extend(name for name in _PUBKEYS if not _is_one_of(answer.values(name), asked, name))
    identified = any(answer.values(name) not in ((), ("none",)) for name in _PUBKEYS)
    if (identified or answer.values("sign_algs")) and not _is_one_of(answer.values("sign_algs"), asked, "sign_algs"):
        wrong.append("sign_algs")
    least = _frequency(asked.options["rekey_freq"])
    rekey_freq = _frequency(answer.values("rekey_freq"))
    if rekey_freq is None or least is None or rekey_freq < least:
        wrong.append("rekey_freq")
    if wrong or rekey_freq is None:
        raise NegotiationFailed(
            "The answer chose what was not offered.", condition=NOT_ACCEPTABLE, fields=tuple(dict.fromkeys(wrong))
        )

    def one(name: str) -> str:
        return next(iter(answer.values(name)), "")

    return Parameters(
        group=int(one("modp")),
        cipher=one("crypt_algs"),
        hash=one("hash_algs"),
        compress=one("compress"),
        stanzas=stanzas,
        init_pubkey=one("init_pubkey"),
        resp_pubkey=one("resp_pubkey"),
        sign=one("sign_algs"),
        string=one("sas_algs"),
        rekey_freq=rekey_freq,
        logging=_read_logging(one("logging"), one("otr")),
        three=asked.three,
    )


def _read_logging(logging: str, otr: str) -> str:
    """ "may", "mustnot", or "" if nothing was said of it; whichever of two fields forbids it counts."""
    said = (_LOGGING["logging"].get(logging, ""), _LOGGING["otr"].get(otr, ""))
    return "mustnot" if "mustnot" in said else said[0] or said[1]


def spelled(asked: Asked, name: str, logging: str) -> str:
    """How the offer spells this value of `logging` in the field `name`, which may be `otr`."""
    return next((o for o in asked.options.get(name, ()) if _LOGGING[name].get(o) == logging), "")


def _is_one_of(values: tuple[str, ...], asked: Asked, name: str) -> bool:
    return len(values) == 1 and values[0] in asked.options.get(name, ())


def _frequency(values: tuple[str, ...]) -> int | None:
    """A number of stanzas, 1 .. 2^32 - 1, in its one decimal spelling."""
    if len(values) != 1 or not values[0].isascii() or not values[0].isdigit() or len(values[0]) > 10:
        return None
    number = int(values[0])
    return number if str(number) == values[0] and 1 <= number <= NEVER_REKEY else None
