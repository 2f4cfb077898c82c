"""Two homes as processes of their own: TLS, names that certificates must have, and addresses that are not spoken to."""

from __future__ import annotations

from support.certificates import Certificates, certificates
from support.homes import PrivateHome

__all__ = ["certificates"]

QUERY = "/_matrix/client/v3/keys/query"
SYNC = "/_matrix/client/v3/sync"


def test_homes_federate_over_tls_and_what_waits_survives_a_kill(certificates: Certificates) -> None:
    with PrivateHome(certificates) as first, PrivateHome(certificates) as second:
        first.register("ann")
        second.register("bob")
        ann, bob = first.login("ann", "A"), second.login("bob", "B")
        elsewhere = f"@x:127.0.0.1:{second.port}"  # not in its certificate
        answer = first.must("POST", QUERY, {"device_keys": {bob.user: [], elsewhere: [], "@x:10.0.0.1": []}}, ann.token)
        assert answer["device_keys"] == {bob.user: {}}
        assert set(answer["failures"]) == {f"127.0.0.1:{second.port}", "10.0.0.1"}
        since = second.must("GET", SYNC, token=bob.token)["next_batch"]
        second.stop(kill=True)
        body = {"messages": {bob.user: {"B": {"n": 1}}}}
        first.must("PUT", "/_matrix/client/v3/sendToDevice/m.test/1", body, ann.token)
        first.restart(kill=True)
        second.start()
        second.wait()
        answer = second.must("GET", f"{SYNC}?timeout=20000&since={since}", token=bob.token)
        assert [each["content"] for each in answer["to_device"]["events"]] == [{"n": 1}]


def test_a_home_speaks_to_no_private_address_unless_it_may(certificates: Certificates) -> None:
    with PrivateHome(certificates) as first:
        text = first.config_file.read_text()
        changed = text.replace('allow = ["127.0.0.0/8", "::1/128"]', "allow = []")
        assert changed != text
        first.config_file.write_text(changed)
        first.restart()
        first.register("ann")
        ann = first.login("ann", "A")
        names = ("localhost:1", "127.0.0.1", "[::1]")
        answer = first.must("POST", QUERY, {"device_keys": {f"@x:{name}": [] for name in names}}, ann.token)
        assert set(answer["failures"]) == set(names)
        for failure in answer["failures"].values():
            assert "ClientConnectorError" not in failure["message"], "it was not even tried"
