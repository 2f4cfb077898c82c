"""`python -m tillie.cli`."""

from __future__ import annotations

import sys

from tillie.cli import main

sys.exit(main())
