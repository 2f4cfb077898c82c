"""Finished stanzas around a sealed element (XEP-0384 section "Sending a message", XEP-0334, XEP-0359, XEP-0380)."""

from __future__ import annotations

from collections.abc import Iterable

from tillie.model import Address
from tillie.wire import xml

STORE_HINT = b"<store xmlns='urn:xmpp:hints'/>"
LIVE_HINTS = b"<no-store xmlns='urn:xmpp:hints'/><no-copy xmlns='urn:xmpp:hints'/>"


def message(
    to: Address, message_id: str, sealed: bytes, encryption: bytes, *, kind: str, plain: Iterable[bytes] = ()
) -> bytes:
    """A <message> with its sealed element, the <store/> hint, XEP-0380's <encryption/>, and an <origin-id/>.

    `kind` is the message type. The id is also the origin-id, by which our own copy is known when a server echoes it.
    """
    quoted = xml.attribute(message_id)
    return b"".join(
        (
            b"<message xmlns='jabber:client' type=%s to=%s id=%s>" % (xml.attribute(kind), xml.attribute(to), quoted),
            sealed,
            STORE_HINT,
            encryption,
            b"<origin-id xmlns='urn:xmpp:sid:0' id=%s/>" % quoted,
            *plain,
            b"</message>",
        )
    )


def session_message(
    to: Address, message_id: str, sealed: bytes, thread: str, *, kind: str, plain: Iterable[bytes] = ()
) -> bytes:
    """A <message> of an encrypted session (XEP-0200 section 4): its thread stays readable. Only one resource, now, can
    open it, so that servers are asked to keep and copy it nowhere (XEP-0334)."""
    return b"".join(
        (
            b"<message xmlns='jabber:client' type=%s to=%s id=%s>"
            % (xml.attribute(kind), xml.attribute(to), xml.attribute(message_id)),
            b"<thread>" + xml.escape(thread) + b"</thread>",
            sealed,
            LIVE_HINTS,
            *plain,
            b"</message>",
        )
    )


def body(text: str) -> bytes:
    """A text as a message has it (RFC 6121 section 5.2.3): what is sealed, or beside it for clients that can't open it
    (XEP-0374 section "Provide Hints")."""
    return b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>"


def encryption(namespace: str, name: str) -> bytes:
    """XEP-0380's <encryption/>: tells a client that can't open the message what it is."""
    return b"<encryption xmlns='urn:xmpp:eme:0' namespace=%s name=%s/>" % (
        xml.attribute(namespace),
        xml.attribute(name),
    )
