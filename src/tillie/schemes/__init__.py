"""Ways to protect an envelope, one package each. Siblings never import each other; `Scheme` is what they share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from tillie.model import (
    Address,
    Arrived,
    Content,
    Device,
    DeviceReport,
    Done,
    Envelope,
    Fact,
    Kind,
    Need,
    Publication,
    Sealed,
    Stanza,
    State,
    Target,
    Time,
)


class Unwrapped(NamedTuple):
    """An envelope that fits its stanza, when it was sealed as far as can be known, and what a person should know."""

    envelope: Envelope
    time: Time
    notes: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What a scheme made of a received element: the sender's device (its key is empty while unknown), the encoded
    envelope if it had one, why it failed if it did, whether this account holds that device's private key itself, and
    whether a history may keep it (`keep`)."""

    kind: Kind
    device: Device
    plaintext: bytes | None = None
    error: str = ""
    ours: bool = False
    keep: bool = True

    def __repr__(self) -> str:
        return f"Outcome({self.kind}, {self.device}, {self.error!r})"


class Scheme(Protocol):
    """One account's use of one way to protect an envelope. Every method is a step of one open transaction.

    `name` stands in records and reports, `title` is what people call it (XEP-0380), `namespace` and `tags` are those
    of its elements (the sealed one is the first tag), `fallback` is the plain body beside it ("" for none), `beside`
    names the plain elements that are expected there and nothing to tell (as `envelope.policy.name_of` does), `watched`
    the PEP nodes whose notifications it wants to learn. `long_lived`: a key of it reads whatever was ever sealed for
    it, so that nobody but a person adds one to those that a contact had first.
    """

    name: str
    title: str
    namespace: str
    tags: tuple[str, ...]
    fallback: str
    beside: frozenset[str]
    long_lived: bool
    watched: frozenset[str]
    account: Address

    def prepare(self, s: State, now: Time) -> Done[Device | None] | Need:
        """Make sure that this account has a device here, if it wants one; a new one is announced."""

    def devices(self, s: State, to: Address, now: Time) -> tuple[tuple[Device, ...], tuple[DeviceReport, ...]] | Need:
        """The devices that a message to `to` should reach, own other ones included, and those that can't be and why."""

    def wrap(self, envelope: Envelope, to: Target) -> bytes:
        """An envelope as the bytes that `seal` protects. Raises `UsageError`, `TooLarge`."""

    def unwrap(self, plaintext: bytes, around: Stanza, now: Time) -> Unwrapped:
        """What `wrap` made, checked against the stanza that carried it. Raises `Malformed`, `Refused`."""

    def blocked(self, s: State, to: Address) -> bool:
        """Whether this contact asked for clear text, so that nothing is sent until a person decides."""

    def seal(self, s: State, plaintext: bytes, to: Target, now: Time) -> Done[Sealed]:
        """Protect a wrapped envelope for the devices of `to`, all of them trusted."""

    def open(self, s: State, got: Arrived, now: Time) -> Done[Outcome] | Need:
        """Open a received element; a public key may be needed first. Raises a PeerError where nothing may change."""

    def heard(self, s: State, address: Address, content: Content) -> None:
        """A contact's opened content, for what it may mean to the scheme itself."""

    def learn(self, s: State, fact: Fact, now: Time) -> Done[None]:
        """Take in a fact; facts that are not for this scheme change nothing."""

    def publication(self, s: State, what: str, now: Time) -> Done[Publication | None] | Need:
        """The newest form of something that a `Publish` effect asked to publish."""

    def published(self, s: State, what: str, now: Time) -> Done[None]:
        """The server has what `publication` made."""

    def tick(self, s: State, now: Time) -> Done[None] | Need:
        """What is due now and then: rotation, repairs, what is too old to keep."""

    def reset(self, s: State, address: Address, device_id: int | None, now: Time) -> Done[int]:
        """Put away the sessions with an account, or one device of it; returns how many."""
