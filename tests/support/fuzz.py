"""Every decoder of untrusted bytes, and a search for what breaks one.

A short search runs with the tests. A long one by hand, from the root of the project:

    PYTHONPATH=src:tests .venv/bin/python -m support.fuzz 600

Each decoder gets its share of the seconds. What raises anything but a PeerError, or takes longer than SLOW, is written
to tests/corpus/<decoder>/, where `test_omemo_corpus` replays it from then on. Commit it together with the mend.
"""

from __future__ import annotations

import hashlib
import sys
import time
from binascii import b2a_base64
from collections.abc import Callable
from pathlib import Path
from random import Random

from tillie.crypto import sign
from tillie.directory import omemo as directory
from tillie.directory import openpgp as openpgp_directory
from tillie.envelope import codec
from tillie.errors import PeerError, UsageError
from tillie.model import Address, Content, Envelope
from tillie.negotiation import element as negotiation
from tillie.negotiation import threads
from tillie.pubsub import attachments, signing, targeted
from tillie.schemes.esession import content as session_content
from tillie.schemes.esession import identity as session_identity
from tillie.schemes.esession import text as session_text
from tillie.schemes.omemo import element, messages
from tillie.schemes.openpgp import content as openpgp_content
from tillie.schemes.openpgp import element as openpgp_element
from tillie.trust import fingerprint
from tillie.wire import forms, xml

CORPUS = Path(__file__).parent.parent / "corpus"
SLOW = 2.0  # seconds for one input; the slowest honest ones take milliseconds
MAX_MUTATIONS = 6
INTERESTING = (b"", b"<", b">", b"'", b"&", b"\x00", b"\xff", b"0", b"-1", b"4294967296", b"<!--", b"]]>", b"\x80" * 9)

_ME = Address("bob@b.example")
_SEED = b"\x11" * 32
_POINT = (9).to_bytes(32, "little")
_BUNDLE = directory.Bundle(sign.public_of(_SEED), 1, _POINT, sign.sign(_SEED, _POINT), {1: _POINT, 2: _POINT})
_SIGNED = messages.encode_unauthenticated(3, 2, _POINT, bytes(64))
_MESSAGE = messages.encode(bytes(16), _SIGNED)
_EXCHANGE = messages.encode_key_exchange(1, 1, sign.public_of(_SEED), _POINT, bytes(16), _SIGNED)
_ELEMENT = element.encode(7, [(_ME, [element.Key(5, True, _EXCHANGE)])], bytes(64))
_LISTED = directory.ListedDevice(5, "phone", sign.sign(_SEED, b"phone"))
_CONTENT = Content(b"<body xmlns='jabber:client'>x</body>")
_ENVELOPE = codec.encode(Envelope(_CONTENT, sender=_ME, to=_ME, time=1_780_000_000.0, iq=("get", "1")), bytes)
_SIGNATURE = signing.encode(signing.Signature(signing.statement(_ME, 1_780_000_000.0), bytes(64)))
_KEY_LIST = openpgp_directory.encode_list([openpgp_directory.Announced(bytes(20), 1_780_000_000.0)])
_SIGNCRYPT = openpgp_content.encode(openpgp_content.Form.SIGNCRYPT, _CONTENT, [_ME], 1_780_000_000.0, bytes)
_FORM = (
    b"<x xmlns='jabber:x:data' type='form'><title>t</title><field var='FORM_TYPE' type='hidden'><value>urn:xmpp:ssn"
    b"</value></field><field var='modp' type='list-single' label='l'><desc>d</desc><required/><option label='o'>"
    b"<value>14</value></option><option> <value>15</value></option></field></x>"
)
_FORMS = (_FORM, _FORM.replace(b"'", b'"'))
_FEATURE = negotiation.feature(forms.parse(_FORM))
_SESSION = session_content.write(session_content.cover(_POINT, new=2, key=_POINT[::-1], old=(_SEED, _POINT)), _SEED)
_RSA = b"<KeyValue><RSAKeyValue><Modulus>%b</Modulus><Exponent>AQAB</Exponent></RSAKeyValue></KeyValue>" % b2a_base64(
    b"\x80" + bytes(254) + b"\x01", newline=False
)  # no modulus, but of the size of one
_HIDDEN = b"<body>x &lt; y</body><active xmlns='http://jabber.org/protocol/chatstates'/><a xmlns='urn:a'><b/>&#9;</a> "


def _form(data: bytes) -> object:
    """A form, its normal forms, and the same form written anew."""
    form = _read_both_ways(forms.parse_written, forms._parse_tree, data)
    assert isinstance(form, forms.Form)
    for dialect in forms.Dialect:
        quick = forms._normal_written(data, dialect, ("modp",))
        if quick not in (None, forms._normal_tree(data, dialect, ("modp",))):
            raise AssertionError("the short cut has another normal form")
    again = forms.parse(forms.write(form.type, form.fields).xml)
    if again.fields != form.fields:
        raise AssertionError("a form that is written anew says something else")
    return form


def _read_both_ways(quick: Callable[[bytes], object], slow: Callable[[bytes], object], data: bytes) -> object:
    """With the short cut and without it: what the first takes the second takes, with the same meaning."""
    found = quick(data)
    if found is None:
        return slow(data)
    try:
        meant = slow(data)
    except PeerError as error:
        raise AssertionError("the short cut took what is refused") from error
    if meant != found:
        raise AssertionError("the short cut read something else")
    return found


def _spelled(decode: Callable[[bytes], session_text.Hidden | None]) -> Callable[[bytes], object]:
    """What is hidden, in one spelling: the short cut leaves it in the sender's."""

    def read(data: bytes) -> object:
        hidden = decode(data)
        if hidden is None:
            return None
        return hidden.dropped, [xml.serialise(child) for child in xml.parse_fragment(hidden.content.data)]

    return read


def _shown(data: bytes) -> str:
    """A fingerprint is typed by a person: its error is hers."""
    try:
        return fingerprint.normalise(data.decode(errors="replace"))
    except UsageError:
        return ""


DECODERS: dict[str, tuple[Callable[[bytes], object], tuple[bytes, ...]]] = {
    "element": (lambda data: element.decode(data, _ME, 5), (_ELEMENT, _ELEMENT.replace(b"'", b'"'))),
    "message": (messages.decode, (_MESSAGE,)),
    "exchange": (messages.decode_key_exchange, (_EXCHANGE,)),
    "devices": (directory.parse_devices, (directory.encode_devices([_LISTED, directory.ListedDevice(9)]),)),
    "bundle": (directory.parse_bundle, (directory.encode_bundle(_BUNDLE),)),
    "identity": (sign.public_to_curve, (sign.public_of(_SEED),)),
    "fingerprint": (_shown, (fingerprint.fingerprint(_BUNDLE.identity).encode(),)),
    "envelope": (codec.decode, (_ENVELOPE, _ENVELOPE.replace(b"'", b'"'))),
    "attachments": (attachments.parse, (attachments.encode([attachments.noticed(0.0), _SIGNATURE]),)),
    "signature": (signing.parse, (_SIGNATURE,)),
    "signed form": (signing.item_form, (_SIGNATURE, b"<p:a xmlns:p='urn:p' xmlns='urn:q' p:b='' b=''><c/></p:a>")),
    "key list": (openpgp_directory.parse_list, (_KEY_LIST,)),
    "public key": (openpgp_directory.parse_key, (openpgp_directory.encode_key(_POINT),)),
    "key backup": (openpgp_directory.parse_backup, (openpgp_directory.encode_backup(_POINT),)),
    "openpgp": (openpgp_element.decode, (openpgp_element.encode(_POINT),)),
    "content element": (openpgp_content.decode, (_SIGNCRYPT, _SIGNCRYPT.replace(b"'", b'"'))),
    "form": (_form, (*_FORMS, forms.write(*forms.parse(_FORM)[:2]).xml)),
    "feature": (negotiation.parse_feature, (_FEATURE,)),
    "init": (negotiation.parse_init, (negotiation.init(forms.parse(_FORM), _SESSION),)),
    "negotiation error": (negotiation.parse_error, (negotiation.error("not-acceptable", ("modp", "ver")),)),
    "thread": (threads.parse, (threads.write(threads.Thread("one", "other")),)),
    "session content": (
        lambda data: _read_both_ways(session_content._parse_plain, session_content._parse_tree, data),
        (_SESSION, _SESSION.replace(b"'", b'"')),
    ),
    "session text": (
        lambda data: _read_both_ways(_spelled(session_text._decode_flat), _spelled(session_text._decode_tree), data),
        (_HIDDEN, _HIDDEN.replace(b"'", b'"'), b"<body>x</body><a b='y' />"),
    ),
    "session key": (
        session_identity.parse,
        (session_identity.Ed25519Identity.generate().key_value, _RSA),
    ),
    "targeted": (targeted.parse, (targeted.encode(_ME, "urn:xmpp:omemo:2", _ELEMENT),)),
}


def mutate(data: bytes, random: Random) -> bytes:
    """The bytes with a few changes: flipped, removed, repeated, moved, replaced by something interesting."""
    out = bytearray(data)
    for _ in range(random.randint(1, MAX_MUTATIONS)):
        start = random.randrange(len(out) + 1)
        end = min(len(out), start + random.choice((0, 1, 1, 2, 8, 40)))
        match random.randrange(5):
            case 0 if start < len(out):
                out[start] ^= 1 << random.randrange(8)
            case 1:
                del out[start:end]
            case 2:
                out[start:start] = out[start:end] * random.choice((1, 2, 50))
            case 3:
                piece = bytes(out[start:end])
                at = random.randrange(len(out) + 1)
                out[at:at] = piece
            case _:
                out[start:end] = random.choice(INTERESTING)
    return bytes(out)


def try_one(name: str, data: bytes) -> str:
    """Decode, and say what is wrong with how that went; "" if nothing is."""
    started = time.perf_counter()
    try:
        DECODERS[name][0](data)
    except PeerError:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"
    took = time.perf_counter() - started
    return f"took {took:.1f} s" if took > SLOW else ""


def search(seconds: float, seed: int) -> list[Path]:
    """Mutate for some seconds; the files that were written."""
    random = Random(seed)
    found = []
    for name, (_, seeds) in DECODERS.items():
        pool, tried = list(seeds), 0
        until = time.monotonic() + seconds / len(DECODERS)
        while time.monotonic() < until:
            data = mutate(random.choice(pool), random)
            wrong = try_one(name, data)
            tried += 1
            if wrong:
                path = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                found.append(path)
                sys.stdout.write(f"{path}: {wrong}\n")
            elif len(data) < 100_000 and random.randrange(50) == 0:
                pool.append(data)
        sys.stdout.write(f"{name}: {tried} inputs\n")
    return found


if __name__ == "__main__":
    sys.exit(bool(search(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, seed=time.time_ns())))
