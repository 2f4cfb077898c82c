"""How our keys come to the server and stay there (XEP-0373 sections "Announcing and Discovering Public Keys via PEP",
"Key Enforcement").

"Before adding a OpenPGP key fingerprint to the metadata node, the publisher MUST ensure that the public key is
available at the corresponding data node": a key enters the list only after the server took its certificate, over a
crash too.
"""

from __future__ import annotations

from tillie.directory import openpgp as directory
from tillie.directory.openpgp import Announced
from tillie.errors import PeerError
from tillie.model import Address, Done, Effect, Fetch, Fetched, Need, Notice, Publication, Publish, State, Time
from tillie.schemes import moments
from tillie.schemes.openpgp import backup, contacts, keys, records
from tillie.schemes.openpgp.keys import Held
from tillie.wire.time import format_datetime

KEY, LIST, BACKUP = "key:", "list", "backup"  # what may be published
JUST_READ = 10.0  # seconds; our own list must be as new as that when it is written

# Libervia and go-sendxmpp read lists from notifications: the nodes deliver payloads, against a SHOULD of the XEP.
_OPTIONS = (("pubsub#access_model", "open"), ("pubsub#persist_items", "true"), ("pubsub#max_items", "1"))


def publish_key(fingerprint: bytes) -> Publish:
    return Publish(records.SCHEME, KEY + keys.shown(fingerprint))


def publish_list(s: State, now: Time) -> Publish:
    s.put(records.key("announcing"), moments.encode_time(now))
    return Publish(records.SCHEME, LIST)


def publish_backup(s: State, payload: bytes) -> Publish:
    """The backup waits in the store, sealed, until the server has it."""
    s.put(records.key("backup"), records.encode_bytes(payload))
    return Publish(records.SCHEME, BACKUP)


def publication(s: State, account: Address, what: str, now: Time) -> Done[Publication | None] | Need:
    """What is to be published, from the newest state; None if there is nothing any more."""
    if what == BACKUP:
        data = s.get(records.key("backup"))
        if data is None:
            return Done(None)
        payload = records.decode_bytes(data, "key backup")
        return Done(Publication(directory.SECRET_NODE, directory.LIST_ITEM, payload, backup.OPTIONS))
    asks = rechecks(s, account)
    if asks:
        return Need(asks)
    if what == LIST:
        return _list(s, account, now)
    held = keys.load(s, bytes.fromhex(what.removeprefix(KEY)))
    if held is None or not (held.is_wanted or held.certificate.revoked):
        return Done(None)
    # "SHOULD set the PubSub item ID to the time the item is published encoded as DateTime"
    item = format_datetime(int(now))
    node = directory.key_node(held.certificate.fingerprint)
    return Done(Publication(node, item, directory.encode_key(held.certificate.data), _OPTIONS))


def _list(s: State, account: Address, now: Time) -> Done[Publication | None] | Need:
    """Read, modify, write: another client may have joined the list since we saw it (N6)."""
    known = contacts.load(s, account)
    if known is None or not 0 <= now - known.at < JUST_READ:
        return Need((Fetch(account, directory.LIST_NODE),))
    held = {each.certificate.fingerprint: each for each in keys.held(s)}
    others = [
        Announced(*key)
        for key in known.keys
        if key.fingerprint not in held and s.get(records.of_own("unwanted", key.fingerprint)) is None
    ]
    ours = [Announced(print, each.own.published) for print, each in held.items() if _is_listed(each)]
    if not ours and not known.keys:
        return Done(None)
    payload = directory.encode_list([*others, *ours])
    return Done(Publication(directory.LIST_NODE, directory.LIST_ITEM, payload, _OPTIONS))


def _is_listed(held: Held) -> bool:
    return held.is_wanted and held.own.published > 0


def published(s: State, account: Address, what: str, now: Time) -> Done[None]:
    """The server has it: after a certificate comes the list."""
    if what == BACKUP:
        s.put(records.key("backup"), None)
    elif what == LIST:
        s.put(records.key("announcing"), None)
        contacts.expire(s, account, now)  # what was read before is not what is there now
        for name, _ in list(s.scan(records.key("unwanted"))):
            s.put(name, None)
    else:
        keys.mark_published(s, bytes.fromhex(what.removeprefix(KEY)), now)
        return Done(None, (publish_list(s, now),))
    return Done(None)


def again(s: State, account: Address, now: Time) -> tuple[Effect, ...]:
    """ "If the key has been removed, the entity SHOULD reannounce it" - but two clients that fight over a list must not
    publish for ever."""
    known = contacts.load(s, account)
    listed = {key.fingerprint for key in known.keys} if known else set()
    ours = {each.certificate.fingerprint for each in keys.held(s) if _is_listed(each)}
    if ours <= listed or s.get(records.key("announcing")) is not None:
        return ()
    notice = moments.announced_too_often(s, records.key("fight"), account, "this account's OpenPGP key", now)
    if notice is not None:
        return (notice,)
    for fingerprint in ours - listed:
        # Another device with the same key may have revoked it: that must be known before it is announced again.
        s.put(records.of_own("recheck", fingerprint), moments.encode_time(0.0))
    return (publish_list(s, now),)


# -- what became of our keys elsewhere --------------------------------------------------------------------------------


def want_rechecks(s: State) -> None:
    """The store is older than it was: a key of ours may have been revoked since."""
    for held in keys.held(s):
        if held.own.published:
            s.put(records.of_own("recheck", held.certificate.fingerprint), moments.encode_time(0.0))


def rechecks(s: State, account: Address, due: Time | None = None) -> tuple[Fetch, ...]:
    """The certificates of ours to look up; those only that were not tried in vain a moment before `due`."""
    return tuple(
        Fetch(account, directory.key_node(bytes.fromhex(name.name)))
        for name, data in s.scan(records.key("recheck"))
        if due is None or not 0 <= due - moments.decode_time(data) < contacts.RETRY
    )


def learn_own(s: State, fact: Fetched, fingerprint: bytes, now: Time) -> tuple[Effect, ...]:
    """What the server has under the name of a key of ours. Only a revocation is believed: nobody else can make one.
    What is not there is published again."""
    name = records.of_own("recheck", fingerprint)
    if s.get(name) is None:
        return ()
    if fact.payload is None and fact.error not in contacts.ABSENT:
        s.put(name, moments.encode_time(now))
        return ()
    s.put(name, None)
    if fact.payload is None:
        keys.mark_published(s, fingerprint, 0.0)
        return (publish_key(fingerprint),)
    try:
        found = contacts.read_certificate(fact, fingerprint)
    except PeerError:
        return ()
    if not keys.join(s, fingerprint, found):
        return ()
    text = f"the OpenPGP key {keys.shown(fingerprint)} of this account was revoked elsewhere"
    return (Notice(fact.address, text), publish_list(s, now))
