"""Registration, login, devices (client-server API, "Client Authentication", "Account registration", "Device
Management"), and what everybody may ask: versions, .well-known, health."""

from __future__ import annotations

import unicodedata
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tillie.directory.matrix import new_device_id
from tillie.errors import InvalidAddress
from tillie.home import accounts, interactive
from tillie.home.accounts import Who
from tillie.home.answers import Refused, answer, strict_body
from tillie.home.limits import LOGINS_ADDRESS
from tillie.home.service import Home
from tillie.model import Address
from tillie.wire import matrix
from tillie.wire.canonical import Object

T = TypeVar("T")

MAX_BODY = 64 << 10  # bytes
MIN_PASSWORD = 8  # characters
MAX_PASSWORD = 512
MAX_NAME = 100  # characters of a device's display name
MAX_REMOVED = 1_000  # devices in one request
# 1.1 has /v3, 1.2 fallback keys, 1.7 transaction ids by device, 1.13 one-time keys in the order of uploads.
VERSIONS = [f"v1.{minor}" for minor in range(1, 14)]

_FORBIDDEN = "The name or the password is wrong."


class Identifier(msgspec.Struct):
    type: str = ""
    user: str = ""


class Login(msgspec.Struct):
    type: str
    identifier: Identifier | None = None
    user: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None


class Registration(msgspec.Struct):
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False


class Rename(msgspec.Struct):
    display_name: str | None = None


class Removal(msgspec.Struct):
    devices: list[str]


class PasswordStage(msgspec.Struct):
    identifier: Identifier | None = None
    user: str | None = None
    password: str = ""


def routes(home: Home) -> list[Route]:
    door = _Accounts(home)
    client = "/_matrix/client"

    def route(method: str, path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, handler, methods=[method])

    return [
        route("GET", "/health", door.health),
        route("GET", "/.well-known/matrix/client", door.well_known_client),
        route("GET", "/.well-known/matrix/server", door.well_known_server),
        route("GET", f"{client}/versions", door.versions),
        route("GET", f"{client}/v3/login", door.flows),
        route("POST", f"{client}/v3/login", door.login),
        route("POST", f"{client}/v3/register", door.register),
        route("GET", f"{client}/v3/register/available", door.available),
        route("POST", f"{client}/v3/logout", door.logout),
        route("POST", f"{client}/v3/logout/all", door.logout_all),
        route("GET", f"{client}/v3/account/whoami", door.whoami),
        route("GET", f"{client}/v3/devices", door.devices),
        route("GET", f"{client}/v3/devices/{{device_id}}", door.device),
        route("PUT", f"{client}/v3/devices/{{device_id}}", door.rename),
        route("DELETE", f"{client}/v3/devices/{{device_id}}", door.remove),
        route("POST", f"{client}/v3/delete_devices", door.remove_several),
    ]


class _Accounts:
    def __init__(self, home: Home) -> None:
        self._home = home

    # -- for everybody ------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """503 while the last commit could not be made."""
        self._home.db.read(lambda conn: conn.execute("SELECT 1 FROM users LIMIT 1").fetchone())
        is_well = not self._home.db.fault
        return answer({"status": "ok" if is_well else "unwritable"}, 200 if is_well else 503)

    async def well_known_client(self, request: Request) -> Response:
        if not self._home.config.public_url:
            raise Refused(404, "M_NOT_FOUND", "This home does not say where clients find it.")
        return answer({"m.homeserver": {"base_url": self._home.config.public_url}})

    async def well_known_server(self, request: Request) -> Response:
        if not self._home.config.federation_name:
            raise Refused(404, "M_NOT_FOUND", "This home is found by its name.")
        return answer({"m.server": self._home.config.federation_name})

    async def versions(self, request: Request) -> Response:
        return answer({"versions": VERSIONS, "unstable_features": {}})

    # -- login --------------------------------------------------------------------------------------------------------

    async def flows(self, request: Request) -> Response:
        return answer({"flows": [{"type": interactive.PASSWORD}]})

    async def login(self, request: Request) -> Response:
        asked = _typed(await strict_body(request, MAX_BODY), Login)
        if asked.type != interactive.PASSWORD:
            raise Refused(400, "M_UNKNOWN", "Bad login type: this home knows passwords only.")
        if asked.password is None or (asked.identifier is None and asked.user is None):
            raise Refused(400, "M_MISSING_PARAM", "Name or password is missing.")
        user = self._user(asked.identifier, asked.user)
        device, name = _new_device(asked.device_id, asked.initial_device_display_name)
        address = self._home.address(request)
        self._home.limit(LOGINS_ADDRESS, address)
        if user is None or not await self._is_password(user, asked.password, address):
            raise Refused(403, "M_FORBIDDEN", _FORBIDDEN)
        return answer(await self._log_in(user, device, name))

    async def logout(self, request: Request) -> Response:
        who = await self._home.who(request)
        await self._remove(who.user, [who.device])
        return answer({})

    async def logout_all(self, request: Request) -> Response:
        who = await self._home.who(request)
        rows = self._home.db.read(lambda conn: accounts.devices(conn, who.user))
        await self._remove(who.user, [row.device for row in rows])
        return answer({})

    async def whoami(self, request: Request) -> Response:
        who = await self._home.who(request)
        return answer({"user_id": who.user, "device_id": who.device, "is_guest": False})

    # -- registration -------------------------------------------------------------------------------------------------

    async def available(self, request: Request) -> Response:
        self._home.limit("registrations", self._home.address(request))
        name = request.query_params.get("username")
        if name is None:
            raise Refused(400, "M_MISSING_PARAM", "The name is missing.")
        self._new_user(name)
        return answer({"available": True})

    async def register(self, request: Request) -> Response:
        if not self._home.config.registration or request.query_params.get("kind", "user") != "user":
            raise Refused(403, "M_FORBIDDEN", "Nobody can register here; ask whoever runs this home.")
        body = await strict_body(request, MAX_BODY)
        wanted = _typed(body, Registration)
        user = self._new_user(wanted.username) if wanted.username is not None else None
        device, name = _new_device(wanted.device_id, wanted.initial_device_display_name)
        asked = interactive.Request("", "POST", "register", body)
        self._home.interactive.check(interactive.DUMMY, asked)
        self._home.limit("registrations", self._home.address(request))
        if user is None:
            user = self._new_user(f"u{new_device_id().lower()}")
        hashed = await self._home.passwords.hash(_new_password(wanted.password))
        if not await self._home.db.write(lambda conn: accounts.add_user(conn, user, hashed, self._home.now())):
            raise _in_use()
        if wanted.inhibit_login:
            return answer({"user_id": user})
        return answer(await self._log_in(user, device, name))

    # -- devices ------------------------------------------------------------------------------------------------------

    async def devices(self, request: Request) -> Response:
        who = await self._home.who(request)
        rows = self._home.db.read(lambda conn: accounts.devices(conn, who.user))
        return answer({"devices": [_shown(row) for row in rows]})

    async def device(self, request: Request) -> Response:
        who, wanted = await self._home.who(request), request.path_params["device_id"]
        rows = self._home.db.read(lambda conn: accounts.devices(conn, who.user))
        for row in rows:
            if row.device == wanted:
                return answer(_shown(row))
        raise _no_device()

    async def rename(self, request: Request) -> Response:
        who, wanted = await self._home.who(request), request.path_params["device_id"]
        name = _display_name(_typed(await strict_body(request, MAX_BODY), Rename).display_name)
        self._home.limit("uploads", who.user)
        now = self._home.now()
        change = await self._home.db.write(lambda conn: accounts.rename(conn, who.user, wanted, name, now))
        if change is None:
            raise _no_device()
        self._home.tell(change)
        return answer({})

    async def remove(self, request: Request) -> Response:
        who, wanted = await self._home.who(request), request.path_params["device_id"]
        body = await strict_body(request, MAX_BODY, may_be_empty=True)
        await self._confirm(who, request, f"devices/{wanted}", body)
        await self._remove(who.user, [wanted])
        return answer({})

    async def remove_several(self, request: Request) -> Response:
        who = await self._home.who(request)
        body = await strict_body(request, MAX_BODY)
        wanted = _typed(body, Removal).devices
        if len(wanted) > MAX_REMOVED:
            raise Refused(400, "M_TOO_LARGE", f"A request removes at most {MAX_REMOVED} devices.")
        await self._confirm(who, request, "delete_devices", body)
        await self._remove(who.user, wanted)
        return answer({})

    # -- steps --------------------------------------------------------------------------------------------------------

    def _user(self, identifier: Identifier | None, user: str | None) -> Address | None:
        """Who is meant by an id or a localpart; None if that can't be a user of this home."""
        if identifier is not None:
            if identifier.type != "m.id.user":
                raise Refused(400, "M_UNKNOWN", "This home knows users by their names only.")
            user = identifier.user
        try:
            found = matrix.parse_user_id(user if user and user.startswith("@") else f"@{user}:{self._home.server}")
        except InvalidAddress:
            return None
        return found if self._home.is_local(found) else None

    def _new_user(self, localpart: str) -> Address:
        """Raises `Refused`: M_INVALID_USERNAME, M_USER_IN_USE."""
        try:
            user = matrix.new_user_id(localpart, self._home.server)
        except InvalidAddress as error:
            raise Refused(400, "M_INVALID_USERNAME", error.detail) from None
        if self._home.db.read(lambda conn: accounts.password_hash(conn, user)) is not None:
            raise _in_use()
        return user

    async def _is_password(self, user: Address, password: str, address: str) -> bool:
        # By both: counted by user alone, a stranger who guesses on purpose would lock the user out.
        self._home.limit("logins", f"{user} {address}")
        hashed = self._home.db.read(lambda conn: accounts.password_hash(conn, user))
        return await self._home.passwords.matches(hashed, password)

    async def _confirm(self, who: Who, request: Request, path: str, body: Object) -> None:
        """Ask for the user's password. Raises `interactive.Challenge` until it is right."""
        asked = interactive.Request(who.user, request.method, path, body)
        auth = self._home.interactive.check(interactive.PASSWORD, asked)
        stage = _typed(auth, PasswordStage)
        address = self._home.address(request)
        if self._user(stage.identifier, stage.user) != who.user or not await self._is_password(
            who.user, stage.password, address
        ):
            raise self._home.interactive.begin(interactive.PASSWORD, asked, "M_FORBIDDEN", _FORBIDDEN)

    async def _log_in(self, user: Address, device: str, name: str | None) -> dict[str, str]:
        now = self._home.now()
        done = await self._home.db.write(lambda conn: accounts.log_in(conn, user, device, name, now))
        if done is None:
            raise Refused(403, "M_FORBIDDEN", f"You have {accounts.MAX_DEVICES} devices; remove one first.")
        self._home.tell(done.change)
        return {"user_id": user, "access_token": done.token, "device_id": device, "home_server": self._home.server}

    async def _remove(self, user: Address, devices: list[str]) -> None:
        now = self._home.now()
        self._home.tell(await self._home.db.write(lambda conn: accounts.remove_devices(conn, user, devices, now)))
        self._home.waiters.wake(user)  # whoever waits on a device that is gone


def _typed(value: Object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Refused(400, "M_BAD_JSON", f"The request does not have the right members: {error}") from None


def _new_device(device: str | None, name: str | None) -> tuple[str, str | None]:
    if device is None:
        device = new_device_id()
    elif not matrix.is_device_id(device) or ":" in device:
        # "algorithm:device" names its keys, and servers split that at any colon.
        raise Refused(400, "M_INVALID_PARAM", "A device id has 1 to 255 printable characters, no colon, and is not *.")
    return device, _display_name(name)


def _display_name(name: str | None) -> str | None:
    """Everybody sees it, also on terminals."""
    if name is not None and (len(name) > MAX_NAME or any(unicodedata.category(each) == "Cc" for each in name)):
        raise Refused(400, "M_INVALID_PARAM", f"A name has at most {MAX_NAME} characters, and no control characters.")
    return name


def _new_password(password: str | None) -> str:
    if password is None:
        raise Refused(400, "M_MISSING_PARAM", "The password is missing.")
    if len(password) < MIN_PASSWORD:
        raise Refused(400, "M_WEAK_PASSWORD", f"A password has at least {MIN_PASSWORD} characters.")
    if len(password) > MAX_PASSWORD:
        raise Refused(400, "M_INVALID_PARAM", f"A password has at most {MAX_PASSWORD} characters.")
    return password


def _shown(row: accounts.DeviceRow) -> dict[str, Any]:
    return {"device_id": row.device} | ({"display_name": row.name} if row.name is not None else {})


def _in_use() -> Refused:
    return Refused(400, "M_USER_IN_USE", "Somebody has that name already.")


def _no_device() -> Refused:
    return Refused(404, "M_NOT_FOUND", "You have no such device.")
