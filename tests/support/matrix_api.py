"""Requests to a homeserver as bytes go: for what no client of ours would do."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

REQUEST_SECONDS = 30.0
CLIENT = "/_matrix/client/v3"


def call(
    base_url: str, method: str, path: str, body: object = None, token: str = "", tls: ssl.SSLContext | None = None
) -> tuple[int, Any]:
    """One request; the status and the JSON of the answer. Raises OSError if there is none."""
    request = urllib.request.Request(base_url + path, method=method)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS, context=tls) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def must(
    base_url: str, method: str, path: str, body: object = None, token: str = "", tls: ssl.SSLContext | None = None
) -> Any:
    """The same, of a request that has to be answered with 200."""
    status, answer = call(base_url, method, path, body, token, tls)
    assert status == 200, f"{path} was answered with {status} {answer}"
    return answer


def password_login(localpart: str, password: str, device: str) -> dict[str, Any]:
    """The body of a login with a password, to a device of this id."""
    identifier = {"type": "m.id.user", "user": localpart}
    return {"type": "m.login.password", "identifier": identifier, "password": password, "device_id": device}
