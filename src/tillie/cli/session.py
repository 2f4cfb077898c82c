"""`tillie session start | list | rekey | end`; `settings`, `secret` and `forge` are in files of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from tillie.cli import exits, links, session_forge, session_settings, show
from tillie.cli.accounts import Network
from tillie.cli.options import (
    AccountOption,
    Contact,
    JsonOption,
    PassphraseFile,
    ProfileName,
    TranscriptOption,
    contact_on_xmpp,
)
from tillie.errors import SessionEnded

if TYPE_CHECKING:
    from tillie.account import Account
    from tillie.cli.terminal import Lines
    from tillie.client import Client
    from tillie.model import Address
    from tillie.schemes.esession import Session

END_SECONDS = 5.0  # for the process that holds the connection, and then for the other side
LOOK_SECONDS = 0.1

group = typer.Typer(no_args_is_help=True, help="Encrypted sessions: while both are online, sealed both ways.")


def register(app: typer.Typer) -> None:
    session_settings.register(group)
    session_forge.register(group)
    app.add_typer(group, name="session")


# -- start ----------------------------------------------------------------------------------------------------------


@group.command()
def start(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Somebody's address; with a resource, that client of theirs.")
    ],
    profile: Annotated[
        ProfileName | None, typer.Option(help="How their program reads XEP-0116; as in the settings if left out.")
    ] = None,
    transcript: TranscriptOption = None,
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Agree on a session with somebody who is online, and talk in it. Ctrl-D ends it.

    All that is said in a session is sealed both ways, and its keys are gone when it ends. It shows a short string:
    if both of you see the same, nobody sits between you. Each line you write is sent.

    Example: tillie session start bob@example.net
    """
    from tillie.cli import files, online, session_record, session_talk, unlock

    to = _with_resource(address)
    files.check_output(transcript, force=False)

    async def work(client: Client, lines: Lines) -> None:
        async with session_record.recorded(client, transcript, to.bare):
            session = await session_talk.start(client, to, json=json)
            await session_talk.Talk(client, lines, session, json=json).run()

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        if profile is not None:
            _read_as(ours, profile)
        online.run(ours, unlock.password(ours), work, listening=True, notice=session_talk.tell)


def _with_resource(address: str) -> Address:
    from tillie.wire import address as addresses

    whose = contact_on_xmpp(address)  # says what is wrong with it
    found = addresses.parse(links.address_in(address))
    return found if found.resource else whose


def _read_as(ours: Account, profile: ProfileName) -> None:
    """The profile of this one negotiation."""
    import msgspec

    wanted = msgspec.structs.replace(ours.settings.sessions, profile=profile.value)
    ours.settings = msgspec.structs.replace(ours.settings, sessions=wanted)


# -- list -----------------------------------------------------------------------------------------------------------


@group.command("list")
def list_(
    address: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="With whom; with everybody if left out.")
    ] = None,
    over: Annotated[bool, typer.Option("--over", help="Also those that are over, and why they are.")] = False,
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show this account's sessions, of all programs that use it here. No server is asked."""
    from tillie.cli import session_views, unlock

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        ours.tend_sessions()
        whose = contact_on_xmpp(address) if address else None
        sessions = [each for each in ours.sessions(whose) if over or not each.over]
        if json:
            for each in sessions:
                show.as_json(session_views.as_json(each))
            return
        if sessions:
            session_views.table(sessions)
        else:
            show.note(f"There is no{'' if over else ' open'} session{f' with {whose}' if whose else ''}.")
        _tell_failures(ours, whose)


def _tell_failures(ours: Account, whose: Address | None) -> None:
    from tillie.cli import session_talk

    for each in [whose] if whose else dict.fromkeys(each.peer.bare for each in ours.sessions()):
        session_talk.tell_failures(ours, each)


# -- from another terminal --------------------------------------------------------------------------------------------


@group.command()
def rekey(address: Contact, account: AccountOption = None, passphrase_file: PassphraseFile = None) -> None:
    """Change the keys of an open session. Who learns the old ones can't read what comes after, nor the other way round.

    The program that holds the session does it: 'tillie session start', 'chat' or 'listen' in another terminal.
    """
    from tillie.cli import unlock

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        session = _open_one(ours, contact_on_xmpp(address))
        ours.rekey_session(session.thread)
    show.line(f"The session with {session.peer} gets new keys.")


@group.command()
def end(address: Contact, account: AccountOption = None, passphrase_file: PassphraseFile = None) -> None:
    """End an open session. Both ends forget its keys.

    The program that holds the session does it: 'tillie session start', 'chat' or 'listen' in another terminal.
    """
    from tillie.cli import session_views, unlock

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        session = _open_one(ours, contact_on_xmpp(address))
        ours.end_session(session.thread)
        session = _wait(ours, session, lambda now: now.over)
    if session.over:
        show.line(session_views.over(session))
        return
    show.note("It is to end, but that was not acknowledged yet; if its program does not run any more, it is dropped.")
    raise typer.Exit(exits.QUEUED)


def _open_one(ours: Account, whose: Address) -> Session:
    """The newest open session with somebody. Raises `SessionEnded`."""
    ours.tend_sessions()
    found = [each for each in ours.sessions(whose) if each.active]
    if not found:
        raise SessionEnded(f"There is none with {whose}.", hint=f"'tillie session start {whose}' opens one.")
    return found[-1]


def _wait(ours: Account, session: Session, enough: Callable[[Session], bool]) -> Session:
    """A session when it is so far, or as it is after END_SECONDS: another process works on it."""
    deadline = time.monotonic() + END_SECONDS
    while not enough(session) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        session = next((each for each in ours.sessions() if each.thread == session.thread), session)
    return session
