"""Somebody's machine: `tillie` in processes of its own, over a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.prosody import PASSWORD
from tillie.cli import exits
from tillie.demo.prosody import PrivateProsody


class Machine:
    """Somebody's machine: commands run in processes of their own."""

    def __init__(self, folder: Path, server: PrivateProsody, address: str) -> None:
        self.folder = folder
        self.server = server
        self.address = address
        folder.mkdir()
        (folder / "password").write_text(PASSWORD)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TILLIE_HOME": str(self.folder / "home")}
        command = [sys.executable, "-m", "tillie.cli", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

    def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(stdin, timeout=120)
        return process.returncode, out, err

    def add(self, *options: str, port: int = 0, password: str = "password") -> tuple[int, str, str]:
        place = ("--server", f"localhost:{port or self.server.port}")
        secrets = ("--password-file", str(self.folder / password), "--key-file", str(self.folder / "key"))
        return self.run("account", "add", self.address, *place, *secrets, *options)

    def ready(self) -> Machine:
        code, _, err = self.add("--ca-file", str(self.server.ca_file))
        assert code == exits.OK, err
        return self
