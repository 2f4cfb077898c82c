"""Child processes for tests that kill one, or run several on one file."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child process and return its id. It exits with 0 if work returned, with 1 if it raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        if status:
            traceback.print_exc(file=sys.__stderr__)
        os._exit(status)


def wait(pid: int) -> int:
    """The child's exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die() -> None:
    """What kill -9 does to this process, at this very place."""
    os.kill(os.getpid(), signal.SIGKILL)
