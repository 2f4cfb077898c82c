"""Throw-away TLS for servers of the tests that federate on loopback: one authority, one certificate for all of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tillie.demo.home import HOST, Certificates, make_certificates

__all__ = ["HOST", "Certificates", "certificates", "make_certificates"]


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    folder = Path(tempfile.mkdtemp(prefix="tillie-certificates-"))
    try:
        yield make_certificates(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
