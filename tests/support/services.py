"""Four pubsub services, for tests that must hold on each: Prosody's PEP and component, ejabberd's PEP and component.

Import `server` and `node`, and the fixtures they need: `ejabberd` (of support.ejabberd), `prosody_with_component`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from support.prosody import HOSTS, PASSWORD, require_prosody
from tillie.demo.prosody import PrivateProsody
from tillie.model import Address
from tillie.pubsub.items import Node

JULIET = f"juliet@{HOSTS[0]}"
COMPONENT = f"pubsub.{HOSTS[0]}"
# On Prosody's component only admins make nodes.
OPTIONS = f'Component "{COMPONENT}" "pubsub"\n  expose_publisher = true\n  admins = {{ "{JULIET}" }}\n'


@pytest.fixture(scope="module")
def prosody_with_component() -> Iterator[PrivateProsody]:
    require_prosody()
    server = PrivateProsody(HOSTS, {JULIET: PASSWORD}, options=OPTIONS)
    asyncio.run(server.__aenter__())
    try:
        yield server
    finally:
        asyncio.run(server.__aexit__(None, None, None))


@pytest.fixture(params=["prosody", pytest.param("ejabberd", marks=pytest.mark.heavy)])
def server(request: pytest.FixtureRequest) -> Any:
    if request.param == "prosody":
        return request.getfixturevalue("prosody_with_component")
    started = request.getfixturevalue("ejabberd")
    with contextlib.suppress(RuntimeError):  # it is there already
        started.add_user(JULIET, PASSWORD)
    return started


@pytest.fixture(params=[JULIET, COMPONENT], ids=["pep", "component"])
def node(request: pytest.FixtureRequest) -> Node:
    name = "".join(character if character.isalnum() else "-" for character in request.node.name)
    return Node(Address(request.param), f"node-{name}")
