"""Two servers of different make, for tests that must hold on each.

Import `server` and the fixtures it needs: `prosody` (of support.prosody) and `ejabberd` (of support.ejabberd).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(params=["prosody", pytest.param("ejabberd", marks=pytest.mark.heavy)])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def stored(server: Any) -> list[bytes]:
    """All that a server has written to its disk, file by file."""
    folder: Path = getattr(server, "data_folder", server.folder)
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
