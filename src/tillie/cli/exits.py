"""Exit codes, and how an error becomes one (docs/cli.md lists them for people)."""

from __future__ import annotations

from tillie.errors import (
    NetworkError,
    NoRecipients,
    NotTrusted,
    OptedOut,
    PeerError,
    StoreError,
    TillieError,
    UsageError,
)

OK = 0
FAILED = 1  # something else went wrong; a fault in Tillie itself is one of these
USAGE = 2
DECISION = 3  # nothing was sent: a person must decide on a key
NETWORK = 4
STORE = 5
NO_RECIPIENT = 6  # nothing was sent: no device of the contact could read it
QUEUED = 7  # sealed and kept, but the server does not have it yet
PEER = 8  # the other client sent something wrong
INTERRUPTED = 130

# The first that fits; subclasses before their bases.
_CODES: tuple[tuple[type[TillieError], int], ...] = (
    (NotTrusted, DECISION),
    (OptedOut, DECISION),
    (NoRecipients, NO_RECIPIENT),
    (UsageError, USAGE),
    (NetworkError, NETWORK),
    (StoreError, STORE),
    (PeerError, PEER),
)


def code_of(error: TillieError) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
