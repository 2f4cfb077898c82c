"""Ann of a.test writes to Bob of b.test: what homes send each other."""

from __future__ import annotations

from typing import Any

A, B = "a.test", "b.test"
BOB = f"@bob:{B}"
SEND = "/_matrix/federation/v1/send/"


def message(id: str = "m1", **more: Any) -> dict[str, Any]:
    """An m.direct_to_device; its content has the id as `n`."""
    content = {"sender": f"@ann:{A}", "type": "m.test", "message_id": id, "messages": {BOB: {"B": {"n": id}}}}
    return {"edu_type": "m.direct_to_device", "content": {**content, **more}}


async def received(bob: Any) -> list[Any]:
    """`n` of all messages that wait for a device."""
    return [each["content"].get("n") for each in (await bob.sync()).get("to_device", {}).get("events", [])]
