"""Keys and messages of GnuPG: as its users and Libervia have them, in every kind we read, and those that are refused.

Provenance: openpgp_gnupg.json, made by make_openpgp.py with the version of gpg that its first line names.
"""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from tillie.crypto import openpgp, password
from tillie.crypto.openpgp import SecretKey
from tillie.errors import BadSignature, Malformed, Undecryptable, UsageError
from tillie.model import Address

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "openpgp_gnupg.json").read_text(encoding="utf-8"))
TEXT = b64decode(VECTORS["text"])
NOW = 1_800_000_000.0  # after all were made
READERS = [name for name in VECTORS["secrets"] if name != "protected"]
WHY = {
    **dict.fromkeys(("rsa1024", "dsa", "sha1", "brainpool"), "weak, or of a kind that is not known here"),
    "expired": "expired",
    "half": "its key for encryption expired",
    "sign": "no key for encryption",
}


def _secret(name: str) -> SecretKey:
    (secret,) = openpgp.parse_secret_keys(b64decode(VECTORS["secrets"][name]))
    return secret


ME = _secret("ed25519")
SENDERS = [ME.certificate]


@pytest.mark.parametrize("name", READERS)
def test_secret_key(name: str) -> None:
    secret = _secret(name)
    assert secret.certificate.why_unusable(NOW) == ""
    assert secret.certificate.names(Address(f"{name}@capulet.lit"))
    opened = openpgp.open_signcrypt(b64decode(VECTORS["signcrypt"][f"to {name}"]), [secret], SENDERS)
    assert opened == (TEXT, (ME.fingerprint,))
    sealed = openpgp.signcrypt(TEXT, secret, [secret.certificate])
    assert openpgp.open_signcrypt(sealed, [secret], [secret.certificate]).plaintext == TEXT


@pytest.mark.parametrize("kind", ["none", "zip", "zlib", "bzip2"])
def test_compressed(kind: str) -> None:
    assert openpgp.open_signcrypt(b64decode(VECTORS["signcrypt"][f"compressed {kind}"]), [ME], SENDERS)[0] == TEXT


@pytest.mark.parametrize("name", ["hidden", "several"])
def test_recipients_beside_us(name: str) -> None:
    message = b64decode(VECTORS["signcrypt"][name])
    for secret in (ME, _secret("rsa")) if name == "several" else (ME,):
        assert openpgp.open_signcrypt(message, [_secret("whole"), secret], SENDERS)[0] == TEXT
    named = openpgp.recipients(message)
    assert named == (bytes(8),) if name == "hidden" else openpgp.reads(ME) < set(named)


def test_signers() -> None:
    rsa = _secret("rsa").certificate
    both = b64decode(VECTORS["signcrypt"]["two signers"])
    assert set(openpgp.open_signcrypt(both, [ME], [ME.certificate, rsa])[1]) == {ME.fingerprint, rsa.fingerprint}
    assert openpgp.open_signcrypt(both, [ME], [rsa])[1] == (rsa.fingerprint,)
    by_rsa = b64decode(VECTORS["signcrypt"]["by rsa"])
    assert openpgp.open_signcrypt(by_rsa, [ME], [ME.certificate, rsa])[1] == (rsa.fingerprint,)
    with pytest.raises(BadSignature):
        openpgp.open_signcrypt(by_rsa, [ME], [ME.certificate])


def test_for_another() -> None:
    with pytest.raises(Undecryptable):
        openpgp.open_signcrypt(b64decode(VECTORS["signcrypt"]["to rsa"]), [ME], SENDERS)


def test_crypt_and_sign_are_not_signcrypt() -> None:
    crypt, sign = b64decode(VECTORS["crypt"]), b64decode(VECTORS["sign"])
    signcrypt = b64decode(VECTORS["signcrypt"]["to ed25519"])
    assert openpgp.open_crypt(crypt, [ME]) == (TEXT, ())
    assert openpgp.open_sign(sign, SENDERS) == (TEXT, (ME.fingerprint,))
    with pytest.raises(BadSignature):
        openpgp.open_signcrypt(crypt, [ME], SENDERS)
    with pytest.raises(Malformed):
        openpgp.open_crypt(signcrypt, [ME])
    for wrong in (crypt, signcrypt):
        with pytest.raises(Malformed):
            openpgp.open_sign(wrong, SENDERS)
    with pytest.raises(Malformed):
        openpgp.open_signcrypt(sign, [ME], SENDERS)


def test_detached() -> None:
    signature = b64decode(VECTORS["detached"])
    assert openpgp.verify_detached(signature, TEXT, [_secret("rsa").certificate, ME.certificate]) == ME.certificate
    with pytest.raises(BadSignature):
        openpgp.verify_detached(signature, TEXT + b" ", SENDERS)
    with pytest.raises(Malformed, match="binary"):
        openpgp.verify_detached(b64decode(VECTORS["text signature"]), TEXT, SENDERS)


@pytest.mark.parametrize("name", VECTORS["weak"])
def test_unusable(name: str) -> None:
    certificate = openpgp.parse_certificate(b64decode(VECTORS["weak"][name]))
    assert certificate.why_unusable(NOW) == WHY[name]


def test_expiry_has_an_edge() -> None:
    for name in ("expired", "half"):
        certificate = openpgp.parse_certificate(b64decode(VECTORS["weak"][name]))
        expires = certificate.expires or certificate.encryption[0].expires
        assert expires == 1_577_836_800 + 365 * 86_400  # a year after 2020-01-01
        assert certificate.why_unusable(expires - 1) == ""
        assert certificate.why_unusable(expires) == WHY[name]


def test_import() -> None:
    protected = b64decode(VECTORS["secrets"]["protected"])
    (secret,) = openpgp.import_secret_keys(protected, "sesame")
    sealed = openpgp.crypt(TEXT, [secret.certificate])
    assert openpgp.open_crypt(sealed, [secret]).plaintext == TEXT
    assert openpgp.open_sign(openpgp.sign(TEXT, secret), [secret.certificate]).signers == (secret.fingerprint,)
    for wrong in ("Sesame", ""):
        with pytest.raises(UsageError):
            openpgp.import_secret_keys(protected, wrong)
    with pytest.raises(Malformed, match="passphrase"):
        openpgp.parse_secret_keys(protected)
    found = openpgp.import_secret_keys(b64decode(VECTORS["armoured"]))
    assert [one.fingerprint for one in found] == [ME.fingerprint, _secret("rsa").fingerprint]
    with pytest.raises(UsageError):  # the primary secret was left out
        openpgp.import_secret_keys(b64decode(VECTORS["stub"]))


@pytest.mark.parametrize("name", READERS)
def test_another_user_id_changes_nothing_else(name: str) -> None:
    before = _secret(name)
    after = openpgp.add_user_id(before, "xmpp:new@capulet.lit")
    assert after.certificate.names(Address("new@capulet.lit"))
    assert after.certificate.names(Address(f"{name}@capulet.lit"))
    assert after.certificate.encryption == before.certificate.encryption
    message = openpgp.signcrypt(TEXT, after, [after.certificate])
    assert openpgp.open_signcrypt(message, [before], [before.certificate])[0] == TEXT


@pytest.mark.parametrize("name", VECTORS["under password"])
def test_under_password(name: str) -> None:
    message = b64decode(VECTORS["under password"][name])
    assert password.open(message, VECTORS["password"]) == TEXT
    assert (password.work(message) > password.SLOW_WORK) is (name == "default")
    with pytest.raises(Undecryptable):
        password.open(message, VECTORS["password"].lower())


@pytest.mark.parametrize(("name", "error"), [("3des", Undecryptable), ("no mdc", Malformed)])
def test_not_safe_under_password(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        password.open(b64decode(VECTORS[name]), VECTORS["password"])


def test_bombs() -> None:
    limit = 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(Malformed, match="too large"):
            openpgp.open_signcrypt(b64decode(VECTORS["bomb"]), [ME], SENDERS, max_bytes=limit)
        with pytest.raises(Malformed, match="too large"):
            password.open(b64decode(VECTORS["password bomb"]), VECTORS["password"], max_bytes=limit)
        assert tracemalloc.get_traced_memory()[1] < 8 * limit
    finally:
        tracemalloc.stop()


def test_size_has_an_edge() -> None:
    message = b64decode(VECTORS["under password"]["salted"])
    assert password.open(message, VECTORS["password"], max_bytes=len(TEXT)) == TEXT
    with pytest.raises(Malformed):
        password.open(message, VECTORS["password"], max_bytes=len(TEXT) - 1)
    message = b64decode(VECTORS["signcrypt"]["to ed25519"])
    assert openpgp.open_signcrypt(message, [ME], SENDERS, max_bytes=len(TEXT))[0] == TEXT
    with pytest.raises(Malformed):
        openpgp.open_signcrypt(message, [ME], SENDERS, max_bytes=len(TEXT) - 1)
