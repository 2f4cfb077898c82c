"""Servers that run beside us, as processes of their own."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess


def stop(process: subprocess.Popen[bytes] | None, seconds: float, *, kill: bool = False) -> int:
    """Let it end in order, and at once (`kill`) or after so many seconds without. Its exit code; 0 for None."""
    if process is None:
        return 0
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def free_ports(count: int) -> list[int]:
    """So many different ports of loopback that nobody uses now; somebody may, before their server listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
