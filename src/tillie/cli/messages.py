"""`tillie send | listen | chat | history`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tillie.cli import exits, show
from tillie.cli.accounts import Network, network_of
from tillie.cli.options import (
    AccountOption,
    AnswerName,
    Contact,
    JsonOption,
    PassphraseFile,
    SchemeName,
    TranscriptOption,
    contact,
)
from tillie.errors import UsageError

if TYPE_CHECKING:
    from tillie.account import Account
    from tillie.cli.terminal import Lines
    from tillie.client import Client, Sent
    from tillie.history import Entry
    from tillie.model import Address, Device, DeviceReport
    from tillie.pipeline import Delivery
    from tillie.schemes.esession import Session

AnswerOption = Annotated[
    AnswerName | None,
    typer.Option(help="Who gets an answer to an offer of an encrypted session; else as in the settings."),
]
# What fits a sealed stanza, and a sealed event of Matrix; checked before anything is asked of the network.
MAX_TEXT_BYTES = 120_000
MAX_MATRIX_TEXT_BYTES = 40_000


def register(app: typer.Typer) -> None:
    for command in (send, listen, chat, history):
        app.command()(command)


# -- send -----------------------------------------------------------------------------------------------------------


def send(
    address: Contact,
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT|-]", help="What to say; '-' or nothing reads standard input.")
    ] = None,
    scheme: Annotated[
        SchemeName | None, typer.Option(help="How to seal it; else omemo on XMPP, olm on Matrix.", show_default=False)
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Show what became of each device.")] = False,
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Seal a message and send it. For every trusted device of somebody, and your own others.

    --scheme esession sends it in an encrypted session with one client of theirs: in the one that is open, also in
    another terminal, else in a new one.

    Examples: tillie send bob@example.net "Tea at four?" · fortune | tillie send bob@example.net -
    """
    to = contact(address)
    network = network_of(to)
    _require_scheme_of(network, scheme)
    said = _text_to_send(text, MAX_MATRIX_TEXT_BYTES if to.is_matrix else MAX_TEXT_BYTES)
    from tillie.cli import online, unlock

    async def work(client: Client, _: Lines) -> tuple[Sent, Session | None, bool]:
        sent = await client.send(to, said, scheme=scheme.value if scheme is not None else "")
        session = await client.sessions.get(sent.sealed.way.thread) if sent.sealed.way else None
        return sent, session, session is not None and session.own == client.engine.own

    with unlock.account(account, passphrase_file, network) as ours:
        sent, session, is_new = online.run(ours, unlock.password(ours), work, ask=text not in (None, "-"))
    if json:
        show.as_json(_sent_as_json(to, sent, session))
    elif session is not None:
        _show_sent_in(session, sent, is_new=is_new)
    else:
        _show_sent(to, sent, report=report)
    if not sent.arrived:
        raise typer.Exit(exits.QUEUED)


def _require_scheme_of(network: Network, scheme: SchemeName | None) -> None:
    if scheme is not None and (scheme is SchemeName.OLM) != (network is Network.MATRIX):
        usual = "Olm" if network is Network.MATRIX else "OMEMO"
        raise UsageError(
            f"On {network.value} nothing is sealed with '{scheme.value}'.",
            hint=f"Leave --scheme out: {usual} is the usual one there.",
        )


def _text_to_send(text: str | None, most: int) -> str:
    if text in (None, "-"):
        if text is None and show.is_conversation():
            show.note("Write the message; end it with Ctrl-D on a line of its own.")
        text = sys.stdin.read(most + 1).removesuffix("\n")
    assert text is not None
    if not text.strip():
        raise UsageError("There is nothing to send: the message is empty.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # bytes on the command line that are no UTF-8 come as halves of surrogate pairs
        raise UsageError("The message has characters that are none: it is not UTF-8.") from None
    if size > most:
        raise UsageError(f"A message has at most {most} bytes.")
    return text


def _show_sent(to: Address, sent: Sent, *, report: bool) -> None:
    sealed = [each for each in sent.sealed.report if each.sealed]
    theirs = sum(each.device.address == to for each in sealed)
    own = len(sealed) - theirs
    also = f" and {own} of your own" if own else ""
    what = "Sent" if sent.arrived else "Queued, not sent yet"
    thing = "OpenPGP key" if sent.sealed.scheme == "openpgp" else "device"
    show.note(f"{what}: sealed for {theirs} {thing}{'s' * (theirs != 1)} of {to}{also}.")
    if not sent.arrived:
        show.note("The server does not have it yet. It goes out with the next connection ('tillie listen' makes one).")
    show_report(sent.sealed.report, in_full=report)


def _show_sent_in(session: Session, sent: Sent, *, is_new: bool) -> None:
    from tillie.cli import session_views

    which = "a new" if is_new else "the open"  # a new one is over now
    trust = session_views.trust_of(session)
    if not sent.arrived:
        show.note("Not sent yet: the program that holds the session did not take it. If it is gone, so is the message,")
        show.note(
            "in two minutes; then 'tillie session list' does not show the session any more, and you may send again."
        )
        return
    show.note(f"Sent: in {which} encrypted session with {session_views.who(session)}, {trust}.")
    if trust != "verified" and session.verifiable:
        show.note(f"Its string is {session.string}; to compare it: tillie verify {session.peer.bare}")


def show_report(report: tuple[DeviceReport, ...], *, in_full: bool) -> None:
    """What became of each device: a table if it is wanted, else a word on who was left out."""
    from tillie.pipeline import WAITING

    skipped = [each for each in report if not each.sealed]
    if in_full and report:
        rows = [
            (_name(each.device), each.device.address, "sealed" if each.sealed else "skipped", _why(each.why))
            for each in report
        ]
        show.table(("device", "address", "", ""), rows)
    elif skipped:
        show.note(f"Skipped {len(skipped)} (--report says why).")
    for address in dict.fromkeys(each.device.address for each in skipped if each.why == WAITING):
        show.note(f"A key of {address} waits for your decision: tillie verify {address}")


def _name(device: Device) -> str:
    from tillie.wire.display import printable

    if device.address.is_matrix:
        return printable(device.label, 40) or "all"
    return printable(device.name.partition(" ")[2], 40)


def _why(text: str) -> str:
    from tillie.wire.display import printable

    return printable(text)


def _sent_as_json(to: Address, sent: Sent, session: Session | None) -> dict[str, Any]:
    from tillie.cli import session_views

    return {
        "to": to,
        "id": sent.id,
        "scheme": sent.sealed.scheme,
        "sent": sent.arrived,
        "devices": [report_as_json(each) for each in sent.sealed.report],
        "session": session_views.as_json(session) if session is not None else None,
    }


def report_as_json(report: DeviceReport) -> dict[str, Any]:
    from tillie.trust import fingerprint

    device = report.device
    return {
        "address": device.address,
        "device": _id_of(device),
        "fingerprint": fingerprint.of(device),
        "sealed": report.sealed,
        "why": report.why,
    }


def _id_of(device: Device) -> int | str | None:
    """A device's id as its network has it: a number, on Matrix a string. None for a key without one, and for all of
    somebody's devices."""
    if device.address.is_matrix:
        return device.label or None
    return None if device.is_openpgp or device.is_session else device.id


def _sender_of(message: Delivery | Entry) -> int | str | None:
    """The id of the device that sent it, likewise."""
    if message.scheme == "olm":
        return message.label or None
    return message.device if message.scheme == "omemo" else None


# -- listen ---------------------------------------------------------------------------------------------------------


def listen(
    json: JsonOption = False,
    count: Annotated[int, typer.Option(min=0, help="Leave after so many messages; 0: never.")] = 0,
    answer: AnswerOption = None,
    transcript: TranscriptOption = None,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show messages as they arrive, first those that wait. Ctrl-C leaves.

    A message counts as shown when it was printed: one that was not is shown the next time. Offers of encrypted sessions
    are answered here, too.
    """
    from tillie.cli import files, offers, online, session_record, session_talk, unlock

    files.check_output(transcript, force=False)

    async def show_messages(client: Client) -> None:
        shown = 0
        async for row, delivery in client.listen():
            if json:
                show.as_json(delivery_as_json(delivery))
            else:
                show_delivery(client.account, delivery)
            await client.acknowledge(row)
            shown += 1
            if shown == count:
                return

    async def work(client: Client, lines: Lines) -> None:
        show.note(f"Listening as {client.account.address}. Ctrl-C leaves.")
        works = [show_messages(client)]
        if not client.account.address.is_matrix:
            works.append(offers.attend(client, lambda question: session_talk.ask(lines, question), json=json))
        async with session_record.recorded(client, transcript):
            await online.side_by_side(*works)

    with unlock.account(account, passphrase_file) as ours:
        password = unlock.password(ours)
        offers.decide(ours, answer, transcript)
        online.run(ours, password, work, listening=True)


def show_delivery(account: Account, delivery: Delivery) -> None:
    """One message: time, who, and how far the sender is to be believed; then its text."""
    from tillie.client import text_of
    from tillie.wire.display import printable

    who = printable(delivery.address)
    if delivery.address == account.address:
        who = f"you, to {printable(delivery.to)}"
    head = f"{show.clock(delivery.time)}  {show.paint(who, 'bold')}{_mark(delivery.trust, delivery.scheme)}"
    if delivery.kind != "opened":
        show.line(f"{head}  (a message that can't be read: {printable(delivery.error or delivery.kind)})")
        return
    text = text_of(delivery.content)
    if not text and not delivery.notes:
        return  # a receipt, a chat state: nothing to read
    first, *more = show.text_lines(text)
    show.line(f"{head}  {first}")
    for part in more:
        show.line(f"                    {part}")
    for note in delivery.notes:
        show.note(f"  note: {printable(note)}")


def _mark(trust: str, scheme: str) -> str:
    if scheme == "esession" and trust != "distrusted":
        verified = trust == "verified"
        return " [session, verified]" if verified else show.paint(" [session, not verified]", "yellow")
    marks = {
        "verified": " [verified]",
        "undecided": show.paint(" [unknown key]", "yellow"),
        "distrusted": show.paint(" [DISTRUSTED KEY]", "bold red"),
    }
    return marks.get(trust, "")


def delivery_as_json(delivery: Delivery) -> dict[str, Any]:
    from tillie.client import text_of
    from tillie.model import Address
    from tillie.trust import fingerprint
    from tillie.wire.time import format_datetime

    return {
        "kind": delivery.kind,
        "from": delivery.address,
        "to": delivery.to,
        "device": _sender_of(delivery),
        "fingerprint": fingerprint.of_key(Address(delivery.address), delivery.key),
        "label": "" if delivery.scheme == "olm" else delivery.label,
        "trust": delivery.trust,
        "time": format_datetime(delivery.time) if delivery.time is not None else None,
        "text": text_of(delivery.content) if delivery.content else "",
        "content": delivery.content,
        "notes": list(delivery.notes),
        "error": delivery.error,
        "scheme": delivery.scheme,
        "stanza": delivery.stanza,
        "type": delivery.type,
        "id": delivery.id,
        "via": delivery.via,
    }


# -- chat -----------------------------------------------------------------------------------------------------------


def chat(
    address: Contact,
    answer: AnswerOption = None,
    transcript: TranscriptOption = None,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Talk with somebody line by line. Ctrl-D leaves.

    Each line you write is sent; what they say appears as it comes. Messages of others wait for 'tillie listen'. If they
    offer an encrypted session, what you write goes out in it while it is open.
    """
    from tillie.cli import chatting, files, offers, unlock

    to = contact(address)
    files.check_output(transcript, force=False)
    with unlock.account(account, passphrase_file, network_of(to)) as ours:
        offers.decide(ours, answer, transcript)
        chatting.run(ours, unlock.password(ours), to, transcript)


# -- history --------------------------------------------------------------------------------------------------------


def history(
    address: Contact,
    last: Annotated[int, typer.Option(min=1, help="So many messages, the newest.")] = 50,
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show what was said with somebody. As this machine keeps it in its encrypted store."""
    from tillie.cli import unlock

    whose = contact(address)
    with unlock.account(account, passphrase_file, network_of(whose)) as ours:
        entries = ours.history(whose, last)
        for entry in entries:
            if json:
                show.as_json(_entry_as_json(entry))
            else:
                _show_entry(entry)
        if not entries and not json:
            show.note("Nothing is kept." if ours.settings.history else "This account keeps no history.")


def _show_entry(entry: Entry) -> None:
    from tillie.client import text_of
    from tillie.wire.display import printable

    who = "you" if entry.sent else printable(entry.address)
    text = text_of(entry.content)
    if not text:
        return
    first, *more = show.text_lines(text)
    show.line(f"{show.clock(entry.time)}  {show.paint(who, 'bold')}{_mark(entry.trust, entry.scheme)}  {first}")
    for part in more:
        show.line(f"                    {part}")


def _entry_as_json(entry: Entry) -> dict[str, Any]:
    from tillie.client import text_of
    from tillie.wire.time import format_datetime

    return {
        "with": entry.address,
        "sent": entry.sent,
        "time": format_datetime(entry.time),
        "text": text_of(entry.content),
        "content": entry.content,
        "id": entry.id,
        "device": _sender_of(entry),
        "trust": entry.trust,
        "scheme": entry.scheme,
        "notes": list(entry.notes),
    }
