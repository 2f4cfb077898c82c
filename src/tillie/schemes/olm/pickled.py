"""Our keys in the form in which vodozemac reads an account.

vodozemac's `Account` would keep all private halves in one pickle, compute every public half again at each load (22 µs
for each key), forget keys by its own rules only, and show none of it. So our keys are records of their own, and
for the moment that needs an account, when a session begins, one is written that holds our identity and the one key that
a first message uses.

The form is vodozemac's own, which it must go on reading as long as it reads what programs have stored: JSON, then
AES-256-CBC and 8 bytes of HMAC-SHA-256, under keys from HKDF. A test holds what is written here against what vodozemac
writes.
"""

from __future__ import annotations

import msgspec
import vodozemac

from tillie.crypto import cipher, kdf
from tillie.schemes.olm.records import Half, Own
from tillie.wire import base64

_MAC = 8


def account(own: Own, half: Half | None = None) -> vodozemac.Account:
    """An account with our identity, and the one key that a first message uses."""
    return vodozemac.Account.from_pickle(write(own, half), own.pickle_key)


def write(own: Own, half: Half | None) -> str:
    private_keys = {"0": list(half.private)} if half is not None else {}
    value = {
        "signing_key": {"Normal": list(own.seed)},
        "diffie_hellman_key": list(own.curve_private),
        "one_time_keys": {"next_key_id": 1, "public_keys": {}, "private_keys": private_keys},
        "fallback_keys": {"key_id": 0, "fallback_key": None, "previous_fallback_key": None},
    }
    keys = kdf.hkdf(own.pickle_key, salt=b"", info=b"Pickle", length=80)
    ciphertext = cipher.encrypt_cbc(keys[:32], keys[64:], msgspec.json.encode(value))
    return base64.encode_unpadded(ciphertext + kdf.hmac(keys[32:64], ciphertext)[:_MAC])
