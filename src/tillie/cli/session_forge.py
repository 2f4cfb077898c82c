"""`tillie session forge TRANSCRIPT`: that what was said in a session can't be proven afterwards, shown by doing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tillie.cli import exits, files, show
from tillie.cli.options import JsonOption
from tillie.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tillie.schemes.esession.transcript import Finding, Transcript

MAX_TRANSCRIPT = 64 << 20  # bytes
DEFAULT_WORDS = "I owe you ten ducats."

TextsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--say", metavar="N=TEXT", help="Put TEXT into stanza N; may be given again. One is chosen if left out."
    ),
]
KnownOption = Annotated[
    list[str] | None,
    typer.Option(
        "--knowing", metavar="N=TEXT", help="TEXT is what was really said in stanza N: then even the two are fooled."
    ),
]


def register(group: typer.Typer) -> None:
    group.command()(forge)


def forge(
    transcript: Annotated[
        Path, typer.Argument(metavar="TRANSCRIPT", help="What 'tillie session start --transcript FILE' wrote.")
    ],
    say: TextsOption = None,
    knowing: KnownOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the forged transcript there.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Forge the transcript of a session that is over. See that nobody can tell it from the real one.

    Needs no account and no secret: only the MAC keys that both ends publish when they are of no use any more. So what
    somebody shows of a session proves nothing about what was said in it.

    Example: tillie session forge monday.transcript --say '2=I owe you ten ducats.'
    """
    from tillie.schemes.esession import transcript as transcripts

    files.check_output(output, force=force)
    real = transcripts.read(files.read(transcript, MAX_TRANSCRIPT))
    before = transcripts.verify(real)
    words = _numbered(say) or {_choose(real, before): DEFAULT_WORDS}
    known = _numbered(knowing)
    if set(known) - set(words):
        raise UsageError("--knowing is for a stanza that --say replaces.")
    forged = transcripts.forge(
        real,
        {number: _body(text) for number, text in words.items()},
        known={number: _body(text) for number, text in known.items()},
    )
    after = transcripts.verify(forged)
    if output is not None:
        files.write(output, transcripts.write(forged))
    if json:
        _as_json(real, before, after, words)
    else:
        _show(real, before, after, words, known)
    if [each.standing for each in before] != [each.standing for each in after]:
        raise typer.Exit(exits.FAILED)


def _numbered(given: list[str] | None) -> dict[int, str]:
    """N=TEXT, by N."""
    found: dict[int, str] = {}
    for each in given or ():
        number, equals, text = each.partition("=")
        if not equals or not (number.isascii() and number.isdigit()) or len(number) > 6:
            raise UsageError(f"'{each}' is not N=TEXT.", hint="It looks like --say '2=I owe you ten ducats.'")
        found[int(number)] = text
    return found


def _choose(real: Transcript, findings: tuple[Finding, ...]) -> int:
    """Of the stanzas that can be forged, the last that hides most; of chat messages, if there are any."""
    able = [each for each in findings if each.standing.value == "verifies" and each.hidden]
    if not able:
        raise UsageError(
            "No stanza of this transcript can be forged yet: its keys were not published.",
            hint="They are when the session is over, or was re-keyed.",
        )
    chats = [each for each in able if "type='chat'" in real.stanzas[each.number].stanza]
    return max(reversed(chats or able), key=lambda each: each.hidden).number


def _body(text: str) -> str:
    from tillie.wire import xml

    return f"<body>{xml.escape(text).decode()}</body>"


def _show(
    real: Transcript,
    before: tuple[Finding, ...],
    after: tuple[Finding, ...],
    words: Mapping[int, str],
    known: Mapping[int, str],
) -> None:
    from tillie.schemes.esession import transcript as transcripts
    from tillie.wire.display import printable

    keys = len(transcripts.published(real))
    parties = " and ".join(map(printable, real.header.parties))
    show.line(f"A session of {parties}; {keys} MAC key{'s' * (keys != 1)} published.")
    rows = []
    for first, second in zip(before, after, strict=True):
        said = f'"{printable(words[first.number], 50)}"' if first.number in words else ""
        rows.append((str(first.number), printable(first.sender, 40), _word(first), _word(second), said))
    show.table(("", "from", "real", "forged", "in the forged one it says"), rows)
    show.line()
    show.sentence(
        "The forged transcript verifies exactly as the real one does. Whoever is shown either of them can't tell which "
        "it is, because everybody has the keys now."
    )
    if set(words) - set(known):
        show.sentence(
            "The forged stanzas open to nobody, as the real ones do to nobody but the two who talked. Who knows what "
            "was said in a stanza can put other words, no longer than that, in it (--knowing): then it opens, too."
        )


def _word(finding: Finding) -> str:
    return {"verifies": "verifies", "unknown": "no key published", "clear": "not sealed"}[finding.standing.value]


def _as_json(
    real: Transcript, before: tuple[Finding, ...], after: tuple[Finding, ...], words: Mapping[int, str]
) -> None:
    from tillie.schemes.esession import transcript as transcripts

    stanzas = [
        {
            "number": first.number,
            "from": first.sender,
            "real": first.standing.value,
            "forged": second.standing.value,
            "says": words.get(first.number),
        }
        for first, second in zip(before, after, strict=True)
    ]
    show.as_json({
        "thread": real.header.thread,
        "parties": list(real.header.parties),
        "keys": len(transcripts.published(real)),
        "as_good": [each.standing for each in before] == [each.standing for each in after],
        "stanzas": stanzas,
    })  # fmt: skip
