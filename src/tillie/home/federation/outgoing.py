"""EDUs that wait for another server: the queue, as steps on the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tillie.home.database import Connection


def enqueue(conn: Connection, server: str, edu: Mapping[str, Any], now: int) -> None:
    """Put an EDU behind those that wait for a server, in the transaction of what it tells. `now` in milliseconds."""
    conn.execute(
        """
        INSERT INTO outgoing (server, position, json, created_ts)
        SELECT ?, COALESCE(MAX(position), 0) + 1, ?, ? FROM outgoing WHERE server = ?
        """,
        (server, msgspec.json.encode(edu), now, server),
    )
