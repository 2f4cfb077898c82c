"""What is attached to items: XEP-0470, with signatures (XEP-0475, XEP-0476) among it.

An attachment node is made by the service if it knows XEP-0470, else by the owner of the node: "the entity willing to
publish the attachment MUST NOT try to create the node itself (that would result in wrong ownership of the node)". It
has the access model of the node that it belongs to, and everybody who may read there may publish here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from tillie.crypto.certificates import Certificate
from tillie.errors import Malformed, NetworkError, NoProgress, PeerError, Rejected, UsageError
from tillie.model import Address, Done, Need, State, Time, Trust
from tillie.nodes.ground import (
    ACCESS,
    PUBLISHERS,
    READING,
    REFUSALS,
    WHITELIST,
    WRITING,
    Ground,
    explained,
    options_for,
    wanted,
)
from tillie.nodes.reading import finished, get
from tillie.pubsub import attachments, checking, hearing, sealing, secrets, signing
from tillie.pubsub.attachments import Attached, Attachment
from tillie.pubsub.checking import Checked
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.pubsub.sealing import Work
from tillie.pubsub.signing import Signature
from tillie.schemes.openpgp import OpenPgp
from tillie.trust import decisions

MAX_ATTACHED = 10_000  # items of one attachment node that are read
_LET_IN = frozenset({"owner", "publisher", "member"})
NO_NODE = "The item has no place for attachments, and only the owner of its node can make one."


class Attachments(NamedTuple):
    """What people attached to an item; `unreadable` says of which authors' it could not be read, and why."""

    attached: tuple[Attached, ...]
    unreadable: tuple[str, ...] = ()


# -- reading ----------------------------------------------------------------------------------------------------------


async def attached(g: Ground, node: Node, item_id: str) -> Attachments:
    """What everybody attached to an item, sealed or in clear; nothing if there is no attachment node."""
    place = attachments.node_for(node, item_id)
    found: list[Attached] = []
    unreadable: list[str] = []
    count = 0
    try:
        async for page in g.service.items(place):
            for item in page:
                count += 1
                if count > MAX_ATTACHED:
                    unreadable.append(f"There are more than {MAX_ATTACHED}; the others were not read.")
                    return Attachments(tuple(found), tuple(unreadable))
                try:
                    found.append(await _read(g, node, place, item))
                except (PeerError, UsageError) as error:
                    unreadable.append(f"{item.id}: {error.detail}")
    except Rejected as error:
        if error.condition != "item-not-found":
            with explained(READING, place):
                raise
    return Attachments(tuple(found), tuple(unreadable))


async def _read(g: Ground, node: Node, place: Node, item: Item) -> Attached:
    """One author's. Raises `Malformed`, or `UsageError` if it is sealed and does not open."""
    sealed = attachments.sealed_in(item.payload)
    if sealed is None:
        return attachments.read(item)
    looked = await g.step(lambda s: Done(sealing.read(s, place, item._replace(payload=sealed), g.now(), under=node)))
    reading = await finished(g, looked) if isinstance(looked, Work) else looked
    if reading.payload is None:
        raise UsageError(reading.error or reading.kind.value)
    return attachments.read(item, reading.payload)


# -- writing ----------------------------------------------------------------------------------------------------------


async def attach(
    g: Ground, node: Node, item_id: str, change: Callable[[tuple[Attachment, ...]], bytes], *, sealed: bool | None
) -> None:
    """Change what we attached to an item: `change` gets what is there, and gives the whole element. What it does not
    know it keeps. Sealed if the node has secrets or the item is sealed, unless the caller says otherwise."""
    place = attachments.node_for(node, item_id)
    if sealed is None:
        sealed = await _is_private(g, node) or bool((await get(g, node, item_id)).secret)
    before = await _ours(g, node, place)
    payload = change(before)
    element = b""
    if sealed:
        element = await g.read(lambda s: sealing.seal(s, node, payload))
        payload = attachments.seal_around(element)
    await _publish(g, node, place, item_id, Item(g.account, payload))
    if element:
        await g.write(lambda s: sealing.published(s, place, g.account, element, g.now()))


async def _is_private(g: Ground, node: Node) -> bool:
    return await g.read(lambda s: bool(secrets.known(s, node).secrets or hearing.pending(s, node)))


async def _ours(g: Ground, node: Node, place: Node) -> tuple[Attachment, ...]:
    """What we attached before. Raises `UsageError` if it is sealed and does not open: publishing would destroy it."""
    try:
        async for page in g.service.items(place, ids=(str(g.account),)):
            for item in page:
                if item.id == g.account:
                    return (await _read(g, node, place, item)).children
    except Malformed:
        return ()  # whatever it is, it is nothing that we or any other client of ours wrote
    except Rejected as error:
        if error.condition not in REFUSALS | {"item-not-found"}:
            raise
    return ()


async def _publish(g: Ground, node: Node, place: Node, item_id: str, item: Item) -> None:
    options = await _attachment_options(g, node)
    pinned = {ACCESS: options[ACCESS]} if ACCESS in options else {}
    if place.service == g.account:
        await allow(g, node, item_id)  # PEP would make the node by itself, for all contacts
    try:
        await g.service.publish(place, item, pinned)
        return
    except Rejected as error:
        if error.condition != "item-not-found":
            with explained(WRITING, place):
                raise
    if not await allow(g, node, item_id):
        raise UsageError(NO_NODE, hint="Ask its owner, who can sign it first.")
    with explained(WRITING, place):
        await g.service.publish(place, item, pinned)


async def allow(g: Ground, node: Node, item_id: str) -> bool:
    """Make the attachment node of an item, if we own its node and there is none; whether there is one then. Services
    that do it themselves say no to us, which is fine (XEP-0470 section "Manual Node Creation Rejection")."""
    if g.account not in await g.service.owners(node):
        return False
    place = attachments.node_for(node, item_id)
    options = await _attachment_options(g, node)
    try:
        await g.service.create(place, options)
    except Rejected as error:
        return error.condition in REFUSALS | {"conflict"}
    await _admit_all(g, node, place)
    return True


async def _attachment_options(g: Ground, node: Node) -> dict[str, str]:
    """As the node itself: by what we know, else by what its service tells its owner. For everybody else a private
    node's attachments are on a whitelist, too."""
    mine, private = await g.read(lambda s: (wanted(s, node), bool(secrets.known(s, node).secrets)))
    access = mine.access if mine else WHITELIST if private else ""
    if not access:
        try:
            access = (await g.service.configuration(node)).get(ACCESS, "")
        except Rejected:
            return {}
    publish = PUBLISHERS if access == WHITELIST else "open"
    return options_for(sealed=private, access=access, publish=publish, max_items="max")


async def _admit_all(g: Ground, node: Node, place: Node) -> None:
    """Everybody who may read at the node may attach something."""
    listed = await g.service.affiliations(node)
    people = {who: "publisher" for who, role in listed.items() if role in _LET_IN and who != g.account}
    people |= {who: "outcast" for who, role in listed.items() if role == "outcast"}
    if people:
        await g.service.affiliate(place, people)


# -- the attachment nodes of a node ------------------------------------------------------------------------------------


async def nodes_of(g: Ground, node: Node) -> list[Node]:
    """The attachment nodes of a node, as far as its service shows them."""
    try:
        names = await g.service.nodes(node.service)
    except NetworkError:
        return []
    found = []
    for name in names:
        place = Node(node.service, name)
        try:
            if attachments.target_of(place)[0] == node:
                found.append(place)
        except Malformed:
            continue
    return found


async def admit(g: Ground, places: Iterable[Node], address: Address) -> None:
    """Let a new member attach to what is there already, where the service leaves that to us."""
    for place in places:
        try:
            await g.service.affiliate(place, {address: "publisher"})
        except NetworkError:
            continue  # it is the service's own, or somebody else's


async def expel(g: Ground, node: Node, address: Address) -> list[str]:
    """Keep a removed member from what is attached; what did not work, in words."""
    problems = []
    for place in await nodes_of(g, node):
        try:
            listed = await g.service.affiliations(place)
            if listed.get(address, "none") in _LET_IN:
                await g.service.affiliate(place, {address: "none"})
        except NetworkError as error:
            problems.append(f"{address} may still see what is attached to {attachments.target_of(place)[1]!r}: {error}")
    return problems


async def close(g: Ground, node: Node, item_id: str) -> None:
    """Delete the attachment node of an item that is gone, if it is ours."""
    try:
        await g.service.delete(attachments.node_for(node, item_id))
    except NetworkError:
        pass  # there is none, or the service looks after it


# -- signatures -------------------------------------------------------------------------------------------------------


def _openpgp(g: Ground) -> OpenPgp:
    scheme = g.engine.scheme_named("openpgp")
    if not isinstance(scheme, OpenPgp):
        raise UsageError("Signatures need OpenPGP, which is not used here.")
    return scheme


async def make_signature(g: Ground, node: Node, payload: bytes, *, also: tuple[Address, ...] = ()) -> bytes:
    """The `<signature>` for a payload in clear, by our active key. Raises `UsageError` without one."""
    scheme = _openpgp(g)
    statement = signing.statement(g.account, g.now(), also=also)
    try:
        form = signing.signed_form(node, payload, statement)
    except Malformed as error:
        raise UsageError(f"This payload can't be signed. {error.detail}") from None
    made, _ = await g.read(lambda s: scheme.sign(s, form))
    return signing.encode(Signature(statement, made))


async def attach_signature(g: Ground, node: Node, item_id: str, signature: bytes, *, sealed: bool | None) -> None:
    """Attach it in the place of an earlier one of ours."""

    def change(before: tuple[Attachment, ...]) -> bytes:
        return attachments.replace(before, signing.SIGNATURE, signature)

    await attach(g, node, item_id, change, sealed=sealed)


async def sign(g: Ground, node: Node, item_id: str, also: tuple[Address, ...], encrypt: bool | None) -> Reading:
    """Sign an item as we read it, and give what was signed."""
    reading = await get(g, node, item_id)
    signature = await make_signature(g, node, _require_open(reading), also=also)
    if encrypt is None:
        encrypt = reading.kind is ItemKind.OPENED or await _is_private(g, node)
        if encrypt:
            await require_secret(g, node)
    await attach_signature(g, node, item_id, signature, sealed=encrypt)
    return reading


async def require_secret(g: Ground, node: Node) -> None:
    """A signature in clear lets everybody who sees it test guesses of what a sealed item says. Raises `UsageError` if
    there is no secret to seal one with, as where an item is sealed for a few people at a node in clear."""
    if await g.read(lambda s: secrets.newest(s, node)) is None:
        raise UsageError(
            "The item is sealed, and there is no secret of its node to seal the signature with.",
            hint="A signature in clear would let others test guesses of what the item says.",
        )


def _require_open(reading: Reading) -> bytes:
    if reading.payload is None or reading.kind not in (ItemKind.CLEAR, ItemKind.OPENED):
        raise UsageError(
            f"The item can't be read, so its signatures say nothing: {reading.error or reading.kind.value}"
        )
    return reading.payload


async def check(g: Ground, node: Node, item_id: str, *, published: Time | None = None) -> Checked:
    """Check all signatures of an item, with the keys that its signers announce now."""
    reading = await get(g, node, item_id)
    payload = _require_open(reading)
    there = await attached(g, node, item_id)
    found = checking.found_in(there.attached)
    certificates = await _certificates(g, checking.signers_of(found))

    def trust(s: State) -> Callable[[Address, bytes], Trust]:
        return lambda address, key: decisions.of(s, g.engine.policy.strict, address, key)

    checked = await g.step(
        lambda s: Done(
            checking.check(
                s, node, reading.item, payload, found, certificates, trust(s), g.now(), published=published
            )
        )
    )  # fmt: skip
    return checked._replace(notes=checked.notes + reading.notes + there.unreadable)


async def _certificates(g: Ground, signers: tuple[Address, ...]) -> Mapping[Address, tuple[Certificate, ...]]:
    found = await asyncio.gather(*(_certificates_of(g, signer) for signer in signers))
    return dict(zip(signers, found, strict=True))


async def _certificates_of(g: Ground, signer: Address) -> tuple[Certificate, ...]:
    scheme = _openpgp(g)

    def step(s: State) -> Done[tuple[Certificate, ...]] | Need:
        got = scheme.certificates(s, signer, g.now())
        return got if isinstance(got, Need) else Done(got)

    try:
        return await g.step(step)
    except (NetworkError, NoProgress):
        return ()  # reported as a key that is not known
