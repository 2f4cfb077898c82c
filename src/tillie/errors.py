"""Every error that Tillie raises, sorted by who is at fault.

    TillieError
    ├── UsageError              you, or your program: the call can't be done as asked
    │   ├── InvalidAddress
    │   ├── NoRecipients
    │   ├── NotTrusted          a key waits for a person's decision
    │   │   └── KeyChanged      ... under an address that was verified before
    │   ├── PassphraseNeeded    a key in a file is under a passphrase
    │   ├── OptedOut            the contact asked for clear text; a person must decide
    │   ├── SessionEnded        the encrypted session is over, or was never opened
    │   ├── TooLarge            content, devices or stanza beyond a named limit
    │   └── NoProgress          a step asked for the same thing again and again
    ├── PeerError               the other client sent something wrong or forged
    │   ├── Malformed           it does not parse, or breaks a limit
    │   ├── BadKey              a key is weak, of the wrong length, or not on the curve
    │   ├── BadSignature
    │   ├── Undecryptable       forged, altered, or its key is gone
    │   ├── NoSession           there is no session for it, or its sender's key can't be had
    │   ├── NegotiationFailed   the attempt to agree on a session ended
    │   ├── SessionBroken       a stanza of a session did not verify: the session is over
    │   └── Refused             it opened, but its envelope does not fit the stanza
    ├── NetworkError            a server or the way to it
    │   ├── Unreachable
    │   ├── AuthenticationFailed
    │   │   └── PasswordNeeded  of a device that was logged in: its token is not enough
    │   └── Rejected            the server answered with an error
    └── StoreError              the file that holds keys and messages
        ├── StoreLocked         wrong key or passphrase, or not a store
        ├── StoreDamaged
        ├── StoreTooNew         written by a newer version of Tillie
        ├── StoreMismatch       it belongs to another account or device
        └── StoreUnwritable     read-only, or the disk is full

The first line of each docstring is what the command line prints before the details; `hint` says what to do next.
A peer never learns which of these happened.
"""

from __future__ import annotations


class TillieError(Exception):
    """Something went wrong."""

    hint = ""

    def __init__(self, detail: str = "", *, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        if hint:
            self.hint = hint

    def __str__(self) -> str:
        headline = (type(self).__doc__ or "").partition("\n")[0]
        return f"{headline} {self.detail}".strip()


# -- you, or your program -------------------------------------------------------------------------------------------


class UsageError(TillieError):
    """That can't be done as asked."""


class InvalidAddress(UsageError):
    """That is not a valid address."""


class NoRecipients(UsageError):
    """Nobody could read this message, so it was not sent."""

    hint = "See 'tillie devices ADDRESS' for the contact's devices and why each was skipped."


class NotTrusted(UsageError):
    """Nothing was sent: a device waits for your decision.

    `devices` holds the devices (`model.Device`) whose keys nobody has decided on.
    """

    hint = (
        "Compare fingerprints with 'tillie trust list ADDRESS', "
        "then 'tillie verify ADDRESS' or 'tillie trust distrust ADDRESS'."
    )

    def __init__(self, detail: str = "", *, devices: tuple[object, ...] = (), hint: str = "") -> None:
        super().__init__(detail, hint=hint)
        self.devices = devices


class KeyChanged(NotTrusted):
    """Nothing was sent: a contact you verified has a new key."""


class PassphraseNeeded(UsageError):
    """The key is under a passphrase, and none was given."""


class OptedOut(UsageError):
    """Nothing was sent: the contact asks to go on without encryption."""

    hint = "Tillie never sends clear text. 'tillie devices reset ADDRESS' goes on with encryption."


class SessionEnded(UsageError):
    """There is no encrypted session, or it is over."""

    hint = "'tillie session start ADDRESS' opens a new one."


class TooLarge(UsageError):
    """That is too large to send."""


class NoProgress(UsageError):
    """The work could not be finished: what it needs was asked for and did not come."""


# -- the other client -----------------------------------------------------------------------------------------------


class PeerError(TillieError):
    """The other client sent something wrong."""


class Malformed(PeerError):
    """The other client sent something that can't be read."""


class BadKey(PeerError):
    """The other client uses a key that is not safe."""


class BadSignature(PeerError):
    """A signature of the other client is wrong."""


class Undecryptable(PeerError):
    """A message was altered on its way, or its key is gone."""


class NoSession(PeerError):
    """A message can't be opened now: there is no session for it, or its sender's key can't be had."""


class NegotiationFailed(PeerError):
    """No session came about.

    `condition` is what the peer is told (XEP-0155 section 4.3): "not-acceptable", "feature-not-implemented",
    "service-unavailable", or "" for nothing at all; `fields` are the fields of the form it is about.
    """

    def __init__(self, detail: str = "", *, condition: str = "", fields: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(detail, hint=hint)
        self.condition = condition
        self.fields = fields


class SessionBroken(PeerError):
    """A stanza of an encrypted session was lost, altered or forged, so that the session is over."""


class Refused(PeerError):
    """A message opened, but does not fit the stanza that carried it."""


# -- a server, or the way to it -------------------------------------------------------------------------------------


class NetworkError(TillieError):
    """The network did not do what was asked."""


class Unreachable(NetworkError):
    """The server can't be reached."""

    hint = "Check the connection; what was sealed is kept and sent at the next connection."


class AuthenticationFailed(NetworkError):
    """The server did not accept the account or password."""


class PasswordNeeded(AuthenticationFailed):
    """The server wants the account's password, and none was given."""

    hint = "'tillie account password' keeps it."


class Rejected(NetworkError):
    """The server answered with an error.

    `condition` is the defined condition of RFC 6120 section 8.3.3, such as "item-not-found".
    """

    def __init__(self, detail: str = "", *, condition: str = "undefined-condition", hint: str = "") -> None:
        super().__init__(detail, hint=hint)
        self.condition = condition


# -- the file that holds keys and messages --------------------------------------------------------------------------


class StoreError(TillieError):
    """The store can't be used."""


class StoreLocked(StoreError):
    """The store does not open with this key or passphrase."""


class StoreDamaged(StoreError):
    """The store is damaged."""

    hint = "Restore the newest backup with 'tillie restore FILE'."


class StoreTooNew(StoreError):
    """The store was written by a newer version of Tillie."""

    hint = "Upgrade Tillie; nothing was changed."


class StoreMismatch(StoreError):
    """The store belongs to another account or device."""


class StoreUnwritable(StoreError):
    """The store can't be written: it is read-only, or the disk is full."""
