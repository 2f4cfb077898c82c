"""Publishing. What is asked to be sealed is sealed or not published: there is no way from one to the other.

Order: the item is sealed (and signed) first, in full, before a service hears anything. It is published with the access
model that the node should have as a precondition (XEP-0060 section 7.1.5), so that a node that somebody opened
meanwhile refuses it. Then it is remembered, and its signature attached.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import NamedTuple

from tillie.errors import Malformed, NetworkError, Rejected, TillieError, UsageError
from tillie.model import Address, Content, DeviceReport, Done, State
from tillie.nodes import attaching
from tillie.nodes.ground import ACCESS, WHITELIST, WRITING, Ground, explained, random_name, silent, wanted
from tillie.nodes.reading import TARGETED_SCHEME, items
from tillie.pubsub import hearing, sealing, secrets, targeted
from tillie.pubsub.items import Item, Node
from tillie.schemes.omemo import Omemo
from tillie.wire import xml


class Published(NamedTuple):
    """An item is at its service. `secret` is the id of the secret that sealed it, `report` says for which devices it
    was sealed (XEP-0477); it is in clear if both are empty. `signed`: a signature is attached; `unsigned` says why not,
    if one was asked for."""

    node: Node
    id: str
    secret: str = ""
    report: tuple[DeviceReport, ...] = ()
    signed: bool = False
    unsigned: TillieError | None = None

    @property
    def in_clear(self) -> bool:
        return not self.secret and not self.report


class _Ready(NamedTuple):
    """What goes to the service, and how it was sealed."""

    payload: bytes
    secret: str = ""
    report: tuple[DeviceReport, ...] = ()


async def publish(
    g: Ground,
    node: Node,
    payload: bytes,
    item_id: str,
    *,
    encrypt: bool | None,
    encrypt_for: tuple[Address, ...],
    sign: bool,
    access: str | None,
) -> Published:
    """Publish one item. See `Nodes.publish`."""
    payload = _require_payload(payload)
    known = await g.read(lambda s: secrets.known(s, node))
    waits = await g.read(lambda s: bool(hearing.pending(s, node)))
    private = bool(known.secrets or waits)
    if encrypt is None and not encrypt_for and not private:
        await _require_clear(g, node)
    ready = await _seal(g, node, payload, encrypt, encrypt_for, private=private)
    if sign and (private or ready.secret or ready.report):
        await attaching.require_secret(g, node)
    signature = await attaching.make_signature(g, node, payload) if sign else b""
    item_id = item_id or random_name()
    options = await _precondition(g, node, access, sealed=bool(ready.secret or ready.report))
    with explained(WRITING, node):
        item_id = await g.service.publish(node, Item(item_id, ready.payload), options)
    await g.write(lambda s: _remember(s, g, node, item_id, payload, ready))
    result = Published(node, item_id, ready.secret, ready.report)
    if not signature:
        return result
    try:
        await attaching.attach_signature(g, node, item_id, signature, sealed=private or not result.in_clear)
    except (NetworkError, UsageError) as error:
        return result._replace(unsigned=error)
    return result._replace(signed=True)


def _require_payload(payload: bytes) -> bytes:
    """One element, not sealed by anybody, in the one form in which it is signed, sealed and published."""
    try:
        root = xml.parse(payload)
    except Malformed as error:
        raise UsageError(f"The payload of an item is one XML element. {error.detail}") from None
    if root.tag in (sealing.ENCRYPTED, targeted.ENCRYPTED):
        raise UsageError("It is sealed already, and would be sealed twice.")
    return xml.serialise(root)


async def _require_clear(g: Ground, node: Node) -> None:
    """A new device, or a member whose secret has not come, knows of no secret of a private node. Raises `UsageError` if
    the newest item there is sealed, and nobody has said that this one is to be in clear."""
    try:
        async with aclosing(items(g, node, (), 1, silent)) as newest:
            sealed = [reading async for reading in newest if reading.secret]
    except Rejected:
        return  # there is no such node yet, or we may write and not read
    if sealed:
        raise UsageError(
            "It was not published: the items of this node are sealed, and there is no secret of it here.",
            hint="Its owner shares it with 'tillie pubsub secret share'; or say that it is to be in clear.",
        )


async def _seal(
    g: Ground, node: Node, payload: bytes, encrypt: bool | None, encrypt_for: tuple[Address, ...], *, private: bool
) -> _Ready:
    if encrypt_for:
        if encrypt is False:
            raise UsageError("It can't be in clear and sealed for somebody at once.")
        return await _seal_for(g, payload, tuple(dict.fromkeys(each.bare for each in encrypt_for)))
    if encrypt or (encrypt is None and private):

        def step(s: State) -> Done[_Ready]:
            sealed = sealing.seal(s, node, payload)
            return Done(_Ready(sealed, sealing.secret_of(sealed) or ""))

        return await g.step(step)
    return _Ready(payload)


async def _seal_for(g: Ground, payload: bytes, people: tuple[Address, ...]) -> _Ready:
    """XEP-0477 with OMEMO 2: for the devices of these people and our own other ones."""
    sealed = await g.engine.seal(people[0], Content(payload), also=people[1:], scheme=TARGETED_SCHEME)
    scheme = g.engine.scheme_named(TARGETED_SCHEME)
    return _Ready(targeted.encode(g.account, scheme.namespace, sealed.element), report=sealed.report)


async def _precondition(g: Ground, node: Node, access: str | None, *, sealed: bool) -> dict[str, str]:
    """The access model that must hold: as we configured the node; a whitelist for what is sealed at one that others
    configured; anything at all if the caller says so with ""."""
    if access is None:
        mine = await g.read(lambda s: wanted(s, node))
        access = mine.access if mine else WHITELIST if sealed else ""
    return {ACCESS: access} if access else {}


def _remember(s: State, g: Ground, node: Node, item_id: str, payload: bytes, ready: _Ready) -> None:
    if ready.secret:
        sealing.published(s, node, item_id, ready.payload, g.now())
    elif ready.report:
        scheme = g.engine.scheme_named(TARGETED_SCHEME)
        device = scheme.own_device(s) if isinstance(scheme, Omemo) else None
        if device is not None:
            targeted.published(s, node, item_id, ready.payload, payload, device, g.now())


async def retract(g: Ground, node: Node, item_id: str) -> None:
    """Take an item off its node. Who has read it has it; what is attached to it goes with the attachment node."""
    with explained(WRITING, node):
        await g.service.retract(node, item_id)

    def step(s: State) -> Done[None]:
        sealing.forget(s, node, item_id)
        targeted.forget(s, node, item_id)
        return Done(None)

    await g.step(step)
    await attaching.close(g, node, item_id)
