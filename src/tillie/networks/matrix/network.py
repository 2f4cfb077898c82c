"""The engine's `Network` on Matrix: messages to devices, and the directory of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tillie.directory.matrix import DRAFT2015, KEYS_CLAIM, KEYS_QUERY, KEYS_UPLOAD, Profile
from tillie.engine import Engine
from tillie.errors import Rejected, Unreachable, UsageError
from tillie.model import Fetch, Fetched, Publication, Send
from tillie.networks.matrix import answers
from tillie.networks.matrix.api import Api, LoggedOut, Refusal
from tillie.wire import canonical

T = TypeVar("T")

ENCRYPTED = "m.room.encrypted"
_TRY_LATER = frozenset({408, 429, 502, 503, 504})  # no answer: a message that needs one is read again, not given up
_REFUSED_KEYS = (
    "It is asked again now and then. Until it takes them others may not be able to write to this device; if it never "
    "does, make a new one: 'tillie backup', then 'tillie account remove' and 'tillie restore'."
)


class MatrixNetwork:
    """Carries sealed elements to one homeserver. Set `engine` before the first use, and `renew`, which gets another
    token for our device where a token is not good any more, if it can. `interrupted` counts how often the homeserver
    was away, `failed` is set then; `uploaded` counts uploads of keys."""

    engine: Engine

    def __init__(self, api: Api, profile: Profile) -> None:
        self.api = api
        self.interrupted = 0
        self.failed = asyncio.Event()
        self.uploaded = 0
        self.device = ""
        self.renew: Callable[[str, LoggedOut], Awaitable[bool]] | None = None
        self._profile = profile

    async def send(self, item: Send) -> None:
        """Send a finished request. Its id is the transaction's: a repeat is the same message. Raises `Rejected` for
        what the homeserver will never take."""
        await self._deliver(lambda: self.api.send_to_device(ENCRYPTED, item.id, item.stanza))
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
        """Upload keys. Raises `Rejected` where the homeserver does not take them as they are."""
        if publication.node != KEYS_UPLOAD:
            raise UsageError("Only keys are published on Matrix.")
        device = self.device if self._profile == DRAFT2015 else ""  # it has the device in the path
        try:
            await self._deliver(lambda: self.api.upload_keys(self._profile.path, publication.payload, device))
        except Refusal as error:
            detail = f"It does not take this device's keys: {error.detail}"
            raise Rejected(detail, condition=error.condition, hint=_REFUSED_KEYS) from None
        self.uploaded += 1

    async def _deliver(self, request: Callable[[], Awaitable[object]]) -> None:
        """Make a request of which a repeat changes nothing: what may pass, and what only something before the
        homeserver can have answered, is tried again soon."""
        try:
            await self.call(request)
        except Rejected as error:
            if isinstance(error, Refusal) and not error.may_pass:
                raise
            self.failed.set()
            raise Unreachable(error.detail) from None

    async def call(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request, and once more with another token if there is one to be had."""
        token = self.api.token
        try:
            return await request()
        except (Unreachable, Refusal) as error:
            if isinstance(error, Refusal) and error.status not in _TRY_LATER:
                raise
            self.interrupted += 1
            self.failed.set()
            raise error if isinstance(error, Unreachable) else Unreachable(error.detail) from None
        except LoggedOut as error:
            if self.renew is None or not await self.renew(token, error):
                raise
        return await request()


def _why(failure: object) -> str:
    """What our homeserver says of another one, in one word: its own words are for its operator."""
    code = failure.get("errcode") if isinstance(failure, dict) else None
    return code if isinstance(code, str) and code.isascii() and code.isidentifier() else "remote-server-timeout"
