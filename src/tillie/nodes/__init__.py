"""A node as a person uses it: make it, share it, write, read, sign, take access back. On engine and a service."""

from __future__ import annotations

from tillie.nodes.attaching import Attachments
from tillie.nodes.making import Converted
from tillie.nodes.nodes import Nodes
from tillie.nodes.service import Notification, Service
from tillie.nodes.sharing import Access, Delivered, Removed, Rotated
from tillie.nodes.writing import Published

__all__ = [
    "Access",
    "Attachments",
    "Converted",
    "Delivered",
    "Nodes",
    "Notification",
    "Published",
    "Removed",
    "Rotated",
    "Service",
]
