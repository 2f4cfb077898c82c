"""GnuPG as a peer, in a home of its own: short path (its agent's socket has a limit), no pinentry, no agent left."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import pytest

SECONDS = 60.0
SOCKET_NAME = 107  # sun_path, without its NUL


class GnuPGError(Exception):
    """gpg ended with an error; the text is what it wrote."""


class Read(NamedTuple):
    """A message as gpg read it. `signers`: primary fingerprints (lower-case hex) of the signatures that are valid."""

    plaintext: bytes
    signers: tuple[str, ...]


def unavailable() -> str:
    """Why GnuPG can't be used here, in one sentence; empty if it can."""
    return "" if shutil.which("gpg") and shutil.which("gpgconf") else "GnuPG is not installed"


class GnuPG:
    """One keyring, in a `with` block. Keys are named by fingerprint or user id; passphrases are empty unless given."""

    def __init__(self) -> None:
        self.home = Path()

    def __enter__(self) -> GnuPG:
        self.home = Path(tempfile.mkdtemp(prefix="g-", dir="/tmp"))  # mkdtemp's mode is 0700, as gpg wants it
        assert len(os.fsencode(self.home / "S.gpg-agent.browser")) <= SOCKET_NAME
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", str(self.home), "--kill", "all"], capture_output=True, timeout=SECONDS, check=False
        )
        shutil.rmtree(self.home, ignore_errors=True)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def generate(self, user_id: str, passphrase: str = "", *, algorithm: str = "future-default") -> str:
        """A new key with a signing and an encryption part; its fingerprint, lower-case hex."""
        self.run("--quick-gen-key", user_id, algorithm, "default", "never", passphrase=passphrase)
        return self.fingerprint(user_id)

    def fingerprint(self, who: str) -> str:
        """The primary fingerprint of one key, lower-case hex."""
        lines = self.run("--with-colons", "--list-keys", who).decode().splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr")).lower()

    def take(self, key: bytes) -> None:
        """Import public or secret keys."""
        self.run("--import", data=key)

    def export(self, who: str) -> bytes:
        """The public key, binary."""
        return self.run("--export", who)

    def export_secret(self, who: str, passphrase: str = "") -> bytes:
        """The secret key, binary, protected by the passphrase it has."""
        return self.run("--export-secret-keys", who, passphrase=passphrase)

    # -- messages -----------------------------------------------------------------------------------------------------

    def seal(self, data: bytes, to: Sequence[str], signer: str = "", *options: str, passphrase: str = "") -> bytes:
        """Encrypt, and sign if there is a signer. gpg compresses unless `options` say "-z", "0"."""
        recipients = [word for one in to for word in ("--recipient", one)]
        by = ["--local-user", signer, "--sign"] if signer else []
        return self.run(*options, *recipients, *by, "--encrypt", data=data, passphrase=passphrase)

    def seal_with_password(self, data: bytes, password: str, *options: str) -> bytes:
        return self.run(*options, "--symmetric", data=data, passphrase=password)

    def open(self, message: bytes, passphrase: str = "") -> Read:
        """Decrypt with a secret key or password. Signatures by keys that are not in the keyring don't count."""
        done = self._run("--decrypt", data=message, passphrase=passphrase)
        if b"DECRYPTION_OKAY" not in done.stderr:
            raise GnuPGError(done.stderr.decode("utf-8", "replace"))
        return Read(done.stdout, _signers(done.stderr))

    def sign(self, data: bytes, signer: str, *options: str, passphrase: str = "") -> bytes:
        """A detached signature, binary."""
        return self.run(*options, "--local-user", signer, "--detach-sign", data=data, passphrase=passphrase)

    def verify(self, data: bytes, signature: bytes) -> tuple[str, ...]:
        """Primary fingerprints of the valid detached signatures; empty if there is none."""
        file = self.home / "signature"
        file.write_bytes(signature)
        return _signers(self._run("--verify", str(file), "-", data=data).stderr)

    def list_packets(self, message: bytes, passphrase: str = "") -> str:
        """What gpg says about the packets, also inside what it can decrypt."""
        return self._run("--list-packets", data=message, passphrase=passphrase).stdout.decode("utf-8", "replace")

    # -- gpg itself ---------------------------------------------------------------------------------------------------

    def run(self, *words: str, data: bytes = b"", passphrase: str = "") -> bytes:
        """Run gpg on `data`; what it wrote. Raises `GnuPGError` unless it ends with 0."""
        done = self._run(*words, data=data, passphrase=passphrase)
        if done.returncode:
            raise GnuPGError(done.stderr.decode("utf-8", "replace"))
        return done.stdout

    def _run(self, *words: str, data: bytes = b"", passphrase: str = "") -> subprocess.CompletedProcess[bytes]:
        reader, writer = os.pipe()  # a command line can be read by everybody
        try:
            os.write(writer, passphrase.encode() + b"\n")
            os.close(writer)
            return subprocess.run(
                [
                    *("gpg", "--homedir", str(self.home), "--batch", "--no-tty", "--trust-model", "always"),
                    *("--pinentry-mode", "loopback", "--passphrase-fd", str(reader), "--status-fd", "2", *words),
                ],
                input=data,
                capture_output=True,
                pass_fds=(reader,),
                timeout=SECONDS,
                check=False,
            )
        finally:
            os.close(reader)


def _signers(status: bytes) -> tuple[str, ...]:
    # "[GNUPG:] VALIDSIG <signing key> <date> ... <primary key>"
    lines = status.decode("utf-8", "replace").splitlines()
    return tuple(line.split()[-1].lower() for line in lines if line.startswith("[GNUPG:] VALIDSIG "))


@pytest.fixture
def gnupg() -> Iterator[GnuPG]:
    """An empty keyring, or the test is skipped with the reason."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    with GnuPG() as one:
        yield one
