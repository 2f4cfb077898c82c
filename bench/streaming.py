"""`python -m bench.streaming`: read an archive page by page, and print by how many bytes the peak of this process grew
between items FULL and END, when the caches of the store are full. A process of its own, because a peak never goes
down again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench.durable import FOLDER
from bench.pubsub import ACCOUNT, PAGE, OurNode
from tillie.crypto.random import random_bytes
from tillie.store import SqlStore

FULL, END = 24_000, 32_000


def _peak() -> int:
    """Of this program: getrusage would count what its parent had before it began."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1_024


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="streaming-") as folder:
        node = OurNode(SqlStore(Path(folder) / "alice.db", ACCOUNT, random_bytes(32)))
        before = 0
        for seen in range(0, END, PAGE):
            if seen == FULL:
                before = _peak()
            if not node.open_page(node.sealed(PAGE)):
                return 1
        print(_peak() - before)
        node.store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
