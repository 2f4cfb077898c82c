"""Throw-away TLS for servers of the tests that federate on loopback: one authority, one certificate for all of them."""

from __future__ import annotations

import shutil
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tillie.demo.certificates import write_certificates

HOST = "localhost"  # what every such server's name begins with; a port follows


class Certificates(NamedTuple):
    """PEM files: the authority, and a certificate for `HOST` with its key."""

    ca: Path
    host: Path
    key: Path

    def ssl_context(self) -> ssl.SSLContext:
        """Certificate and host name checks on, this authority the only one trusted."""
        return ssl.create_default_context(cafile=str(self.ca))


def make_certificates(folder: Path) -> Certificates:
    """New ones in a folder that is there."""
    made = Certificates(folder / "ca.crt", folder / "host.crt", folder / "host.key")
    write_certificates([HOST], *made)
    return made


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    folder = Path(tempfile.mkdtemp(prefix="tillie-certificates-"))
    try:
        yield make_certificates(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
