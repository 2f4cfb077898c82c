"""What we write for vodozemac against what vodozemac writes itself: its pickles are deterministic."""

from __future__ import annotations

import vodozemac

from tillie.crypto import agree, sign
from tillie.schemes.olm import pickled
from tillie.schemes.olm.content import one_time_key_of
from tillie.schemes.olm.records import Half, Own

SEED, PRIVATE, ONE_TIME, PICKLE_KEY = (bytes([number]) * 32 for number in (1, 2, 3, 4))
OWN = Own("D", "v1", SEED, sign.public_of(SEED), PRIVATE, agree.public_of(PRIVATE), PICKLE_KEY)
HALF = Half(0, ONE_TIME, agree.public_of(ONE_TIME), 0.0)


def test_it_is_what_vodozemac_writes() -> None:
    for half in (HALF, None):
        written = pickled.write(OWN, half)
        account = vodozemac.Account.from_pickle(written, PICKLE_KEY)
        assert account.curve25519_key.to_bytes() == OWN.curve25519
        if half is not None:
            assert account.pickle(PICKLE_KEY) == written


def test_it_holds_the_key_that_a_message_begins_with() -> None:
    sender = vodozemac.Account()
    theirs = vodozemac.Curve25519PublicKey.from_bytes
    session = sender.create_outbound_session(theirs(OWN.curve25519), theirs(HALF.public))
    message = session.encrypt(b"hello")
    assert one_time_key_of(message.to_parts()[1]) == HALF.public
    parsed = message.to_pre_key()
    assert parsed is not None
    made, plaintext = pickled.account(OWN, HALF).create_inbound_session(sender.curve25519_key, parsed)
    assert (plaintext, made.session_id) == (b"hello", session.session_id)
