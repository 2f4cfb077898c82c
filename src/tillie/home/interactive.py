"""User-interactive authentication (client-server API, "User-Interactive Authentication API"), with flows of one stage.

A session is bound to what was asked: the same user, method, path and members of the body, so that nobody can have one
thing confirmed and do another.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tillie.crypto.random import random_bytes
from tillie.home.answers import Refused
from tillie.wire import canonical
from tillie.wire.canonical import Object

SESSION_SECONDS = 600.0
PASSWORD = "m.login.password"
DUMMY = "m.login.dummy"

_SESSION = re.compile(r"([0-9]{1,12})\.[0-9a-f]{64}")


class Request(NamedTuple):
    """What is to be confirmed. `user` is "" where nobody is logged in."""

    user: str
    method: str
    path: str
    members: Object

    def digest(self) -> bytes:
        wanted = {name: each for name, each in self.members.items() if name != "auth"}
        return hashlib.sha256(canonical.encode([self.user, self.method, self.path, wanted])).digest()


class Challenge(Refused):
    """401: authenticate, and ask again. With `errcode` and `error` if that was tried and failed."""

    def __init__(self, stage: str, session: str, errcode: str = "", error: str = "") -> None:
        super().__init__(401, errcode, error)
        said = {"errcode": errcode, "error": error} if errcode else {}
        self.body: dict[str, Any] = {"flows": [{"stages": [stage]}], "params": {}, "session": session, **said}


class Interactive:
    """Sessions that are under way. They are not kept, so that nobody's can be pushed out by a flood of others: a
    session's name says until when it holds, under a MAC over that and what was asked. They are over at a restart:
    clients begin again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._key = random_bytes(32)

    def begin(self, stage: str, asked: Request, errcode: str = "", error: str = "") -> Challenge:
        """A new session, as the error that tells of it."""
        return Challenge(stage, self._name(asked, int(self._clock() + SESSION_SECONDS)), errcode, error)

    def check(self, stage: str, asked: Request) -> Object:
        """The `auth` of a request, whose session fits and whose stage is the one there is. A stage without a session
        may confirm the very request it comes with. Raises `Challenge`."""
        auth = asked.members.get("auth")
        if not isinstance(auth, dict) or not auth:
            raise self.begin(stage, asked)
        name = auth.get("session")
        if name is not None and not self._fits(name, asked):
            raise self.begin(stage, asked, "M_FORBIDDEN", "That session is over, or for another request.")
        if auth.get("type") != stage:
            raise self.begin(stage, asked, "M_FORBIDDEN", "That is no stage of the flow.")
        return auth

    def _fits(self, name: object, asked: Request) -> bool:
        found = _SESSION.fullmatch(name) if isinstance(name, str) else None
        if found is None or int(found[1]) <= self._clock():
            return False
        # A client may ask for the flows with an empty request, and fill it in when it answers.
        empty = asked._replace(members={})
        return any(hmac.compare_digest(found[0], self._name(each, int(found[1]))) for each in (asked, empty))

    def _name(self, asked: Request, until: int) -> str:
        return f"{until}.{hmac.digest(self._key, until.to_bytes(8) + asked.digest(), 'sha256').hex()}"
