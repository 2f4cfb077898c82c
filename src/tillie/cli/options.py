"""Options that many commands share, and what they take."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from tillie.cli import links
from tillie.cli.accounts import ON_MATRIX
from tillie.errors import InvalidAddress, UsageError
from tillie.model import Address
from tillie.trust.decisions import Policy
from tillie.wire import address as addresses


class KeyFrom(str, Enum):  # noqa: UP042 (typer shows the values of this kind alone in every version)
    """Where the key of an account's store comes from."""

    AUTO = "auto"
    KEYRING = "keyring"
    PASSPHRASE = "passphrase"
    FILE = "file"


class PolicyName(str, Enum):  # noqa: UP042
    """The policies, as they are typed."""

    MANUAL = Policy.MANUAL.value
    FIRST_USE = Policy.FIRST_USE.value
    BLIND = Policy.BLIND.value


class SchemeName(str, Enum):  # noqa: UP042
    """Ways to protect a message, as they are typed."""

    OMEMO = "omemo"
    OPENPGP = "openpgp"
    ESESSION = "esession"
    OLM = "olm"


class AnswerName(str, Enum):  # noqa: UP042
    """Who gets an answer to an offer of an encrypted session."""

    ASK = "ask"
    CONTACTS = "contacts"
    EVERYONE = "everyone"
    NOBODY = "nobody"


class ProfileName(str, Enum):  # noqa: UP042
    """Readings of XEP-0116, as they are typed."""

    STRICT = "strict"
    SUBSET = "subset"
    GAJIM = "gajim"


class MatrixProfileName(str, Enum):  # noqa: UP042
    """Which keys a Matrix account publishes, as it is typed (docs/matrix.md)."""

    V1 = "v1"
    DRAFT2015 = "draft2015"


AccountOption: TypeAlias = Annotated[
    str | None, typer.Option("--account", "-a", metavar="ADDRESS", help="Which account; needed if there are several.")
]
PassphraseFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Its first line is the passphrase of the store ('-': standard input)."),
]
PasswordFile: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its first line is the password of the account at its server.")
]
TranscriptOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write down what goes over the wire of a session ('tillie session forge')."),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON, one object a line (docs/cli.md).")]
DeviceArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="[DEVICE]",
        help="One device's id, or the first 16 digits or more of another key's fingerprint; all if left out.",
    ),
]
Contact: TypeAlias = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="Somebody's address: bob@example.net, or @bob:example.net on Matrix.")
]
_LOOKS_LIKE = "An address looks like bob@example.net. On Matrix it is @bob:example.net."


def contact(text: str) -> Address:
    """An address as a person typed it, or the one in a link; a resource behind it is left out. Raises
    `InvalidAddress`."""
    text = links.address_in(text)
    try:
        found = addresses.parse(text).bare
    except InvalidAddress as error:
        raise InvalidAddress(f"'{text}': {error.detail}", hint=_LOOKS_LIKE) from None
    if "@" not in found:
        raise InvalidAddress(f"'{text}' names a server, not a person.", hint=_LOOKS_LIKE)
    return found


def contact_on_xmpp(text: str) -> Address:
    """Somebody's address for what Matrix does not have. Raises `UsageError`, `InvalidAddress`."""
    found = contact(text)
    if found.is_matrix:
        raise UsageError(
            f"{found} is on Matrix, and that is for people on XMPP.",
            hint=f"On Matrix there are: {ON_MATRIX}.",
        )
    return found
