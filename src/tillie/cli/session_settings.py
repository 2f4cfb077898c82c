"""`tillie session settings`, and `tillie session secret ADDRESS`: what is agreed on before a session is negotiated."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tillie.cli import show
from tillie.cli.accounts import Network
from tillie.cli.options import (
    AccountOption,
    AnswerName,
    Contact,
    JsonOption,
    PassphraseFile,
    ProfileName,
    contact_on_xmpp,
)
from tillie.errors import UsageError

if TYPE_CHECKING:
    from tillie.account import Account, SessionSettings
    from tillie.model import Address

GroupsOption = Annotated[
    str | None,
    typer.Option(metavar="NUMBERS", help="Diffie-Hellman groups to offer and accept, best first: 15,14,16 (RFC 3526)."),
]


def register(group: typer.Typer) -> None:
    group.command()(settings)
    group.command()(secret)


# -- settings -------------------------------------------------------------------------------------------------------


def settings(
    answer: Annotated[AnswerName | None, typer.Option(help="Who gets an answer when she offers you a session.")] = None,
    groups: GroupsOption = None,
    give_key: Annotated[
        bool | None,
        typer.Option(help="Show your key for sessions, if you made one, to whom you have a session with."),
    ] = None,
    shield: Annotated[
        str | None,
        typer.Option(metavar="ours|theirs", help="Whose key an attacker who plays the other side must not get to see."),
    ] = None,
    profile: Annotated[
        ProfileName | None, typer.Option(help="How the programs read XEP-0116 to which you offer sessions.")
    ] = None,
    logging: Annotated[
        str | None,
        typer.Option(
            metavar="may|mustnot", help="mustnot: nobody stores what is said; switch your server's archive off."
        ),
    ] = None,
    legacy: Annotated[
        bool | None,
        typer.Option(help="Allow old programs what is not safe: small groups, a string that can be forged."),
    ] = None,
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """How this account's encrypted sessions are negotiated. Without an option: show it.

    answer: ask (you are asked; where nobody is there to be asked, as contacts), contacts (whom you show your presence),
    everyone, nobody. An answer tells that you are online.
    """
    import msgspec

    from tillie.cli import unlock

    given: dict[str, Any] = {
        "answer": answer and answer.value,
        "groups": _groups(groups) if groups is not None else None,
        "give_key": give_key,
        "shield": shield,
        "profile": profile and profile.value,
        "logging": logging,
        "legacy": legacy,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if shield not in (None, "ours", "theirs"):
        raise UsageError(f"'{shield}' is neither ours nor theirs.")
    if logging not in (None, "may", "mustnot"):
        raise UsageError(f"'{logging}' is neither may nor mustnot.")
    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        wanted = msgspec.structs.replace(ours.settings.sessions, **changes)
        wanted.negotiation(None)  # a UsageError says what only --legacy allows
        if changes:
            ours.change(msgspec.structs.replace(ours.settings, sessions=wanted))
        if json:
            show.as_json(msgspec.to_builtins(wanted))
        else:
            _show(ours, wanted)


def _groups(typed: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in typed.replace(",", " ").split())
    except ValueError:
        raise UsageError(f"'{typed}' are not numbers of groups.", hint="They look like 15,14,16.") from None


def _show(ours: Account, wanted: SessionSettings) -> None:
    mine = [key for key in ours.keys(ours.address) if key.scheme == "esession"]
    key = "none; 'tillie keys generate --scheme esession' makes one"
    if mine:
        key = mine[0].fingerprint if wanted.give_key else "not shown (--give-key)"
    rows = [
        ("answer", wanted.answer),
        ("groups", ",".join(map(str, wanted.groups))),
        ("your key", key),
        ("shield", wanted.shield),
        ("profile", wanted.profile),
        ("logging", wanted.logging),
        ("legacy", "allowed: small groups, forgeable strings" if wanted.legacy else "no"),
    ]
    for name, value in rows:
        show.line(f"{name:<10}{value}")


# -- a secret that two people share ---------------------------------------------------------------------------------


def secret(
    address: Contact,
    enter: Annotated[bool, typer.Option("--enter", help="Type the code that your contact made.")] = False,
    code_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Its first line is that code.")] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Use none with this contact any more.")] = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a code for sessions with somebody. She types it in with --enter, and you know each other from the first on.

    Give it to her face to face, or another way that nobody reads. From then on a session comes about only if both of
    you have it. Tillie makes the code: one that people think up could be guessed by whoever sits between you.
    """
    from tillie.cli import unlock

    whose = contact_on_xmpp(address)
    if sum((enter, code_file is not None, forget)) > 1:
        raise UsageError("Give one of --enter, --code-file and --forget.")
    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        if forget:
            ours.keep_session_code(whose, "")
            show.line(f"Sessions with {whose} need no code any more.")
        elif enter or code_file is not None:
            ours.keep_session_code(whose, _typed(code_file))
            show.line(f"Sessions with {whose} need the code from now on, at both ends.")
        else:
            _make(ours, whose)


def _typed(code_file: Path | None) -> str:
    from tillie.cli import unlock

    if code_file is not None:
        return unlock.first_line(code_file)
    return unlock.ask("Code: ", UsageError("There is nobody to ask.", hint="Give --code-file."))


def _make(ours: Account, whose: Address) -> None:
    from tillie.schemes.esession.settings import new_code

    if ours.session_code(whose):
        raise UsageError(
            f"There is a code for sessions with {whose} already.", hint="--forget drops it; then make another."
        )
    code = new_code()
    ours.keep_session_code(whose, code)
    show.note(f"You and {whose} know each other by this code:")
    show.note("")
    show.line(f"    {show.paint(code, 'bold')}" if sys.stdout.isatty() else code)
    show.note("")
    show.note("Give it to them face to face, or another way that nobody reads. It is not shown again. They run:")
    show.note(f"  tillie session secret {ours.address} --enter")
