"""Tillie: end-to-end encryption for federated messaging (docs/design.md)."""

from __future__ import annotations

__version__ = "0.1.0"
