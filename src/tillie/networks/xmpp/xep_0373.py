"""XEP-0373 (OpenPGP for XMPP) as a slixmpp plugin: our keys, those of others, and content elements for any profile.

    client.register_plugin("xep_0373", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0373")

Messages are sealed with xep_0374. Options, methods and events are in docs/xmpp.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from slixmpp.plugins import BasePlugin
from slixmpp.plugins.base import register_plugin
from slixmpp.stanza import Iq, Message, Presence

from tillie.directory import openpgp as directory
from tillie.errors import Malformed, NoRecipients, NotTrusted, Rejected, UsageError
from tillie.model import Address, Content, Device, Done, Fetch, Fetched, Need, Publication, Sealed, State, Target, Time
from tillie.networks.xmpp.core import OPTIONS, core_of
from tillie.networks.xmpp.incoming import Reader
from tillie.schemes.openpgp import Form, KeyInfo, OpenedContent, OpenPgp
from tillie.schemes.openpgp import backup as key_backup
from tillie.trust import decisions
from tillie.wire import address

T = TypeVar("T")


class XEP_0373(BasePlugin):
    """OpenPGP for one client. An `<openpgp>` in a message is opened, whichever other plugins are registered."""

    name = "xep_0373"
    description = "XEP-0373: OpenPGP for XMPP"
    dependencies: ClassVar[set[str]] = {"xep_0163"}
    default_config: ClassVar[dict[str, Any]] = {**OPTIONS, "generate": False}

    def plugin_init(self) -> None:
        self.core = core_of(self)
        self.scheme = OpenPgp(self.core.account, generate=self.generate)
        self.core.use(self.scheme)
        self._reader = Reader(self.core.account, dict.fromkeys(self.scheme.tags, self.scheme.name))

    def plugin_end(self) -> None:
        self.core.leave(self, self.scheme)

    async def close(self) -> None:
        """Stop working, and close the store unless the program opened it. The client should be disconnected."""
        await self.core.close()

    # -- our keys (section 4) -----------------------------------------------------------------------------------------

    async def keys_of(self, jid: object) -> list[KeyInfo]:
        """What an account announces, freshly asked for, and what its keys say; for our own, those that are here, too.
        Raises `Rejected` if its server does not tell."""
        who = address.parse(str(jid)).bare
        problem = await self._ask_for_list(who)
        if problem:
            raise Rejected(f"It does not tell which keys {who} announces.", condition=problem)
        await self.core.engine.drive(lambda s: _without_value(self.scheme.certificates(s, who, self._now())))
        return await self._run(lambda s, now: Done(self.scheme.keys(s, who, now)))

    async def _ask_for_list(self, who: Address) -> str:
        ask = Fetch(who, directory.LIST_NODE)
        try:
            fact = await self.core.network.fetch(ask)
        except Rejected as error:
            fact = Fetched(who, ask.node, "", None, error.condition)
        await self.core.engine.learn(fact)
        return "" if fact.error == "item-not-found" else fact.error

    async def generate_key(self, *, another: bool = False) -> Device:
        """Make a key pair and announce it. Raises `UsageError` if the account has one already, here or elsewhere,
        unless `another` is wanted: contacts would seal for both."""
        known = [key for key in await self.keys_of(self.core.account) if not key.revoked]
        if known and not another:
            where = "here" if known[0].held else "on another device: restore its backup"
            raise UsageError(f"This account has an OpenPGP key {where}.")
        return await self._run(self.scheme.generate)

    async def import_keys(self, data: bytes, passphrase: str = "") -> tuple[Device, ...]:
        """Take in the key pairs that GnuPG or another program exported, and announce them. Raises `UsageError`."""
        return await self._run(lambda s, now: self.scheme.import_keys(s, data, passphrase, now))

    async def announce_key(self, fingerprint: bytes) -> None:
        """Announce a key pair of ours, again or after `retract_key`: its certificate, then the list (section 4.1)."""
        await self._run(lambda s, now: self.scheme.announce(s, fingerprint, now))

    async def retract_key(self, fingerprint: bytes) -> None:
        """Take a key off our list without revoking it: one that is here, or one that another device left."""
        await self._run(lambda s, now: self.scheme.retract(s, fingerprint, now))

    async def revoke_key(self, fingerprint: bytes) -> None:
        """Revoke a key pair of ours for good, publish that, and take it off the list."""
        await self._run(lambda s, now: self.scheme.revoke(s, fingerprint, now))

    # -- their backup (section 5) -------------------------------------------------------------------------------------

    async def back_up_keys(self) -> str:
        """Keep our key pairs at our own server, sealed, in a node that only we may read. The code that opens them, of
        24 characters: nobody else has it."""
        code = self.scheme.new_code()
        payload = await self._run(lambda s, now: Done(self.scheme.backup(s, code)))
        publication = Publication(directory.SECRET_NODE, directory.LIST_ITEM, payload, key_backup.OPTIONS)
        await self.core.network.publish(publication)
        return code

    async def restore_keys(self, code: str) -> tuple[Device, ...]:
        """Take in the key pairs that `back_up_keys` left, here or on another device, and announce them. Raises
        `UsageError` on a wrong code and if there is no backup, and then nothing has changed."""
        try:
            found = await self.core.network.fetch(Fetch(self.core.account, directory.SECRET_NODE))
        except Rejected as error:
            found = Fetched(self.core.account, directory.SECRET_NODE, "", None, error.condition)
        payload = found.payload
        if payload is None:
            raise UsageError("There is no backup of OpenPGP keys at our server.")
        return await self._run(lambda s, now: self.scheme.restore(s, payload, code, now))

    # -- content elements (section 3) ---------------------------------------------------------------------------------

    async def seal_content(self, jid: object, content: bytes, form: Form = Form.SIGNCRYPT) -> Sealed:
        """An `<openpgp>` for somebody, with any elements as its payload: for programs that define a profile of their
        own. It is not sent. Raises as `send_sealed` of xep_0374 does."""
        to = address.parse(str(jid))
        if form is Form.SIGNCRYPT:
            return await self.core.engine.seal(to, Content(content), scheme=self.scheme.name)
        return await self._run(lambda s, now: self._seal_content(s, Content(content), to, form, now))

    def _seal_content(self, s: State, content: Content, to: Address, form: Form, now: Time) -> Done[Sealed] | Need:
        if form is Form.SIGN:
            return self.scheme.seal_content(s, form, content, Target(to, ()), now)
        found = self.scheme.devices(s, to, now)
        if isinstance(found, Need):
            return found
        judged = decisions.judge(s, self.core.engine.policy.strict, found[0], now)
        if not any(device.address == to.bare for device in judged.trusted):
            if judged.undecided:
                raise NotTrusted(str(to.bare), devices=judged.undecided)
            raise NoRecipients(f"No key of {to.bare} can be used.")
        return self.scheme.seal_content(s, form, content, Target(to, judged.trusted, found[1]), now)

    async def open_content(self, stanza: Message | Presence | Iq) -> OpenedContent:
        """What the `<openpgp>` of a stanza holds, of whatever form, checked against the stanza. Trust in the signer,
        and whether it was seen before, are yours to check. Raises a PeerError."""
        incoming = self._reader.sealed(stanza.xml)
        if incoming is None or incoming.ambiguous:
            raise Malformed("There is not exactly one <openpgp> that could be opened.")
        arrived = incoming.arrived
        return await self._run(lambda s, now: self.scheme.open_content(s, arrived, now))

    async def _run(self, step: Callable[[State, Time], Done[T] | Need]) -> T:
        return await self.core.engine.drive(lambda s: step(s, self._now()))

    def _now(self) -> Time:
        return time.time()


def _without_value(out: object) -> Done[None] | Need:
    return out if isinstance(out, Need) else Done(None)


register_plugin(XEP_0373)
