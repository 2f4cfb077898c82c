"""What negotiations look like on the wire (XEP-0155, XEP-0020, XEP-0116 sections 4 and 5): forms in `<feature/>` or
`<init/>`, errors, and the rule that a request is not kept for later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tillie.errors import Malformed, UsageError
from tillie.wire import forms, xml
from tillie.wire.forms import Form
from tillie.wire.xml import Element

FEATURE = "http://jabber.org/protocol/feature-neg"
INIT = "http://www.xmpp.org/extensions/xep-0116.html#ns-init"
CONTENT = "http://www.xmpp.org/extensions/xep-0200.html#ns"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
MAX_FEATURE_BYTES = forms.MAX_FORM_BYTES + 1_024
MAX_ERROR_FIELDS = 64

# XEP-0155 section 4.3: the condition, its type, and the old code (XEP-0086) that programs of that time look for.
ERRORS = {
    "service-unavailable": ("cancel", "503"),
    "feature-not-implemented": ("cancel", "501"),
    "not-acceptable": ("modify", "406"),
}

# XEP-0155 section 4.1: "if the user is interested only in an immediate session then the user SHOULD instruct the
# contact's server not to store the message for later delivery". At each server on the way (XEP-0079 section 2.1).
DROP_IF_STORED = (
    b"<amp xmlns='http://jabber.org/protocol/amp' per-hop='true'>"
    b"<rule action='drop' condition='deliver' value='stored'/></amp>"
)


_FEATURE_OPENING, _FEATURE_CLOSING = b'<feature xmlns="%b">' % FEATURE.encode(), b"</feature>"
_INIT_OPENING, _INIT_CLOSING = b'<init xmlns="%b">' % INIT.encode(), b"</init>"


# -- forms ----------------------------------------------------------------------------------------------------------


def feature(form: Form) -> bytes:
    """The `<feature/>` of a negotiation with its form (XEP-0155 section 4.1)."""
    return _FEATURE_OPENING + form.xml + _FEATURE_CLOSING


def init(form: Form, more: bytes = b"") -> bytes:
    """The `<init/>` of message 4 (XEP-0116 section 4.7.4); `more` is a `<c/>` that goes with it."""
    return b"".join((_INIT_OPENING, form.xml, more, _INIT_CLOSING))


def parse_feature(data: bytes) -> Form:
    """The form of a `<feature/>`. Raises `Malformed` if there is anything else in it."""
    written = _written(data, _FEATURE_OPENING, _FEATURE_CLOSING)
    if written:
        return written
    form, more = _form_and_more(_open(data, FEATURE, "feature", MAX_FEATURE_BYTES))
    if more:
        raise Malformed("There is more than a form in the negotiation.")
    return form


def parse_init(data: bytes) -> tuple[Form, bytes | None]:
    """The form of an `<init/>`, and the `<c/>` that came with it. Raises `Malformed` if there is anything else."""
    written = _written(data, _INIT_OPENING, _INIT_CLOSING)
    if written:
        return written, None
    form, more = _form_and_more(_open(data, INIT, "init", xml.MAX_STANZA_BYTES))
    if not more:
        return form, None
    if len(more) > 1 or more[0].tag != f"{{{CONTENT}}}c":
        raise Malformed("There is more than a form and its content in the negotiation.")
    return form, xml.serialise(more[0])


def _written(data: bytes, opening: bytes, closing: bytes) -> Form | None:
    """The form between two tags as we write them; None for all else: a short cut for the parser."""
    if not data.startswith(opening) or not data.endswith(closing):
        return None
    return forms.parse_written(data[len(opening) : -len(closing)])


def _open(data: bytes, namespace: str, name: str, max_bytes: int) -> Element:
    root = xml.parse(data, max_bytes=max_bytes)
    if root.tag != f"{{{namespace}}}{name}":
        raise Malformed(f"That is no <{name}/>.")
    if root.attrib:
        raise Malformed("The negotiation has an attribute that does not belong there.")
    return root


def _form_and_more(root: Element) -> tuple[Form, list[Element]]:
    if any(text and text.strip() for text in (root.text, *(child.tail for child in root))):
        raise Malformed("The negotiation has text where none belongs.")
    tag = f"{{{forms.NAMESPACE}}}x"
    found = [child for child in root if child.tag == tag]
    if len(found) != 1:
        raise Malformed("The negotiation has no form, or more than one.")
    return forms.parse(xml.serialise(found[0])), [child for child in root if child.tag != tag]


# -- errors ---------------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """An error that somebody answered with: the condition (RFC 6120 section 8.3.3), the fields it is about, and a text
    that the sender chose."""

    condition: str
    fields: tuple[str, ...] = ()
    text: str = ""


def error(condition: str, fields: Iterable[str] = (), echo: bytes = b"") -> bytes:
    """The children of a message of type error (XEP-0155 section 4.3): `echo`, the element that is answered, as it came
    if it is XML, and the `<error/>`, which names the offending fields."""
    if condition not in ERRORS:
        raise UsageError(f"No negotiation is answered with {condition!r}.")
    kind, code = ERRORS[condition]
    named = b"".join(b"<field var=%b/>" % xml.attribute(var) for var in fields)
    about = b"<feature xmlns='%b'>%b</feature>" % (FEATURE.encode(), named) if named else b""
    return b"%b<error xmlns='jabber:client' code='%b' type='%b'><%b xmlns='%b'/>%b</error>" % (
        _echoed(echo),
        code.encode(),
        kind.encode(),
        condition.encode(),
        STANZAS.encode(),
        about,
    )


def _echoed(element: bytes) -> bytes:
    """An element as it came, if it is one: what does not parse would break our own stream."""
    try:
        xml.parse(element, max_bytes=MAX_FEATURE_BYTES)
    except Malformed:
        return b""
    return element


def parse_error(data: bytes) -> Failure:
    """What an `<error/>` says (RFC 6120 section 8.3, XEP-0155 section 4.3). Raises `Malformed`.

    Servers answer for clients that are not there, so any condition may come, and elements that nobody here knows.
    """
    root = xml.parse(data, max_bytes=MAX_FEATURE_BYTES)
    if root.tag not in ("{jabber:client}error", "{jabber:server}error"):
        raise Malformed("That is no error.")
    condition, text = "undefined-condition", ""
    fields: list[str] = []
    for child in root:
        namespace, _, name = str(child.tag)[1:].rpartition("}")
        if namespace == STANZAS and name == "text":
            text = xml.text_of(child)[: forms.MAX_VALUE]
        elif namespace == STANZAS:
            condition = name
        elif child.tag == f"{{{FEATURE}}}feature":
            fields += [field.get("var", "") for field in child.iterfind(f"{{{FEATURE}}}field")]
    if len(fields) > MAX_ERROR_FIELDS:
        raise Malformed(f"The error names more than {MAX_ERROR_FIELDS} fields.")
    return Failure(condition, tuple(var for var in fields if var), text)
