"""All of a home's endpoints behind one door."""

from __future__ import annotations

from tillie.home import routes_accounts, routes_keys, routes_messages
from tillie.home.door import Door
from tillie.home.federation import routes_federation
from tillie.home.service import Home


def app(home: Home) -> Door:
    """The ASGI application of a home that was started."""
    modules = (routes_accounts, routes_keys, routes_messages, routes_federation)
    return Door([route for module in modules for route in module.routes(home)], home.log)
