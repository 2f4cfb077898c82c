"""Writes the diagrams and tables of docs/esession.md anew, from the tables that the code runs on.

python scripts/diagrams.py           write them
python scripts/diagrams.py --check   only say whether they are current (exit code 1 if not)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "esession.md"
_PLACE = re.compile(r"(<!-- made by scripts/diagrams\.py: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def made() -> dict[str, str]:
    """Each part by its name."""
    sys.path.insert(0, str(ROOT / "src"))
    from tillie.schemes.esession import tables

    parts: dict[str, str] = {}
    for name, rows in (
        ("initiator", tables.INITIATOR),
        ("responder", tables.RESPONDER),
        ("session", tables.SESSION),
    ):
        parts[f"{name} diagram"] = f"```mermaid\n{tables.diagram(rows)}\n```\n"
        parts[f"{name} table"] = tables.table(rows) + "\n"
    parts["both table"] = tables.table(tables.BOTH) + "\n"
    return parts


def renewed(page: str) -> str:
    """The page with all its parts made anew. KeyError: it names a part that there is not."""
    parts = made()
    return _PLACE.sub(lambda found: found[1] + parts[found[2]] + found[3], page)


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    new = renewed(page)
    if "--check" in sys.argv[1:]:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
