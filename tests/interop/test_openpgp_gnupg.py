"""GnuPG, live, reads what we write and writes what we read: keys, messages, items under a password, signatures."""

from __future__ import annotations

import pytest

from support.gnupg import GnuPG, GnuPGError, gnupg
from tillie.crypto import openpgp, password
from tillie.errors import UsageError
from tillie.model import Address

__all__ = ["gnupg"]  # a fixture

TEXT = ("<signcrypt xmlns='urn:xmpp:openpgp:0'/>" + "Jul\u00efet " * 300).encode()
JULIET, ROMEO = "xmpp:juliet@capulet.lit", "xmpp:romeo@montague.lit"


def test_messages_with_gnupg(gnupg: GnuPG) -> None:
    ours = openpgp.generate(JULIET)
    gnupg.take(ours.certificate.data)
    his_fingerprint = gnupg.generate(ROMEO)
    his = openpgp.parse_certificate(gnupg.export(ROMEO))
    assert his.fingerprint.hex() == his_fingerprint
    assert his.names(Address("romeo@montague.lit"))
    read = gnupg.open(openpgp.signcrypt(TEXT, ours, [his, ours.certificate]))
    assert read == (TEXT, (ours.fingerprint.hex(),))
    assert gnupg.open(openpgp.crypt(TEXT, [his])) == (TEXT, ())
    assert gnupg.run("--decrypt", data=openpgp.sign(TEXT, ours)) == TEXT  # fails unless the signature is good
    for options in ((), ("-z", "0"), ("--compress-algo", "zlib"), ("--compress-algo", "bzip2")):
        message = gnupg.seal(TEXT, [JULIET], ROMEO, *options)
        assert openpgp.open_signcrypt(message, [ours], [his]) == (TEXT, (his.fingerprint,))
    assert openpgp.open_crypt(gnupg.seal(TEXT, [JULIET]), [ours]).plaintext == TEXT
    assert gnupg.verify(TEXT, openpgp.sign_detached(TEXT, ours)) == (ours.fingerprint.hex(),)
    assert openpgp.verify_detached(gnupg.sign(TEXT, ROMEO), TEXT, [his]) == his


def test_our_key_lives_in_gnupg_too(gnupg: GnuPG) -> None:
    """XEP-0373 section 5: the backup is for all clients of the account; so are messages from one of ours to another."""
    ours, sender = openpgp.generate(JULIET), openpgp.generate(ROMEO)
    ours = openpgp.add_user_id(ours, "xmpp:juliet@verona.example")
    gnupg.take(ours.data)
    gnupg.take(sender.certificate.data)
    message = openpgp.signcrypt(TEXT, sender, [ours.certificate, sender.certificate])
    assert gnupg.open(message) == (TEXT, (sender.fingerprint.hex(),))
    by_gnupg = gnupg.seal(TEXT, [ROMEO], "xmpp:juliet@verona.example")
    assert openpgp.open_signcrypt(by_gnupg, [sender], [ours.certificate]).signers == (ours.fingerprint,)
    gnupg.take(openpgp.revoke(ours).certificate.data)
    with pytest.raises(GnuPGError):
        gnupg.seal(TEXT, [ours.fingerprint.hex()])


def test_a_key_of_gnupg_with_a_passphrase(gnupg: GnuPG) -> None:
    gnupg.generate(JULIET, "sesame")
    exported = gnupg.export_secret(JULIET, "sesame")
    (secret,) = openpgp.import_secret_keys(exported, "sesame")
    with pytest.raises(UsageError):
        openpgp.import_secret_keys(exported, "open sesame")
    message = gnupg.seal(TEXT, [JULIET], JULIET, passphrase="sesame")
    assert openpgp.open_signcrypt(message, [secret], [secret.certificate]).plaintext == TEXT
    both = openpgp.add_user_id(secret, "xmpp:juliet@verona.example")
    gnupg.take(both.certificate.data)
    sealed = openpgp.signcrypt(TEXT, both, [both.certificate])
    assert gnupg.open(sealed, "sesame") == (TEXT, (secret.fingerprint.hex(),))


def test_items_under_a_password(gnupg: GnuPG) -> None:
    for stretch in (False, True):
        message = password.seal(TEXT, "k" * 43, stretch=stretch)
        assert gnupg.open(message, "k" * 43).plaintext == TEXT
        with pytest.raises(GnuPGError):
            gnupg.open(message, "k" * 42)
    for options in ((), ("--s2k-mode", "1"), ("-z", "0")):
        assert password.open(gnupg.seal_with_password(TEXT, "k" * 43, *options), "k" * 43) == TEXT


def test_backup(gnupg: GnuPG) -> None:
    ours = openpgp.generate(JULIET)
    code = "TWNK-KD5Y-MT3T-E1GS-DRDB-KVTW"
    gnupg.take(gnupg.open(password.seal(ours.data, code, stretch=True), code).plaintext)
    assert gnupg.fingerprint(JULIET) == ours.fingerprint.hex()
    theirs = gnupg.seal_with_password(gnupg.export_secret(JULIET), code)
    (again,) = openpgp.parse_secret_keys(password.open(theirs, code))
    assert again.certificate == ours.certificate
