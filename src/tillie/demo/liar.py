"""An operator who lies: she changes, in the database of her own home, which devices a user has, without saying that
anything changed. She has the home's signing key, so the home signs that, too."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tillie.crypto import agree, sign
from tillie.demo.home import PrivateHome
from tillie.directory import statements
from tillie.directory.matrix import V1, write_device_keys
from tillie.model import Address
from tillie.wire import canonical


def swap_device(home: PrivateHome, user: Address, device: str) -> bytes:
    """Give a device of a user other keys, under the number that the true list had. Her Ed25519 key (32 bytes). For a
    home that is stopped."""
    seed, ed25519 = sign.generate()
    _, curve25519 = agree.generate()
    keys = write_device_keys(V1, user, device, curve25519, seed)
    with closing(sqlite3.connect(home.database)) as database, database:
        database.execute(
            "UPDATE device_keys SET json = ? WHERE user_id = ? AND device_id = ?",
            (canonical.encode(keys), user, device),
        )
        sequence, time = database.execute(
            "SELECT sequence, seen_ts FROM statements WHERE user_id = ? ORDER BY sequence DESC", (user,)
        ).fetchone()
        said = statements.unsigned(user, sequence, time / 1000, {device: keys}).source
        database.execute(
            "UPDATE statements SET hash = ?, json = ? WHERE user_id = ? AND sequence = ?",
            (statements.map_hash({device: keys}), canonical.encode(said), user, sequence),
        )
    return ed25519
