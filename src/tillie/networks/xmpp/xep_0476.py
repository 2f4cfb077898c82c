"""XEP-0476 (Pubsub Signing: OpenPGP Profile) as a slixmpp plugin: the signatures themselves, by keys of xep_0373.

    client.register_plugin("xep_0476", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0476")

Programs sign and check items with xep_0475; this is for those that keep signatures elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from slixmpp.plugins.base import register_plugin

from tillie.crypto import openpgp
from tillie.errors import Malformed, UsageError
from tillie.model import Device, Done, Need, State
from tillie.networks.xmpp.core import bring
from tillie.networks.xmpp.node_plugin import NodePlugin, Payload, as_bytes
from tillie.networks.xmpp.xep_0373 import XEP_0373
from tillie.pubsub import signing
from tillie.pubsub.signing import OPENPGP_NS as FEATURE
from tillie.pubsub.signing import Signature


class XEP_0476(NodePlugin):
    """Makes and verifies `<signature>` elements."""

    name = "xep_0476"
    description = "XEP-0476: Pubsub Signing: OpenPGP Profile"
    features = (FEATURE,)
    brings = ("xep_0373",)

    def plugin_init(self) -> None:
        super().plugin_init()
        self.keys: XEP_0373 = bring(self, XEP_0373.name)

    async def make_signature(self, jid: object, node: str, payload: Payload, *, also: Iterable[object] = ()) -> bytes:
        """The `<signature>` for a payload in clear at a node, by our active key. Raises `UsageError` without one."""
        engine, scheme = self.core.engine, self.keys.scheme
        statement = signing.statement(self.core.account, engine.now(), also=[self.address(other) for other in also])
        form = signing.signed_form(self.place(jid, node), as_bytes(payload), statement)
        made, _ = await engine.drive(lambda s: Done(scheme.sign(s, form)))
        return signing.encode(Signature(statement, made))

    async def verify_signature(
        self, jid: object, node: str, payload: Payload, signature: Payload, *, signer: object
    ) -> Device:
        """The key that made a `<signature>` of this payload, one that `signer` announces. Whether it is trusted is
        yours to ask. Raises `BadSignature`, `Malformed`, `UsageError` if no key of hers is known."""
        who = self.address(signer)
        parsed = signing.parse(as_bytes(signature))
        if who not in parsed.statement.signers:
            raise Malformed(f"The signature does not name {who} as a signer.")
        form = signing.signed_form(self.place(jid, node), as_bytes(payload), parsed.statement)
        engine, scheme = self.core.engine, self.keys.scheme

        def step(s: State) -> Done[tuple[openpgp.Certificate, ...]] | Need:
            found = scheme.certificates(s, who, engine.now())
            return found if isinstance(found, Need) else Done(found)

        known = await engine.drive(step)
        if not known:
            raise UsageError(f"{who} announces no key that could have signed.")
        return scheme.device_of(openpgp.verify_detached(parsed.signature, form, known), who)


register_plugin(XEP_0476)
