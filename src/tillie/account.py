"""An account as the store alone knows it: settings, keys, trust, history, a copy for a backup. No network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from tillie import history
from tillie.directory.matrix import PROFILES as MATRIX_PROFILES
from tillie.directory.matrix import V1, device_of
from tillie.errors import NoProgress, StoreTooNew, UsageError
from tillie.known import KnownKey as KnownKey
from tillie.known import (
    known_addresses,
    known_devices,
    known_olm_devices,
    known_openpgp_keys,
    known_session_keys,
)
from tillie.model import (
    Address,
    Device,
    Done,
    Key,
    Need,
    Notice,
    State,
    Time,
    Trust,
)
from tillie.networks.matrix import records as matrix_records
from tillie.pipeline import Policy
from tillie.pubsub import hearing, members, secrets
from tillie.pubsub import records as pubsub_records
from tillie.pubsub.hearing import Pending
from tillie.pubsub.items import Node
from tillie.pubsub.secrets import Secret
from tillie.schemes import Scheme
from tillie.schemes.esession import ESession, Session, identity
from tillie.schemes.esession import own as own_session_key
from tillie.schemes.esession import records as session_records
from tillie.schemes.esession import sessions as encrypted_sessions
from tillie.schemes.esession.profile import PROFILES
from tillie.schemes.esession.settings import Settings as NegotiationSettings
from tillie.schemes.esession.settings import Shield
from tillie.schemes.olm import Olm
from tillie.schemes.olm import own as own_olm_device
from tillie.schemes.omemo import Omemo, records
from tillie.schemes.omemo import own as own_device
from tillie.schemes.openpgp import OpenedObject, OpenPgp, SealedObject
from tillie.schemes.openpgp import records as openpgp_records
from tillie.store import Committed, Store
from tillie.trust import associations, decisions
from tillie.trust.strings import SAS28X5, TILLIE

T = TypeVar("T")

SETTINGS_VERSION = 1
_SETTINGS = Key("client", "settings", "")
_PASSWORD = Key("client", "password", "")
_RESTORED = records.key("restored")
_TRUST_COPIED = frozenset({("trust", "keys"), ("trust", "associations")})
_OPENPGP_COPIED = frozenset({"own", "active"})  # as `OpenPgp.copied` has it


class SessionSettings(msgspec.Struct, frozen=True):
    """How an account's encrypted sessions are negotiated.

    `answer` says who gets an answer to an offer: "ask" (a person decides; where nobody is there to be asked, as
    "contacts"), "contacts" (who may see our presence), "everyone" or "nobody". `groups` are those of Diffie-Hellman,
    best first. `give_key`: our public key for sessions, if there is one, goes to the other end. `shield` says whose key
    an active attacker must not learn, "ours" or "theirs". `profile` is how those read XEP-0116 to whom we offer a
    session: "strict", "subset" (XEP-0217) or "gajim". `logging` "mustnot" has nothing stored of what is said, by either
    side or its server. `legacy` allows what is not safe any more, for old clients.
    """

    answer: str = "ask"
    groups: tuple[int, ...] = (15, 14, 16)
    give_key: bool = True
    shield: str = "theirs"
    profile: str = "strict"
    logging: str = "may"
    legacy: bool = False

    def negotiation(self, key: identity.Identity | None) -> NegotiationSettings:
        """As the scheme takes them. `key` is ours. Raises `UsageError` for what only `legacy` allows."""
        given = ("key", "none") if key is not None and self.give_key else ("none",)
        return NegotiationSettings(
            profile=PROFILES[self.profile],
            groups=self.groups,
            strings=(TILLIE, SAS28X5) if self.legacy else (TILLIE,),
            logging=(self.logging,),
            rekey_frequency=1,  # whenever a person wants it
            identity=key,
            own_key=given,
            peer_key=("key", "none"),
            shield=Shield(self.shield),
            legacy=self.legacy,
        )


class MatrixSettings(msgspec.Struct, frozen=True):
    """What a Matrix account remembers: the base URL of its homeserver's client API, "" where the server's own name
    tells, and the profile of its keys, "v1" or "draft2015", for good."""

    homeserver: str = ""
    profile: str = V1.name


class Settings(msgspec.Struct, frozen=True):
    """What an account remembers, inside its store.

    `server` is "" (found by DNS) or "host:port" (see `server_address`), `ca_file` a PEM file of the only authority
    that is trusted then. `label` is what other devices may call this one, `history` whether messages are kept.
    """

    policy: str = Policy.BLIND.value
    server: str = ""
    direct_tls: bool = False
    ca_file: str = ""
    label: str = ""
    history: bool = True
    sessions: SessionSettings = SessionSettings()
    matrix: MatrixSettings = MatrixSettings()


@dataclass(frozen=True, slots=True)
class PrivateNode:
    """What is known of one node's secrets. `authority` is whose word on them counts ("": nobody's yet), `newest` the id
    of the one that seals, `sent_to` whom we sent each, by id, `pending` what waits for a decision."""

    node: Node
    authority: str
    newest: str
    secrets: tuple[Secret, ...]
    sent_to: Mapping[str, tuple[Address, ...]]
    pending: tuple[Pending, ...]


class Account:
    """One account and its store, without a network."""

    def __init__(self, store: Store, *, clock: Callable[[], Time] = time.time) -> None:
        self.store = store
        self.address = store.account
        self.clock = clock
        self.settings = self._load_settings()
        self.omemo = Omemo(self.address, label=self.settings.label)
        self.openpgp = OpenPgp(self.address)
        self.esession = ESession(self.address, self.session_settings())

    @property
    def policy(self) -> Policy:
        return Policy(self.settings.policy)

    # -- settings ---------------------------------------------------------------------------------------------------

    def _load_settings(self) -> Settings:
        data = self._run(lambda s: s.get(_SETTINGS))
        return decode_settings(data) if data else Settings()

    def change(self, settings: Settings) -> None:
        """Keep other settings, for this object and for later ones."""
        self._run(lambda s: s.put(_SETTINGS, encode_settings(settings)))
        self.settings = settings

    def password(self) -> str:
        """The password that was kept in the store; "" if it was not."""
        data = self._run(lambda s: s.get(_PASSWORD))
        return data[1:].decode() if data else ""

    def is_logged_in(self) -> bool:
        """Whether a homeserver knows this device by a token that is kept: the password may not be needed."""
        kept = self._run(matrix_records.load_login)
        return kept is not None and bool(kept.token)

    def log_in_anew(self) -> None:
        """The next connection to a homeserver uses the password, and comes back as the same device."""
        self._run(matrix_records.forget_token)

    def keep_password(self, password: str) -> None:
        """Keep it in the store, which is encrypted; "" forgets it."""
        data = bytes((SETTINGS_VERSION,)) + password.encode() if password else None
        self._run(lambda s: s.put(_PASSWORD, data))

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """What an engine of this account uses; the first is the usual one for messages."""
        if self.address.is_matrix:
            return (self.olm,)
        return self.omemo, self.openpgp, self.esession

    @property
    def olm(self) -> Olm:
        """What a Matrix account uses."""
        return Olm(self.address, MATRIX_PROFILES[self.settings.matrix.profile])

    def own_device(self) -> Device | None:
        """Our OMEMO or Matrix device here; None before the first connection."""
        if not self.address.is_matrix:
            return self._run(self.omemo.own_device)
        mine = self._run(own_olm_device.load)
        return device_of(self.address, mine.device, mine.ed25519) if mine is not None else None

    # -- keys and trust ---------------------------------------------------------------------------------------------

    def addresses(self) -> list[Address]:
        """Everybody whose devices are known or whose keys were decided on, we among them."""
        return self._run(lambda s: known_addresses(s, self.address))

    def keys(self, address: Address) -> list[KnownKey]:
        """What is known of one account's devices and OpenPGP keys, without asking anybody."""
        if self.address.is_matrix:
            return self._run(lambda s: known_olm_devices(s, self.address, self.policy, address))
        return self._run(
            lambda s: [
                *known_devices(s, self.omemo, self.policy, address),
                *known_openpgp_keys(s, self.openpgp, self.policy, address, self.clock()),
                *known_session_keys(s, self.address, address),
            ]
        )

    def decide(self, address: Address, key: bytes, trust: Trust) -> None:
        """Keep a person's decision on one key of one address; UNDECIDED takes it back."""
        self._run(lambda s: decisions.decide(s, address, key, trust, self.clock()))

    def reset(self, address: Address, device_id: int | None = None) -> int:
        """Put sessions away, so that the next message begins new ones; how many. Also lifts an opt-out."""
        out = self.store.run(lambda s: self.schemes[0].reset(s, address, device_id, self.clock()))
        return _value(out)

    # -- encrypted sessions ---------------------------------------------------------------------------------------

    def session_settings(self) -> NegotiationSettings:
        """What this account offers and accepts, with its key as it is now."""
        return self.settings.sessions.negotiation(self._run(own_session_key.load))

    def sessions(self, address: Address | None = None) -> list[Session]:
        """Sessions of all processes of the account, those that are over for a while too; with one bare address alone
        if it is given. The newest last."""
        found = self._run(self.esession.sessions)
        return [each for each in found if address is None or each.peer.bare == address]

    def session(self, thread: str) -> Session | None:
        """One session, open or over."""
        return self._run(lambda s: self.esession.session(s, thread))

    def failed_sessions(self, address: Address) -> int:
        """How many attempts with somebody failed today in a way that may have been a guess at the short string."""
        return self._run(lambda s: self.esession.failures(s, address, self.clock()))

    def confirm_session(self, thread: str, same: bool) -> list[Notice]:
        """A person compared the strings of a session. Raises `UsageError` for one that verifies nothing."""
        return self._on_session(lambda s: self.esession.confirm(s, thread, same, self.clock()))

    def rekey_session(self, thread: str) -> list[Notice]:
        """New keys; the process that holds the session's connection sends them. Raises `SessionEnded`."""
        return self._on_session(lambda s: self.esession.rekey(s, thread, self.clock()))

    def end_session(self, thread: str) -> list[Notice]:
        """End a session; the process that holds its connection does. Raises `SessionEnded`."""
        return self._on_session(lambda s: self.esession.end(s, thread, self.clock()))

    def tend_sessions(self) -> list[Notice]:
        """Drop sessions of connections that are gone, and attempts that nobody answered."""
        return self._on_session(lambda s: self.esession.tick(s, self.clock()))

    def _on_session(self, step: Callable[[State], Done[None]]) -> list[Notice]:
        """Do something with a session; what a person must hear of it."""
        out = self.store.run(step)
        return [] if isinstance(out, Need) else [each for each in out.effects if isinstance(each, Notice)]

    def make_session_key(self, *, rsa: bool = False, another: bool = False) -> Device:
        """Make the public key that we give in sessions: Ed25519, or RSA for programs that know nothing else. Raises
        `UsageError` if there is one, unless `another` is wanted, which replaces it."""
        key = identity.RsaIdentity.generate() if rsa else identity.Ed25519Identity.generate()

        def step(s: State) -> Device:
            if own_session_key.load(s) is not None and not another:
                raise UsageError(
                    "This account has a key for sessions here already.",
                    hint="--another replaces it: people who verified it must verify the new one.",
                )
            own_session_key.save(s, key)
            return encrypted_sessions.device(self.address, own_session_key.trust_key(key))

        return self._run(step)

    def session_code(self, address: Address) -> str:
        """The code that we have with somebody for sessions, "" if none."""
        return self._run(lambda s: own_session_key.code(s, address))

    def keep_session_code(self, address: Address, code: str) -> None:
        """Keep the code that we have with somebody; "" forgets it. Raises `UsageError`."""
        self._run(lambda s: own_session_key.set_code(s, address, code))

    def name_key(self, key: bytes, petname: str) -> None:
        """Give the other end of encrypted sessions a name of our own. Raises `UsageError`."""
        self._run(lambda s: associations.name(s, key, petname))

    # -- private nodes --------------------------------------------------------------------------------------------

    def private_nodes(self) -> list[PrivateNode]:
        """The nodes of which secrets are here, or wait for a decision, by service and name."""
        return self._run(lambda s: list(known_nodes(s)))

    # -- sealed objects, offline ------------------------------------------------------------------------------------

    def seal_object(self, data: bytes, to: Sequence[Address]) -> SealedObject:
        """Any bytes for people whose OpenPGP keys are known here, and for us. Raises NotTrusted, NoRecipients, ..."""
        return _value(self.store.run(lambda s: self.openpgp.seal_object(s, self.policy, data, to, self.clock())))

    def open_object(self, message: bytes) -> OpenedObject:
        """What `seal_object` made, here or elsewhere. Raises a PeerError, or `UsageError` if it is not for us."""
        return _value(self.store.run(lambda s: self.openpgp.open_object(s, self.policy, message, self.clock())))

    # -- history ----------------------------------------------------------------------------------------------------

    def history(self, address: Address, limit: int | None = None) -> list[history.Entry]:
        """The last `limit` messages with a bare address, oldest first."""
        entries = self._run(lambda s: list(history.read(s, address)))
        return entries if limit is None else entries[max(0, len(entries) - limit) :]

    # -- backup -----------------------------------------------------------------------------------------------------

    def copy(self, *, with_password: bool = False) -> list[tuple[Key, bytes]]:
        """What a backup holds (N2): the identity seed, OpenPGP keys, secrets of pubsub nodes, trust, history, settings;
        no sessions, no one-time keys."""
        return self._run(lambda s: list(self._copied(s, with_password)))

    def _copied(self, s: State, with_password: bool) -> Iterable[tuple[Key, bytes]]:
        mine = own_device.load(s)
        if mine is not None:
            yield _RESTORED, records.encode_seed(mine.seed)
        keys = [_SETTINGS, *([_PASSWORD] if with_password else []), *([_RESTORED] if mine is None else [])]
        yield from ((key, data) for key in keys if (data := s.get(key)) is not None)
        yield from self.openpgp.copied(s)
        yield from secrets.copied(s)
        yield from own_session_key.copied(s)
        yield from s.scan(Key("trust", "keys", ""))
        yield from s.scan(Key("trust", "associations", ""))
        for address in known_addresses(s, self.address):
            yield from s.scan(Key("history", address, ""))

    def _run(self, read: Callable[[State], T]) -> T:
        return _value(self.store.run(lambda s: Done(read(s))))


# -- a backup put back ----------------------------------------------------------------------------------------------


def fill(store: Store, copied: Iterable[tuple[Key, bytes]]) -> None:
    """Put a backup's records into a new store. Its device is made at the first connection: the same identity, a new
    id. Raises `UsageError` if the account has a device here, or the backup holds anything else."""
    found = list(copied)
    for key, _ in found:
        if not _is_copied(key):
            raise UsageError(f"The backup holds something that does not belong into one: {key.scheme} {key.kind}.")

    def step(s: State) -> Done[None]:
        if own_device.load(s) is not None or own_olm_device.load(s) is not None:
            raise UsageError("This account has a device here already.")
        for key, data in found:
            s.put(key, data)
        return Done(None)

    store.run(step)


def _is_copied(key: Key) -> bool:
    if key.scheme == openpgp_records.SCHEME:
        return key.kind in _OPENPGP_COPIED
    if key.scheme == pubsub_records.SCHEME:
        return key.kind in secrets.COPIED
    if key.scheme == session_records.SCHEME:
        return key.kind in own_session_key.COPIED
    return key in (_RESTORED, _SETTINGS, _PASSWORD) or key.scheme == "history" or key[:2] in _TRUST_COPIED


def encode_settings(settings: Settings) -> bytes:
    return bytes((SETTINGS_VERSION,)) + msgspec.json.encode(settings)


def decode_settings(data: bytes) -> Settings:
    if data[0] != SETTINGS_VERSION:
        raise StoreTooNew(f"the settings have version {data[0]}; this version of Tillie reads {SETTINGS_VERSION}.")
    return msgspec.json.decode(data[1:], type=Settings)


# -- what is known of nodes ------------------------------------------------------------------------------------------


def known_nodes(s: State) -> Iterable[PrivateNode]:
    waiting: dict[Node, list[Pending]] = {}
    for node, each in hearing.pending(s):
        waiting.setdefault(node, []).append(each)
    for node in sorted({*secrets.nodes(s), *waiting}):
        known = secrets.known(s, node)
        sent: dict[str, list[Address]] = {}
        for address, ids in sorted(members.held(s, node).items()):
            for id in ids:
                sent.setdefault(id, []).append(address)
        yield PrivateNode(
            node, known.authority, known.newest, secrets.secrets(s, node),
            {id: tuple(people) for id, people in sent.items()}, tuple(waiting.get(node, ())),
        )  # fmt: skip


def _value(out: Committed[T] | Need) -> T:
    if isinstance(out, Need):
        raise NoProgress("this step must not need anything")
    return out.value
