"""The side file that finds a store which was rolled back: restored from a copy, or a snapshot of the machine.

The database counts its writing commits: that is its generation. After each commit the same number goes into a file
beside it, NAME.generation (8 bytes, big-endian). A store whose database has a lower generation than its side file, or
whose side file is gone, is older than it should be. Its sessions have used message keys that it knows nothing of.

It must never cry wolf. It does not, because at every moment: number in the side file <= generation of the database.
- The number is written after the commit that made it, and that commit was synchronous. So a process killed between the
  two, and a power cut, leave the side file behind the database, never ahead.
- Each writer puts down only numbers that it committed itself. Writers that overtake one another can leave a lower
  number than the newest, never a higher one.
- A reader takes the side file first and the database after it: the other way round, a commit between its two looks
  would seem to be a roll-back. And before it marks one it looks again, inside a transaction that keeps all others out.
- The side file is made, and is on the disk, before the commit that makes the database a store. Afterwards eight bytes
  are overwritten in place, so not even a power cut leaves it short.

What it can't find: a roll-back of both files together, and one of less than what the side file lags behind: at most the
commits after the last number that reached it. A disk that lies about having written can raise a false alarm after a
power cut; then sessions are renewed without need, which costs one key exchange each.
"""

from __future__ import annotations

import os
from pathlib import Path

_SIZE = 8


class SideFile:
    """NAME.generation beside the database, open for as long as the store is."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @classmethod
    def create(cls, path: Path) -> SideFile:
        """Make the file with the number 0, unless there is a good one; return when it and its name are on the disk."""
        if peek(path) is None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, _SIZE)
                os.pwrite(fd, bytes(_SIZE), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            sync_folder(path.parent)
        return cls(path)

    def raise_to(self, generation: int) -> None:
        """Put down a generation that is committed, unless there is a higher one. Call it only after the commit."""
        new = generation.to_bytes(_SIZE, "big")
        if os.pread(self._fd, _SIZE, 0) < new:
            os.pwrite(self._fd, new, 0)

    def close(self) -> None:
        os.close(self._fd)


def peek(path: Path) -> int | None:
    """The number in a side file; None if the file is missing or damaged."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    return int.from_bytes(found, "big") if len(found) == _SIZE else None


def sync_folder(folder: Path) -> None:
    """Return only when the names of new and renamed files in `folder` are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
