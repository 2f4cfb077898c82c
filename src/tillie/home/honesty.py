"""Whether homes tell everybody the same (`directory.statements`): what this home says of the devices of its own users,
what it heard others say of theirs, and the lies that this proves.

A statement of our own is kept before it is signed: the signature is made when it is shown, over what the change itself
has put down, so that there are never two for one sequence, and a new signing key signs old statements too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tillie.directory import statements
from tillie.directory.statements import Statement
from tillie.errors import BadSignature, Malformed
from tillie.home.database import Connection
from tillie.model import Address
from tillie.wire import base64, canonical
from tillie.wire.canonical import Object

if TYPE_CHECKING:
    from tillie.home.service import Signer

MAX_STATEMENTS = 10_000  # of one user, kept; the oldest go first
MAX_SAVED_BYTES = 16 << 20  # of a file that somebody saved


class Audit(NamedTuple):
    """What is known of the honesty of a user's home.

    `is_stating`: whether it signs statements at all; None: it was never asked. `seen` by sequence. `refused` says of
    statements that others saved why they don't count. Each of `lies` is a proof: one sequence, two device lists.
    """

    user: Address
    server: str
    is_stating: bool | None
    seen: tuple[Statement, ...]
    refused: tuple[str, ...]
    lies: tuple[tuple[Statement, Statement], ...]


# -- what homes say -------------------------------------------------------------------------------------------------


def state(conn: Connection, user: str, sequence: int, devices: Mapping[str, Object], now: int) -> None:
    """Put down what this home says of a user of its own, once for each sequence. `now` in milliseconds."""
    _keep(conn, statements.unsigned(Address(user), sequence, now / 1000, devices), now)


def own(conn: Connection, signer: Signer, user: str, sequence: int) -> Object | None:
    """Our statement on a user of ours, signed; None before the first change of the list."""
    row = conn.execute("SELECT json FROM statements WHERE user_id = ? AND sequence = ?", (user, sequence)).fetchone()
    return signer.sign(canonical.parse_object(row[0])) if row else None


def record(conn: Connection, statement: Statement, now: int) -> None:
    """Remember what another home said of a user of its own: its signature was checked."""
    _keep(conn, statement, now)


def is_recorded(conn: Connection, statement: Statement) -> bool:
    found = conn.execute(
        "SELECT 1 FROM statements WHERE user_id = ? AND sequence = ? AND hash = ?",
        (statement.user, statement.sequence, statement.hash),
    )
    return found.fetchone() is not None


def latest(conn: Connection, user: str, sequence: int) -> Object | None:
    """What the home of a user of another server said of this sequence, as it was signed."""
    row = conn.execute(
        "SELECT json FROM statements WHERE user_id = ? AND sequence = ? ORDER BY seen_ts DESC", (user, sequence)
    ).fetchone()
    return canonical.parse_object(row[0]) if row else None


def _keep(conn: Connection, statement: Statement, now: int) -> None:
    kept = conn.execute(
        "INSERT INTO statements (user_id, sequence, hash, json, seen_ts) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (user_id, sequence, hash) DO NOTHING",
        (statement.user, statement.sequence, statement.hash, canonical.encode(statement.source), now),
    )
    if kept.rowcount:
        conn.execute(
            """
            DELETE FROM statements WHERE user_id = ? AND sequence < (
                SELECT sequence FROM statements WHERE user_id = ? ORDER BY sequence DESC LIMIT 1 OFFSET ?
            )
            """,
            (statement.user, statement.user, MAX_STATEMENTS - 1),
        )


# -- the audit ------------------------------------------------------------------------------------------------------


def audit(conn: Connection, signer: Signer, user: Address, saved: Iterable[Object] = ()) -> Audit:
    """Hold what a user's home said against itself. `saved` are statements that others kept (`read_saved`); each counts
    only if the home's own key signed it."""
    server = user.partition(":")[2]
    keys = {signer.key_id: signer.public} if server == signer.server else _keys_of(conn, server)
    seen, refused = [], []
    for (json,) in conn.execute("SELECT json FROM statements WHERE user_id = ? ORDER BY sequence", (user,)).fetchall():
        said = canonical.parse_object(json)
        seen.append(statements.read(signer.sign(said) if server == signer.server else said, user))
    for each in saved:
        try:
            found = statements.read(each, user)
            statements.verify(found, server, keys)
            seen.append(found)
        except (Malformed, BadSignature) as error:
            refused.append(error.detail)
    seen.sort(key=lambda each: each.sequence)
    return Audit(user, server, _is_stating(conn, user, bool(seen)), tuple(seen), tuple(refused), statements.lies(seen))


def read_saved(data: bytes, user: Address) -> list[Object]:
    """The statements on one user in a file that somebody saved: an answer to keys/query, a statement, or one of either
    in each line. Raises `Malformed`."""
    try:
        texts = [canonical.parse(data, max_bytes=MAX_SAVED_BYTES)]
    except Malformed:
        texts = [canonical.parse(line, max_bytes=MAX_SAVED_BYTES) for line in data.splitlines() if line.strip()]
    found = []
    for each in texts:
        if not isinstance(each, dict):
            raise Malformed("a saved statement is not an object")
        said = each.get(statements.MEMBER, {str(each.get("user_id")): each})
        if isinstance(said, dict) and isinstance(said.get(user), dict):
            found.append(said[user])
    return found


def _keys_of(conn: Connection, server: str) -> dict[str, bytes]:
    """The signing keys of another server, as they were last fetched."""
    row = conn.execute("SELECT keys FROM servers WHERE server = ?", (server,)).fetchone()
    if not row or not row[0]:
        return {}
    return {key_id: base64.decode_unpadded(key, size=32) for key_id, key in msgspec.json.decode(row[0]).items()}


def _is_stating(conn: Connection, user: Address, was_seen: bool) -> bool | None:
    if was_seen:
        return True
    row = conn.execute("SELECT is_stated FROM remote_lists WHERE user_id = ?", (user,)).fetchone()
    return bool(row[0]) if row else None
