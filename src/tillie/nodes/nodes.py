"""`Nodes`: what programs and the command line call. Each method says what it promises; the rooms beside it do it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

from tillie.engine import Engine
from tillie.model import Address, Time
from tillie.nodes import attaching, making, reading, sharing, writing
from tillie.nodes.attaching import Attachments
from tillie.nodes.ground import PUBLISHERS, WHITELIST, Ground, Progress, silent
from tillie.nodes.making import Converted
from tillie.nodes.service import Service
from tillie.nodes.sharing import Access, Delivered, Removed, Rotated
from tillie.nodes.workers import Workers
from tillie.nodes.writing import Published
from tillie.pubsub import hearing, secrets
from tillie.pubsub.attachments import Attachment
from tillie.pubsub.checking import Checked
from tillie.pubsub.hearing import Pending
from tillie.pubsub.items import Node, Reading
from tillie.pubsub.members import Role
from tillie.pubsub.secrets import Secret
from tillie.pubsub.statements import Reason


class Nodes:
    """One account's nodes, at whatever services. `close` it when the connection is.

    Methods raise `UsageError` and its kin for what can't be done as asked, `Rejected` with what a service's no means,
    `Unreachable`. What the writer of an item did wrong is never raised: it is the `kind` of its `Reading`.
    """

    def __init__(
        self,
        engine: Engine,
        service: Service,
        *,
        progress: Progress = silent,
        workers: int = 0,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.engine = engine
        self.service = service
        self._ground = Ground(engine, service, Workers(workers), pause)
        self._progress = progress
        self._asked: set[Node] = set()
        self._resumed = False

    async def close(self) -> None:
        """End the worker processes, if any was started."""
        await self._ground.workers.close()

    # -- nodes --------------------------------------------------------------------------------------------------------

    async def create(
        self,
        node: Node,
        *,
        encrypted: bool = True,
        type: str = "",
        access: str = WHITELIST,
        publish: str = PUBLISHERS,
        max_items: str = "max",
    ) -> Node:
        """Make a node, with a random name if it has none, and its first secret, unless its items are to be in clear.
        `type` says what its items are, in clear: only members get to know."""
        return await making.create(
            self._ground, node, encrypted=encrypted, type=type, access=access, publish=publish, max_items=max_items
        )

    async def convert(
        self, node: Node, *, type: str = "", access: str = WHITELIST, progress: Progress | None = None
    ) -> Converted:
        """Make an existing node of ours private. Items that are there stay as they are, and are reported."""
        return await making.convert(self._ground, node, type=type, access=access, progress=progress or self._progress)

    async def configure(self, node: Node, options: Mapping[str, str] = {}) -> dict[str, str]:
        """Change options ("pubsub#access_model" ...), and give all options as they are then."""
        return await making.configure(self._ground, node, options)

    async def delete(self, node: Node) -> None:
        """Delete a node and what is attached to its items. Its secrets stay here."""
        await making.delete(self._ground, node)

    async def names(self, service: Address) -> list[str]:
        """The names of the nodes that a service shows us."""
        return await self.service.nodes(service)

    # -- people -------------------------------------------------------------------------------------------------------

    async def members(self, node: Node) -> tuple[Access, ...]:
        """Who has access, by the service's list and by our records."""
        return await sharing.people(self._ground, node)

    async def share(
        self,
        node: Node,
        address: Address,
        *,
        role: Role = Role.READER,
        again: bool = False,
        progress: Progress | None = None,
    ) -> Delivered:
        """Give one person access: at the service, and with all secrets, one message for each. May be called again
        after it failed, or to change a role: what was sent is not sent twice, unless `again` says that she lost it."""
        return await sharing.share(self._ground, node, address, role, progress or self._progress, again=again)

    async def share_all(
        self,
        node: Node,
        addresses: Iterable[Address],
        *,
        role: Role = Role.READER,
        again: bool = False,
        progress: Progress | None = None,
    ) -> tuple[Delivered, ...]:
        """`share` with many; an error with one is in her report, and holds nobody else up."""
        return await sharing.share_all(self._ground, node, addresses, role, progress or self._progress, again=again)

    async def remove(
        self, node: Node, address: Address, *, reasons: tuple[Reason, ...] = (), progress: Progress | None = None
    ) -> Removed:
        """Take one person's access back, change the locks, and say what that can't undo."""
        return await sharing.remove(self._ground, node, address, reasons, progress or self._progress)

    # -- secrets ------------------------------------------------------------------------------------------------------

    async def secrets(self, node: Node) -> tuple[Secret, ...]:
        """The secrets of a node that we have, newest first."""
        return await self._ground.read(lambda s: secrets.secrets(s, node))

    async def pending(self, node: Node | None = None) -> tuple[tuple[Node, Pending], ...]:
        """Secrets and revocations that wait for a decision: of one node, or of all."""
        return await self._ground.read(lambda s: hearing.pending(s, node))

    async def rotate(
        self, node: Node, *, reasons: tuple[Reason, ...] = (), progress: Progress | None = None
    ) -> Rotated:
        """Change the locks: revoke all secrets of a node of ours, make a new one, send it to all members."""
        return await sharing.rotate(self._ground, node, reasons, progress or self._progress)

    async def revoke(
        self, node: Node, secret: str, *, reasons: tuple[Reason, ...] = (), progress: Progress | None = None
    ) -> Rotated:
        """Revoke one secret. If it was the last that seals, there is a new one."""
        return await sharing.revoke(self._ground, node, secret, reasons, progress or self._progress)

    async def accept(self, node: Node, sender: Address) -> int:
        """A person's decision: the secrets of this node come from `sender`. Returns how much is believed."""
        return await sharing.accept(self._ground, node, sender)

    async def refuse(self, node: Node, sender: Address) -> int:
        """A person's decision: forget what `sender` says of this node. Returns how much waited."""
        return await self._ground.read(lambda s: hearing.refuse(s, node, sender.bare))

    async def settle(self) -> int:
        """Look up who owns the nodes whose secrets wait, and believe what may be believed. To be called after login and
        when messages came; the first time it also sends what an interruption left due. Returns how much was believed.
        """
        if not self._resumed:
            self._resumed = True
            await sharing.resume(self._ground)
        return await sharing.settle(self._ground, self._asked)

    async def resume(self, node: Node, *, progress: Progress | None = None) -> tuple[Delivered, ...]:
        """Send what is still due at one node: what an interruption left, or what could not be sent for want of keys."""
        return await sharing.deliver(self._ground, node, progress or self._progress)

    # -- items --------------------------------------------------------------------------------------------------------

    async def publish(
        self,
        node: Node,
        payload: bytes,
        item_id: str = "",
        *,
        encrypt: bool | None = None,
        encrypt_for: Iterable[Address] = (),
        sign: bool = False,
        access: str | None = None,
    ) -> Published:
        """Publish one item, under a random id if it has none.

        `encrypt`: True seals it or raises; False publishes in clear, knowingly; None seals it if the node has secrets.
        `encrypt_for` seals it for these people alone (XEP-0477). `sign` attaches a signature (`unsigned` of the result
        says if that failed: the item is published then). `access` is the access model that the node must have, else
        nothing is published: by default as we configured it; "" does not ask.
        """
        return await writing.publish(
            self._ground, node, payload, item_id,
            encrypt=encrypt, encrypt_for=tuple(encrypt_for), sign=sign, access=access,
        )  # fmt: skip

    def items(
        self, node: Node, ids: Iterable[str] = (), *, limit: int | None = None, progress: Progress | None = None
    ) -> AsyncGenerator[Reading, None]:
        """Items as they are read, in the service's order, page by page: those with these ids, the newest `limit`, or
        all. Close it (`aclose`) to stop early; what is being opened is stopped, too."""
        return reading.items(self._ground, node, ids, limit, progress or self._progress)

    async def get(self, node: Node, item_id: str) -> Reading:
        """One item. Raises `Rejected` if there is none of this id."""
        return await reading.get(self._ground, node, item_id)

    async def retract(self, node: Node, item_id: str) -> None:
        """Take an item off its node, with what is attached to it. Who has read it has it."""
        await writing.retract(self._ground, node, item_id)

    def watch(self, node: Node) -> AsyncGenerator[Reading, None]:
        """What is published from now on, as it comes."""
        return reading.watch(self._ground, node)

    # -- attachments and signatures -----------------------------------------------------------------------------------

    async def sign(
        self, node: Node, item_id: str, *, also: Iterable[Address] = (), encrypt: bool | None = None
    ) -> Reading:
        """Sign an item as we read it, and attach the signature; what was signed is returned, to be shown. `also` names
        people who sign it, too, each for herself. The signature is sealed where the item is; False attaches it in clear
        all the same, and lets everybody who sees it test guesses of what the item says."""
        return await attaching.sign(self._ground, node, item_id, tuple(also), encrypt)

    async def check(self, node: Node, item_id: str, *, published: Time | None = None) -> Checked:
        """Check all signatures of an item."""
        return await attaching.check(self._ground, node, item_id, published=published)

    async def attachments(self, node: Node, item_id: str) -> Attachments:
        """What people attached to an item."""
        return await attaching.attached(self._ground, node, item_id)

    async def attach(
        self,
        node: Node,
        item_id: str,
        change: Callable[[tuple[Attachment, ...]], bytes],
        *,
        encrypt: bool | None = None,
    ) -> None:
        """Change what we attached to an item: `change` gets it, and gives the new element (`pubsub.attachments.replace`
        keeps the rest). Sealed if the node has secrets."""
        await attaching.attach(self._ground, node, item_id, change, sealed=encrypt)

    async def allow_attachments(self, node: Node, item_id: str) -> bool:
        """Make the place for attachments of an item, if the node is ours and there is none; whether there is one."""
        return await attaching.allow(self._ground, node, item_id)
