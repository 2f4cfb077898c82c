"""GnuPG alone: the peer works, before anything is said about us."""

from __future__ import annotations

import pytest

from support.gnupg import GnuPG, GnuPGError, gnupg

__all__ = ["gnupg"]

PASSPHRASE = "correct horse"


def test_a_key_with_a_passphrase_signs_seals_and_opens(gnupg: GnuPG) -> None:
    fingerprint = gnupg.generate("xmpp:juliet@capulet.test", PASSPHRASE)
    sealed = gnupg.seal(b"good night", [fingerprint], fingerprint, passphrase=PASSPHRASE)
    assert gnupg.open(sealed, PASSPHRASE) == (b"good night", (fingerprint,))
    signature = gnupg.sign(b"good night", fingerprint, passphrase=PASSPHRASE)
    assert gnupg.verify(b"good night", signature) == (fingerprint,)
    assert gnupg.verify(b"good day", signature) == ()


def test_a_key_moves_to_another_keyring(gnupg: GnuPG) -> None:
    fingerprint = gnupg.generate("xmpp:juliet@capulet.test", PASSPHRASE)
    exported = gnupg.export_secret(fingerprint, PASSPHRASE)
    with GnuPG() as other:
        other.take(exported)
        assert other.fingerprint("xmpp:juliet@capulet.test") == fingerprint
        assert other.export(fingerprint) == gnupg.export(fingerprint)
        sealed = gnupg.seal(b"moved", [fingerprint])
        assert ":compressed packet:" in other.list_packets(sealed, PASSPHRASE)
        assert other.open(sealed, PASSPHRASE) == (b"moved", ())


def test_a_wrong_password_is_an_error(gnupg: GnuPG) -> None:
    sealed = gnupg.seal_with_password(b"an item", "s3cret")
    assert gnupg.open(sealed, "s3cret").plaintext == b"an item"
    with pytest.raises(GnuPGError):
        gnupg.open(sealed, "guess")


def test_nothing_is_left_behind() -> None:
    with GnuPG() as one:
        one.generate("xmpp:nurse@capulet.test")
        home = one.home
        assert list(home.glob("S.gpg-agent"))
    assert not home.exists()
