"""One account, logged in to its homeserver and kept there, for `client`.

Certificates and host names are checked; there is no way to turn that off.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from tillie.engine import TICK_INTERVAL, Engine
from tillie.errors import AuthenticationFailed, UsageError
from tillie.model import Done, Notice, State
from tillie.networks import USUAL, Options
from tillie.networks.matrix import login as logins
from tillie.networks.matrix import records
from tillie.networks.matrix.api import Api, LoggedOut, Refusal, open_session
from tillie.networks.matrix.listening import FIRST_PAUSE, LONGEST_PAUSE, Listener, told
from tillie.networks.matrix.login import Login
from tillie.networks.matrix.network import MatrixNetwork
from tillie.schemes.olm import Olm
from tillie.store import Store


class MatrixConnection:
    """An account's engine on its homeserver. It goes on by itself when the homeserver was away."""

    def __init__(self, login: Login, store: Store, options: Options) -> None:
        self._login = login
        self._options = options
        self._http = open_session(login.ca_file)
        self._api = Api(self._http, "", told=self._tell)
        self.network = MatrixNetwork(self._api, login.profile)
        self.engine = Engine(
            store,
            self.network,
            Olm(login.address, login.profile),
            policy=options.policy,
            decide=options.decide,
            notice=options.notice,
            history=options.history,
        )
        self.network.engine = self.engine
        self.network.renew = self._log_in_again
        self._listener = Listener(self.engine, self.network, options.notice)
        self._renewing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Log in, announce our device if it is new, and begin to read if we listen."""
        self.network.device = await logins.authenticate(self._login, self._http, self.engine, self._api)
        await self.engine.start(catching_up=self._options.listening)
        self._tasks.append(asyncio.ensure_future(self._keep()))
        if self._options.listening:
            self._tasks.append(asyncio.ensure_future(self._listener.listen()))

    async def caught_up(self, seconds: float) -> bool:
        """Whether, within so many seconds, all is in the store that came before we logged in; only if we listen."""
        try:
            async with asyncio.timeout(seconds):
                await self._listener.caught_up.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Leave. The store stays open: it belongs to whoever opened it. The device stays logged in."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    # -- what there is not on Matrix ----------------------------------------------------------------------------------

    @property
    def service(self) -> NoReturn:
        raise UsageError("There are no private nodes on Matrix.", hint="They need an XMPP account.")

    @property
    def sessions(self) -> NoReturn:
        raise UsageError(
            "There are no encrypted sessions on Matrix.",
            hint="'tillie send' and 'tillie chat' are encrypted without one; sessions need an XMPP account.",
        )

    # -- our devices --------------------------------------------------------------------------------------------------

    async def remove_device(self, device: str) -> bool:
        """Delete one of our devices at the homeserver, with its keys; False if it is not there. This one is logged out.
        Raises `AuthenticationFailed` if the password is wrong."""
        if device == self.network.device:
            await self.network.call(self._api.log_out)
            await self.engine.drive(_forgetting)
            return True
        user, password = self._login.address, self._login.password
        try:
            await self.network.call(lambda: self._api.delete_device(user, device, password))
        except Refusal as error:
            if error.status == 404:
                return False
            if error.status in (401, 403):
                raise AuthenticationFailed(error.detail) from None
            raise
        return True

    # -- going on -----------------------------------------------------------------------------------------------------

    async def _log_in_again(self, token: str, why: LoggedOut) -> bool:
        """A token is not good any more: take the one of another process of this account that has logged in since, or
        log in to our device again where the homeserver wants that; once for all requests that hear of it."""
        async with self._renewing:
            if self._api.token != token:
                return True
            kept = logins.stored(self.engine.store)
            if kept.token not in ("", token):
                self._api.base, self._api.token = kept.base, kept.token
                return True
            if why.soft:
                await logins.log_in(self._login, self.engine, self._api, self.network.device)
            return why.soft

    async def _keep(self) -> None:
        """What is due now and then; and when the homeserver was away, another try at what waits to go out."""
        pause = FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(TICK_INTERVAL):
                    await self.network.failed.wait()
                self.network.failed.clear()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except TimeoutError:
                pass
            try:
                await self.engine.tick()
            except Exception as error:  # noqa: BLE001  a fault of ours must not end this unheard
                self._tell(told(error))
            if not self.network.failed.is_set():
                pause = FIRST_PAUSE

    def _tell(self, text: str) -> None:
        self._options.notice(Notice(self._login.address, text))


def _forgetting(s: State) -> Done[None]:
    records.forget_token(s)
    return Done(None)


async def connect(login: Login, store: Store, options: Options = USUAL) -> MatrixConnection:
    """Log in and make the engine ready. `options.listening` reads what waited at the homeserver, and goes on reading.

    What is opened waits in the engine's inbox until the program acknowledges it. Raises `AuthenticationFailed`,
    `Unreachable`, `StoreMismatch`, `UsageError`, and what the store raises.
    """
    connection = MatrixConnection(login, store, options)
    try:
        await connection.open()
    except BaseException:
        await connection.close()
        raise
    return connection
