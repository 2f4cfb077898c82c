"""All of a home's endpoints behind one door."""

from __future__ import annotations

from tillie.home import routes_accounts
from tillie.home.door import Door
from tillie.home.service import Home


def app(home: Home) -> Door:
    """The ASGI application of a home that was started."""
    return Door(routes_accounts.routes(home), home.log)
