"""`tillie demo conversation`, `tillie demo pubsub`, `tillie demo session` and `tillie demo matrix`."""

from __future__ import annotations

import typer

from tillie.cli import exits
from tillie.cli.options import JsonOption

group = typer.Typer(no_args_is_help=True, help="See it work, without an account.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="demo")


@group.callback()
def _demo() -> None:
    """See it work, without an account."""


@group.command()
def conversation(json: JsonOption = False) -> None:
    """A sealed conversation through a real server on this machine, with a look at what the server saw.

    Starts a private Prosody, or a stand-in inside this process where there is none, and removes it at the end.
    """
    from tillie.demo import conversation as play

    if not play.run(json=json):
        raise typer.Exit(exits.FAILED)


@group.command()
def pubsub(json: JsonOption = False) -> None:
    """A private blog on a real server on this machine: shared, signed, its locks changed, and what the server saw.

    Starts a private Prosody, or a stand-in inside this process where there is none, and removes it at the end.
    """
    from tillie.demo import pubsub as play

    if not play.run(json=json):
        raise typer.Exit(exits.FAILED)


@group.command()
def session(json: JsonOption = False) -> None:
    """An encrypted session on a real server on this machine, with somebody in the middle who tries to get into it.

    Starts a private Prosody, or a stand-in inside this process where there is none, and removes it at the end.
    """
    from tillie.demo import session as play

    if not play.run(json=json):
        raise typer.Exit(exits.FAILED)


@group.command()
def matrix(json: JsonOption = False) -> None:
    """Sealed messages between two homes on this machine, in both profiles, and the audit of a home that lies.

    Starts two homes of Tillie's own, each with an operator, and removes them at the end. Needs nothing but Python.
    """
    from tillie.demo import matrix as play

    if not play.run(json=json):
        raise typer.Exit(exits.FAILED)
