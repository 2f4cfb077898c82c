"""Logging in to a homeserver, and to the same device each time."""

from __future__ import annotations

from dataclasses import dataclass, field

import aiohttp

from tillie.directory.matrix import V1, Profile, new_device_id
from tillie.engine import Engine
from tillie.errors import AuthenticationFailed, NoProgress, PasswordNeeded, StoreMismatch
from tillie.model import Address, Done, Need, State
from tillie.networks.matrix import answers, discovery, records
from tillie.networks.matrix.api import Api, LoggedOut, Refusal
from tillie.networks.matrix.records import Kept
from tillie.schemes.olm import contacts, own
from tillie.store import Store
from tillie.wire.display import printable


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom. `password` may be "" where a token is kept; `homeserver` is the base URL of its client API, ""
    where the server's name tells; `profile` which kind of keys this account publishes; `ca_file` a PEM file of the only
    authority that is trusted then; `label` what other devices may call this one."""

    address: Address
    password: str = field(repr=False)
    homeserver: str = ""
    profile: Profile = V1
    ca_file: str = ""
    label: str = ""


async def authenticate(login: Login, http: aiohttp.ClientSession, engine: Engine, api: Api) -> str:
    """Make `api` one that is logged in, with the token of the last login or with the password; our device's id, to
    which the store is bound from now on. Raises `AuthenticationFailed`, `StoreMismatch`, `Unreachable`, `Rejected`."""
    kept = stored(engine.store)
    given = discovery.base_url(login.homeserver) if login.homeserver else ""
    # A token goes to the homeserver that gave it, whatever the settings, or a website, say now.
    if kept.token and given in ("", kept.base):
        api.base, api.token = kept.base, kept.token
        if await _is_valid(login, api, kept):
            return await _bound(engine, login, kept)
    else:
        api.base, api.token = await discovery.find(http, login.address.domain, given), ""
    return await _bound(engine, login, await log_in(login, engine, api, kept.device))


def stored(store: Store) -> Kept:
    """The login that is kept; a new device's, without a token, if there is none."""
    out = store.run(lambda s: Done(_kept_or_new(s)))
    if isinstance(out, Need):
        raise NoProgress
    return out.value


def _kept_or_new(s: State) -> Kept:
    kept = records.load_login(s)
    if kept is None:
        mine = own.load(s)
        kept = Kept(mine.device if mine is not None else new_device_id())
        records.save_login(s, kept)
    return kept


async def _bound(engine: Engine, login: Login, kept: Kept) -> str:
    def step(s: State) -> Done[None]:
        own.bind(s, kept.device, login.profile)
        return Done(None)

    await engine.drive(step)
    return kept.device


async def _is_valid(login: Login, api: Api, kept: Kept) -> bool:
    """Whether the token is good, and for us; False if we are to log in again. Raises `LoggedOut` if the device is
    gone."""
    try:
        answer = await api.whoami()
    except LoggedOut as error:
        if error.soft:
            return False
        raise gone(login.address, kept.device) from None
    _require_us(login.address, kept.device, answer.get("user_id"), answer.get("device_id"))
    return True


def gone(account: Address, device: str) -> LoggedOut:
    """Somebody removed our device at the homeserver. Keys and history stay: they are the person's, not the server's."""
    error = LoggedOut(f"It was device {device}.", soft=False)
    error.hint = f"'tillie account password --account {account}' logs it in again; its keys and history are still here."
    return error


async def log_in(login: Login, engine: Engine, api: Api, device: str) -> Kept:
    """Log in with the password, to this device, and keep the token. Raises `AuthenticationFailed`, ..."""
    if not login.password:
        raise PasswordNeeded
    try:
        answer = await api.log_in(login.address, login.password, device, login.label)
    except LoggedOut as error:
        raise AuthenticationFailed(error.detail) from None
    except Refusal as error:
        if error.status == 403:
            raise AuthenticationFailed(error.detail) from None
        raise
    _require_us(login.address, device, answer.get("user_id"), answer.get("device_id"))
    kept = Kept(device, api.base, answers.text(answer, "access_token", max_length=8_192))

    def step(s: State) -> Done[None]:
        records.save_login(s, kept)
        # The device may have been removed, and be there again without its keys.
        contacts.mark_stale(s, login.address, engine.now())
        return Done(None)

    # Not through the engine, which would flush: whatever is under way waits for this login.
    engine.store.run(step)
    api.token = kept.token
    return kept


def _require_us(account: Address, device: str, user_id: object, device_id: object) -> None:
    if user_id != account:
        name = user_id if isinstance(user_id, str) else ""
        raise StoreMismatch(f"The homeserver knows us as {printable(name)}, not as {account}.")
    if device_id != device:
        raise StoreMismatch(f"The homeserver does not know us as device {device}.")
