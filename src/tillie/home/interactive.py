"""User-interactive authentication (client-server API, "User-Interactive Authentication API"), with flows of one stage.

A session is bound to what was asked: the same user, method, path and members of the body, so that nobody can have one
thing confirmed and do another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from tillie.crypto.random import random_bytes
from tillie.home.answers import Refused
from tillie.wire import canonical
from tillie.wire.canonical import Object

MAX_SESSIONS = 5_000
SESSION_SECONDS = 600.0
PASSWORD = "m.login.password"
DUMMY = "m.login.dummy"


class Request(NamedTuple):
    """What is to be confirmed. `user` is "" where nobody is logged in."""

    user: str
    method: str
    path: str
    members: Object

    def digest(self) -> bytes:
        wanted = {name: each for name, each in self.members.items() if name != "auth"}
        return hashlib.sha256(canonical.encode([self.user, self.method, self.path, wanted])).digest()


class _Session(NamedTuple):
    digest: bytes
    until: float


class Challenge(Refused):
    """401: authenticate, and ask again. With `errcode` and `error` if that was tried and failed."""

    def __init__(self, stage: str, session: str, errcode: str = "", error: str = "") -> None:
        super().__init__(401, errcode, error)
        said = {"errcode": errcode, "error": error} if errcode else {}
        self.body: dict[str, Any] = {"flows": [{"stages": [stage]}], "params": {}, "session": session, **said}


class Interactive:
    """Sessions that are under way. They are forgotten at a restart: clients begin again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    def begin(self, stage: str, asked: Request, errcode: str = "", error: str = "") -> Challenge:
        """A new session, as the error that tells of it."""
        session, now = random_bytes(16).hex(), self._clock()
        while self._sessions and (
            len(self._sessions) >= MAX_SESSIONS or next(iter(self._sessions.values())).until <= now
        ):
            del self._sessions[next(iter(self._sessions))]
        self._sessions[session] = _Session(asked.digest(), now + SESSION_SECONDS)
        return Challenge(stage, session, errcode, error)

    def check(self, stage: str, asked: Request) -> Object:
        """The `auth` of a request, whose session fits and whose stage is the one there is; the session stays until
        `end`. A stage without a session may confirm the very request it comes with. Raises `Challenge`."""
        auth = asked.members.get("auth")
        if not isinstance(auth, dict) or not auth:
            raise self.begin(stage, asked)
        name = auth.get("session")
        if name is not None:
            found = self._sessions.get(name) if isinstance(name, str) else None
            if found is None or found.until <= self._clock():
                raise self.begin(stage, asked, "M_FORBIDDEN", "There is no such session, or it is over.")
            # A client may ask for the flows with an empty request, and fill it in when it answers.
            if found.digest not in (asked.digest(), asked._replace(members={}).digest()):
                raise self.begin(stage, asked, "M_FORBIDDEN", "That session is for another request.")
        if auth.get("type") != stage:
            raise self.begin(stage, asked, "M_FORBIDDEN", "That is no stage of the flow.")
        return auth

    def end(self, auth: Object) -> None:
        """A session served its purpose."""
        self._sessions.pop(auth.get("session") or "", None)
