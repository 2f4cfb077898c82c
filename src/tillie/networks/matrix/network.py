"""The engine's `Network` on Matrix: messages to devices, and the directory of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tillie.directory.matrix import DRAFT2015, KEYS_CLAIM, KEYS_QUERY, KEYS_UPLOAD, Profile
from tillie.engine import Engine
from tillie.errors import Unreachable, UsageError
from tillie.model import Fetch, Fetched, Publication, Send
from tillie.networks.matrix import answers
from tillie.networks.matrix.api import Api, LoggedOut, Refusal
from tillie.wire import canonical

T = TypeVar("T")

ENCRYPTED = "m.room.encrypted"


class MatrixNetwork:
    """Carries sealed elements to one homeserver. Set `engine` before the first use, and `renew`, which logs in again
    when the homeserver wants that and keeps our device. `interrupted` counts how often the homeserver was away,
    `failed` is set then; `uploaded` counts uploads of keys."""

    engine: Engine

    def __init__(self, api: Api, profile: Profile) -> None:
        self.api = api
        self.interrupted = 0
        self.failed = asyncio.Event()
        self.uploaded = 0
        self.device = ""
        self.renew: Callable[[str], Awaitable[None]] | None = None
        self._profile = profile

    async def send(self, item: Send) -> None:
        """Send a finished request. Its id is the transaction's: a repeat is the same message. Raises `Rejected` for
        what the homeserver will never take."""
        try:
            await self.call(lambda: self.api.send_to_device(ENCRYPTED, item.id, item.stanza))
        except Refusal as error:
            if error.may_pass:
                self.failed.set()
                raise Unreachable(error.detail) from None
            raise
        await self.engine.acknowledged(item.id)

    async def fetch(self, ask: Fetch) -> Fetched:
        """Somebody's devices, or one-time keys for some of them. A server that fails is an answer without payload."""
        if ask.node == KEYS_QUERY:
            answer = await self.call(lambda: self.api.query_keys(self._profile.path, ask.address))
            found = answers.child(answer, "device_keys", ask.address)
        elif ask.node == KEYS_CLAIM:
            devices = dict.fromkeys(canonical.parse(ask.item.encode()), self._profile.one_time)
            answer = await self.call(lambda: self.api.claim_keys(self._profile.path, ask.address, devices))
            found = answers.child(answer, "one_time_keys", ask.address)
        else:
            raise UsageError("There is no such thing on Matrix.", hint="Nodes and OpenPGP keys are for XMPP accounts.")
        failure = answer.get("failures")
        if not found and isinstance(failure, dict) and ask.address.domain in failure:
            return Fetched(ask.address, ask.node, ask.item, None, _why(failure[ask.address.domain]))
        return Fetched(ask.address, ask.node, ask.item, answers.sound(found))

    async def publish(self, publication: Publication) -> None:
        if publication.node != KEYS_UPLOAD:
            raise UsageError("Only keys are published on Matrix.")
        device = self.device if self._profile == DRAFT2015 else ""  # it has the device in the path
        await self.call(lambda: self.api.upload_keys(self._profile.path, publication.payload, device))
        self.uploaded += 1

    async def call(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request, and once more if the homeserver wants us to log in to our device anew."""
        token = self.api.token
        try:
            return await request()
        except Unreachable:
            self.interrupted += 1
            self.failed.set()
            raise
        except LoggedOut as error:
            if not error.soft or self.renew is None:
                raise
        await self.renew(token)
        return await request()


def _why(failure: object) -> str:
    """What our homeserver says of another one, in one word: its own words are for its operator."""
    code = failure.get("errcode") if isinstance(failure, dict) else None
    return code if isinstance(code, str) and code.isascii() and code.isidentifier() else "remote-server-timeout"
