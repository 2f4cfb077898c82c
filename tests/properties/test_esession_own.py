"""What is ours in the negotiation of sessions: records, backups, and how keys of sessions are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.account import Account, fill
from tillie.cli import strings
from tillie.errors import InvalidAddress, StoreTooNew, UsageError
from tillie.model import Address, Device, Done, Trust
from tillie.schemes.esession import own, records
from tillie.schemes.esession.identity import Ed25519Identity, RsaIdentity, private_bytes
from tillie.schemes.esession.settings import new_code
from tillie.store import MemoryStore
from tillie.trust import associations
from tillie.trust.fingerprint import fingerprint

ALICE, BOB = Address("alice@capulet.example"), Address("bob@montague.example")
CHAIN = b"R" + bytes(range(16))


@pytest.mark.parametrize("kind", [Ed25519Identity, RsaIdentity])
def test_a_key_is_kept_and_comes_back_from_a_backup(kind: type[Ed25519Identity | RsaIdentity]) -> None:
    before = Account(MemoryStore(ALICE))
    made = before.make_session_key(rsa=kind is RsaIdentity)
    code = new_code()
    before.keep_session_code(BOB, code)

    def meet(s: MemoryStore) -> Done[None]:
        associations.saw(s, CHAIN, BOB, 1.0)
        associations.name(s, CHAIN, "Bobby")
        return Done(None)

    before.store.run(meet)
    after = Account(MemoryStore(ALICE))
    fill(after.store, before.copy())
    after = Account(after.store)
    assert [key.device for key in after.keys(ALICE) if key.scheme == "esession"] == [made]
    assert after.session_code(BOB) == code
    assert [(key.petname, key.trust) for key in after.keys(BOB)] == [("Bobby", Trust.UNDECIDED)]
    found = after.session_settings().identity
    assert isinstance(found, kind)
    assert own.trust_key(found) == made.key


def test_no_session_is_in_a_backup() -> None:
    account = Account(MemoryStore(ALICE))
    secret = records.key("chain", "00" * 16)
    account.store.run(lambda s: Done(s.put(secret, b"\x01secret")))
    assert secret not in dict(account.copy())
    with pytest.raises(UsageError):
        fill(MemoryStore(ALICE), [(secret, b"\x01secret")])


@pytest.mark.parametrize("kind", ["identity", "code"])
def test_records_of_a_newer_version_are_refused(kind: str) -> None:
    account = Account(MemoryStore(ALICE))
    name = BOB if kind == "code" else ""
    account.store.run(
        lambda s: Done(s.put(records.key(kind, name), b"\x02" + private_bytes(Ed25519Identity.generate())))
    )
    with pytest.raises(StoreTooNew):
        account.session_code(BOB) if kind == "code" else account.session_settings()


@pytest.mark.parametrize("code", ["x", "correct horse battery", "AAAA-AAAA-AAAA-AAAA", new_code()[:-1]])
def test_what_tillie_did_not_make_is_no_code(code: str) -> None:
    with pytest.raises(UsageError):
        Account(MemoryStore(ALICE)).keep_session_code(BOB, code)


def test_without_a_key_none_is_promised() -> None:
    account = Account(MemoryStore(ALICE))
    assert account.session_settings().own_key == ("none",)
    account.make_session_key()
    assert account.session_settings().own_key == ("key", "none")
    with pytest.raises(UsageError):
        account.make_session_key()


def test_a_chain_has_no_fingerprint_and_a_key_has_its_own() -> None:
    key = b"K" + bytes(range(32))
    assert fingerprint(key) == "00010203 04050607 08090a0b 0c0d0e0f 10111213 14151617 18191a1b 1c1d1e1f"
    assert fingerprint(CHAIN) == ""
    assert Device(BOB, 1, CHAIN).name == "client 0001020304050607"
    assert not Device(BOB, 1, key).is_openpgp


@given(st.text(max_size=200), st.binary(min_size=32, max_size=64))
def test_a_link_is_one_or_is_refused(text: str, digest: bytes) -> None:
    link = f"xmpp:{BOB}?esession-string={digest.hex()}"
    assert strings.is_link(link)
    assert strings.digest_in(link, BOB) == digest
    for odd in (text, link + text, text + link, link.replace("bob", text)):
        try:
            assert strings.digest_in(odd, BOB)
        except (UsageError, InvalidAddress):
            pass
