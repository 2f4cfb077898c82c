"""Transcripts: a home made, accounts added, its audit (how it serves: tests/home/test_home_operation.py)."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cryptography import x509

from tillie.cli import exits, main
from tillie.directory import statements
from tillie.home import honesty
from tillie.home.config import load
from tillie.home.database import Connection, Database
from tillie.home.service import load_signer
from tillie.model import Address
from tillie.wire import canonical

ALICE = Address("@alice:home.example")
KEYS = {"keys": {"ed25519:A": "A" * 43}}  # what counts as a device that has some


def test_init_makes_a_configuration_that_says_what_can_be_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["home", "init", "home.example", "--folder", str(tmp_path / "home")]) == exits.OK
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/home/home.toml is made, and the signing key beside it.\n"
    assert "tls_certificate" in err
    assert "tillie home serve -c" in err
    found = load(tmp_path / "home" / "home.toml")
    assert (found.server_name, found.registration) == ("home.example", False)
    assert load_signer(found).server == "home.example"
    assert (tmp_path / "home" / "signing.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "options", "port"),
    [
        ("home.example", (), 8448),
        ("home.example:9000", (), 9000),
        ("[2001:db8::1]", (), 8448),
        ("[2001:db8::1]:9000", (), 9000),
        ("home.example:9000", ("--port", "443"), 443),
        ("home.example:9000", ("--port", "0"), 0),
    ],
)
def test_init_listens_where_others_will_look(tmp_path: Path, name: str, options: tuple[str, ...], port: int) -> None:
    assert main(["home", "init", name, "--folder", str(tmp_path), *options]) == exits.OK
    assert load(tmp_path / "home.toml").listen[0].port == port


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["home", "init", "home.example", "--folder", str(tmp_path)]) == exits.OK
    key = (tmp_path / "signing.key").read_text()
    assert main(["home", "init", "other.example", "--folder", str(tmp_path)]) == exits.USAGE
    assert "is there already" in capsys.readouterr().err
    (tmp_path / "home.toml").unlink()
    assert main(["home", "init", "home.example", "--folder", str(tmp_path), "--self-signed"]) == exits.OK
    assert (tmp_path / "signing.key").read_text() == key
    found = load(tmp_path / "home.toml")
    assert found.path(found.tls_certificate).exists()
    assert found.path(found.tls_key).exists()


@pytest.mark.parametrize("name", ["no name", "", "@alice:home.example", "a.example:99999"])
def test_init_refuses_what_is_no_server(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["home", "init", name, "--folder", str(tmp_path / "home")]) == exits.USAGE
    assert not (tmp_path / "home").exists()


def test_every_command_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = ["-c", str(tmp_path / "home.toml")]
    (tmp_path / "password").write_text("a password\n")
    for command in (["serve"], ["adduser", "alice", "--password-file", str(tmp_path / "password")], ["audit", ALICE]):
        assert main(["home", *command, *missing]) == exits.USAGE
        out, err = capsys.readouterr()
        assert (out, "tillie home init SERVER_NAME" in err) == ("", True)


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("home.example", x509.DNSName("home.example")),
        ("localhost:8448", x509.DNSName("localhost")),
        ("long." * 20 + "example", x509.DNSName("long." * 20 + "example")),
        ("192.0.2.1:8448", x509.IPAddress(IPv4Address("192.0.2.1"))),
        ("[2001:db8::1]", x509.IPAddress(IPv6Address("2001:db8::1"))),
        ("[2001:db8::1]:8448", x509.IPAddress(IPv6Address("2001:db8::1"))),
    ],
)
def test_a_certificate_to_try_it_out_is_for_the_host_and_a_year(
    tmp_path: Path, server: str, host: x509.GeneralName, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["home", "init", server, "--folder", str(tmp_path), "--self-signed"]) == exits.OK
    for name in ("authority.crt", "host.crt"):
        made = x509.load_pem_x509_certificate((tmp_path / name).read_bytes())
        assert made.not_valid_after_utc - datetime.now(UTC) > timedelta(days=364)
    assert list(made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [host]
    assert f"ends on {made.not_valid_after_utc:%Y-%m-%d}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["init", "serve", "adduser", "audit"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["home", command, "--help"]) == exits.OK
    assert capsys.readouterr().out.startswith(f"Usage: tillie home {command} ")


@pytest.mark.parametrize("command", [["serve"], ["audit", ALICE]])
def test_what_is_not_installed_is_named(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [each for each in sys.modules if each.startswith(("starlette", "uvicorn", "tillie.home"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["home", *command]) == exits.USAGE
    assert "pip install 'tillie[home]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "password", "why"),
    [
        ("alice", "another password", "is there already"),
        ("dave", "short", "8 to 512"),
        ("Dave", "x" * 8, "lower-case"),
        ("@dave:other.example", "x" * 8, "the home of home.example"),
    ],
)
def test_an_account_that_is_refused(
    config: Path, name: str, password: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "password").write_text(f"{password}\n")
    given = ["--password-file", str(config.parent / "password"), "-c", str(config)]
    assert main(["home", "adduser", name, *given]) == exits.USAGE
    assert why in capsys.readouterr().err


# -- audit ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A home with a user whose device list changed twice."""
    assert main(["home", "init", "home.example", "--folder", str(tmp_path)]) == exits.OK
    (tmp_path / "password").write_text("a password\n")
    file = tmp_path / "home.toml"
    assert (
        main(["home", "adduser", "alice", "--password-file", str(tmp_path / "password"), "-c", str(file)]) == exits.OK
    )
    assert f"{ALICE} is made." in capsys.readouterr().out
    conn: Connection = Database(tmp_path / "home.db")._writer
    honesty.state(conn, ALICE, 1, {}, 1_000)
    honesty.state(conn, ALICE, 2, {"A": KEYS}, 2_000)
    conn.close()
    return file


def test_an_honest_home(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["home", "audit", ALICE, "-c", str(config)]) == exits.OK
    out = capsys.readouterr().out
    assert "2 statements of home.example" in out
    assert "none contradicts another" in out
    assert main(["home", "audit", ALICE, "-c", str(config), "--json"]) == exits.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["user"], found["server"], found["signs"]) == (ALICE, "home.example", True)
    assert len(found["statements"]) == 2
    assert found["lies"] == []


def test_a_lie_is_proven_by_what_somebody_kept(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signer = load_signer(load(config))
    lie = signer.sign(statements.unsigned(ALICE, 2, 2.0, {"MALLORY": KEYS}).source)
    forged = {**lie, "sequence": 1}
    kept = config.parent / "kept.json"
    kept.write_bytes(canonical.encode(lie) + b"\n" + canonical.encode(forged) + b"\n")
    assert main(["home", "audit", ALICE, "-c", str(config), "--with", str(kept)]) == exits.PEER
    out, err = capsys.readouterr()
    assert "A lie: of sequence 2" in out
    assert "does not count" in err
    assert main(["home", "audit", ALICE, "-c", str(config), "--with", str(kept), "--json"]) == exits.PEER
    found = json.loads(capsys.readouterr().out)
    assert len(found["lies"]) == 1
    assert len(found["refused"]) == 1


def test_somebody_elsewhere_who_was_never_asked_for(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["home", "audit", "@bob:other.example", "-c", str(config)]) == exits.OK
    assert "has never asked other.example" in capsys.readouterr().out
    assert main(["home", "audit", "bob", "-c", str(config)]) == exits.USAGE
