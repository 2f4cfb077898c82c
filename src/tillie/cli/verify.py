"""`tillie verify ADDRESS`: the one way to verify, whatever is compared: keys, or the string of an encrypted session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tillie.cli import exits, show
from tillie.cli.accounts import network_of
from tillie.cli.options import AccountOption, Contact, DeviceArgument, PassphraseFile, contact
from tillie.errors import UsageError
from tillie.model import Trust

if TYPE_CHECKING:
    from tillie.account import Account
    from tillie.model import Address
    from tillie.schemes.esession import Session

FingerprintOption = Annotated[
    str, typer.Option(metavar="FINGERPRINT", help="What your contact read to you, all of it; nothing is asked then.")
]
StringOption = Annotated[
    str, typer.Option(metavar="STRING", help="The string of your open session, as your contact read it to you.")
]
UriOption = Annotated[
    str, typer.Option(metavar="URI", help="The 'xmpp:' or 'matrix:' link of your contact's code to scan.")
]


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    address: Contact,
    device: DeviceArgument = None,
    fingerprint: FingerprintOption = "",
    string: StringOption = "",
    uri: UriOption = "",
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make sure who is at the other end. Compare what is shown, face to face or on the telephone, then say so.

    With an open session that is its short string; else, and after it, the fingerprints of keys (OMEMO, OpenPGP, the
    devices of somebody on Matrix).

    Examples: tillie verify bob@example.net · tillie verify bob@example.net --uri 'xmpp:bob@example.net?omemo-sid-...'
    """
    from tillie.cli import strings, unlock

    if sum(map(bool, (fingerprint, string, uri))) > 1:
        raise UsageError("Give one of --fingerprint, --string and --uri.")
    whose = contact(address)
    if whose.is_matrix and (string or strings.is_link(uri)):
        raise UsageError(
            "There are no encrypted sessions on Matrix, and so no strings of them.",
            hint="Compare fingerprints: --fingerprint FINGERPRINT, or --uri 'matrix:...'.",
        )
    with unlock.account(account, passphrase_file, network_of(whose)) as ours:
        sessions = [] if device or fingerprint or whose.is_matrix else strings.comparable(ours, whose)
        if string or strings.is_link(uri):
            strings.match(ours, whose, sessions, typed=string, link=uri)
        elif fingerprint or uri:
            _match(ours, whose, device, fingerprint, uri)
        elif not show.is_conversation():
            session = "" if whose.is_matrix else "--string STRING of an open session, or "
            raise UsageError(
                "There is nobody to ask whether it is the same.",
                hint=f"Give what you got: {session}--fingerprint FINGERPRINT.",
            )
        elif _ask(ours, whose, device, sessions):
            raise typer.Exit(exits.DECISION)


def _match(ours: Account, whose: Address, device: str | None, fingerprint: str, uri: str) -> None:
    from tillie.cli import verifying
    from tillie.cli.trust import known_keys

    wanted = verifying.fingerprints_in(uri, whose) if uri else {}
    verified = verifying.match(whose, known_keys(ours, whose, device, revoked=False), fingerprint, wanted)
    for key in verified:
        ours.decide(whose, key.device.key, Trust.VERIFIED)
    show.line(f"{len(verified)} key{'s' * (len(verified) != 1)} of {whose} verified.")


def _ask(ours: Account, whose: Address, device: str | None, sessions: list[Session]) -> int:
    """Ask about each session, then about each key. How many are still open."""
    from tillie.cli import strings, verifying
    from tillie.cli.trust import known_keys

    still_open = strings.ask(ours, whose, sessions)
    known = known_keys(ours, whose, device, revoked=False, ask_network=not sessions)
    asked = {session.key for session in sessions}
    # A chain of sessions has no fingerprint: their strings are compared.
    keys = [key for key in known if key.fingerprint and key.device.key not in asked]
    if keys:
        if sessions:
            show.line()
        still_open += verifying.ask(ours, whose, keys)
    return still_open
