"""The frame of the command line: help, version, and one way out for everything that goes wrong."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from support.terminal import ALICE, BOB, Person, World, world
from tillie import __version__, errors
from tillie.cli import exits, main, messages

__all__ = ["world"]

GROUPS = ("account", "devices", "session", "trust", "keys", "pubsub", "home", "demo")
COMMANDS = ("send", "listen", "chat", "history", "verify", "backup", "restore", "seal", "open")


def tillie(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tillie.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        timeout=60,
    )


def test_version_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tillie.cli", "--version"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    )
    assert done.stdout == f"tillie {__version__}\n"
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"typer", "rich", "slixmpp", "lxml", "msgspec", "cryptography", "asyncio", "logging"}


def test_help_of_every_command_has_a_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == exits.OK
    overview = capsys.readouterr().out
    for name in (*GROUPS, *COMMANDS):
        assert f"  {name} " in overview
        assert main([name, "--help"]) == exits.OK
        assert capsys.readouterr().out.startswith(f"Usage: tillie {name} ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["send"], ["send", "--nonsense"], ["trust", "nonsense"]])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == exits.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: tillie" in err


def test_every_error_has_an_exit_code_and_a_first_line() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 25
    for kind in kinds:
        error = kind()
        assert exits.code_of(error) in range(1, 9)
        assert str(error).endswith("."), kind


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TooLarge(), exits.USAGE),
        (errors.KeyChanged(), exits.DECISION),
        (errors.OptedOut(), exits.DECISION),
        (errors.NoRecipients(), exits.NO_RECIPIENT),
        (errors.Rejected(), exits.NETWORK),
        (errors.StoreDamaged(), exits.STORE),
        (errors.Refused(), exits.PEER),
        (errors.TillieError(), exits.FAILED),
    ],
)
def test_errors_end_in_their_exit_codes(world: World, error: errors.TillieError, code: int) -> None:
    def refuse() -> None:
        raise error

    alice = world.person("alice", ALICE)
    world.refuse = refuse
    done = alice("send", BOB, "hello")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"error: {error}")
    assert error.hint in done.err


def test_an_error_s_text_can_t_steer_the_terminal(world: World) -> None:
    def refuse() -> None:
        raise errors.Rejected("\x1b[2J\nforged line")

    alice = world.person("alice", ALICE)
    world.refuse = refuse
    assert "\x1b" not in alice("send", BOB, "hello").err
    assert len(alice("send", BOB, "hello").err.splitlines()) == 1


def test_a_fault_of_ours_is_told_without_a_traceback_and_without_content(world: World) -> None:
    def refuse() -> None:
        raise ValueError("the text of a message")

    alice = world.person("alice", ALICE)
    world.refuse = refuse
    done = alice("send", BOB, "hello")
    assert done.code == exits.FAILED
    assert "This is a fault in Tillie (ValueError at test_app.py:" in done.err
    assert "the text of a message" not in done.err
    assert "Traceback" not in done.err


def test_ctrl_c_is_told_in_a_word(world: World) -> None:
    def refuse() -> None:
        raise KeyboardInterrupt

    alice = world.person("alice", ALICE)
    world.refuse = refuse
    done = alice("listen")
    assert done.code == exits.INTERRUPTED
    assert "Traceback" not in done.err


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} -m tillie.cli account list --json | true"
    (tmp_path / "accounts.json").write_text(
        '{"version": 1, "accounts": ['
        + ",".join('{"address": "a@b.example", "folder": "f", "key": "file"}' for _ in range(3000))
        + "]}"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TILLIE_HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("content", "code"),
    [("", exits.STORE), ("[]", exits.STORE), ('{"version": 2, "accounts": []}', exits.STORE)],
    ids=["empty", "another shape", "newer"],
)
def test_a_list_of_accounts_that_can_t_be_read(tmp_path: Path, content: str, code: int) -> None:
    (tmp_path / "accounts.json").write_text(content)
    done = tillie("account", "list", TILLIE_HOME=str(tmp_path))
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_home_that_can_t_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "password").write_text("x")
    given = ("--password-file", str(tmp_path / "password"), "--key-file", str(tmp_path / "key"))
    done = tillie("account", "add", ALICE, *given, TILLIE_HOME=str(tmp_path / "file"))
    assert done.returncode == exits.STORE


TERMINAL_SECONDS = 60.0


def on_terminal(arguments: list[str], typed: list[tuple[bytes, bytes]], environment: dict[str, str]) -> tuple[int, str]:
    """Run on a pseudo-terminal; after each expected piece of output, behind the one before, type the answer.

    A prompt for a passphrase drops what was typed before it: wait for the prompt itself."""
    terminal, end = pty.openpty()
    surroundings = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tillie.cli", *arguments]
    # Not pty.fork(): this process has threads, and whatever lock they hold stays locked in a forked copy.
    process = subprocess.Popen(
        command, stdin=end, stdout=end, stderr=end, env=surroundings, start_new_session=True, close_fds=True
    )
    os.close(end)
    shown = b""
    waiting, answered = list(typed), 0
    while True:
        if not select.select([terminal], [], [], TERMINAL_SECONDS)[0]:
            process.kill()
            pytest.fail(f"it waits for something after {shown!r}")
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
        if waiting and (found := shown.find(waiting[0][0], answered)) >= 0:
            answered = found + 1
            os.write(terminal, waiting.pop(0)[1])
    os.close(terminal)
    return process.wait(), shown.decode()


def test_on_a_terminal_a_passphrase_is_asked_and_not_shown(world: World, tmp_path: Path) -> None:
    alice = Person(world, "alice", ALICE)
    (tmp_path / "passphrase").write_text("open sesame\n")
    given = ("--password-file", str(alice.password_file), "--passphrase-file", str(tmp_path / "passphrase"))
    assert alice("account", "add", ALICE, *given).code == exits.OK
    world.person("bob", BOB)
    assert alice("send", BOB, "hello", "--passphrase-file", str(tmp_path / "passphrase")).code == exits.OK

    home = {"TILLIE_HOME": str(alice.home / "tillie"), "TERM": "xterm"}
    typed = [(b"Passphrase of", b"open barley\n"), (b"Passphrase of", b"open sesame\n")]
    code, shown = on_terminal(["history", BOB], typed, home)
    assert code == exits.OK, shown
    assert "Again, please" in shown
    assert "hello" in shown
    assert "sesame" not in shown

    typed = [(b"Passphrase of", b"open sesame\n"), (b"Is it the same?", b"y\n")]
    code, shown = on_terminal(["verify", BOB], typed, home)
    assert code == exits.OK, shown
    assert "█" in shown or "▀" in shown  # the code to scan
    assert "is verified now" in shown


def test_no_colour_in_pipes_or_with_no_color(world: World) -> None:
    alice, bob = world.person("alice", ALICE), world.person("bob", BOB)
    alice("send", BOB, "hello")
    assert "\x1b" not in bob("listen", "--count", "1").out
    home = {"TILLIE_HOME": str(alice.home / "tillie"), "TERM": "xterm"}
    assert "\x1b[1m" in on_terminal(["history", BOB], [], home)[1]
    assert "\x1b" not in on_terminal(["history", BOB], [], {**home, "NO_COLOR": "1"})[1]


def test_the_limit_of_a_message_fits_what_can_be_sealed() -> None:
    from tillie.schemes.omemo.scheme import MAX_PLAINTEXT

    # "&" takes five bytes in XML; such a message is refused later, by name.
    assert messages.MAX_TEXT_BYTES < MAX_PLAINTEXT
