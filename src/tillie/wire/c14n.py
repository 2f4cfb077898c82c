"""Canonical XML 2.0 (W3C Note, 11 April 2013) with the parameters of XEP-0475, as the one other program has it.

XEP-0475 section "Business Rules": "IgnoreComments is true, TrimTextNodes is true, PrefixRewrite is none, and QNameAware
is the empty set." What is signed is what lxml's `c14n2` writes, byte for byte, where a check below lets it pass:

**Attack.** lxml's writer (and that of Python's own library, from which it comes) gives one form to elements that
differ: to an element without a namespace and one in the default namespace, where a tree was put together; to an
attribute with a namespace and one without, where that namespace is the default one. `<e xmlns="u" xmlns:p="u" p:a="1"
a="2"/>` becomes `<e xmlns="u" a="2" a="1"></e>`. Whoever can change an item could thus change what it says, and not its
signature. So the canonical form of anything but plain XML is read again, and must be what was written, but for trimmed
text. Then no two elements that differ in more than that have one form.

XML without prefixes, as XMPP software writes it, is trimmed here and written by libxml2 as exclusive Canonical XML 1.0:
the same bytes (a property test compares both) in a seventh of the time, and right by construction.

"Trimmed" is Python's `str.strip`: all white space of Unicode, not only XML's.
"""

from __future__ import annotations

from lxml import etree

from tillie.errors import Malformed
from tillie.wire import xml
from tillie.wire.xml import Element

# The general writer looks through all declarations for each name. Honest XML has a handful.
MAX_DECLARATIONS = 1_024
# Characters of all names with their namespaces. The general writer repeats a namespace at each element that uses it, if
# none around it did: 100 kB would unfold to gigabytes.
MAX_NAMES = 4 * xml.MAX_STANZA_BYTES

_DECLARATIONS = ("start-ns",)


def canonical(element: Element) -> bytes:
    """The canonical form (Canonical XML 2.0, trimmed, without comments) of an element from `wire.xml.parse`, or of a
    tree built around one. UTF-8. Changes the element: texts are trimmed in place.

    Raises `Malformed` where another element, which says something else, would have the same form.
    """
    if _is_plain(element):
        try:
            return _exclusive(element)
        except etree.C14NError:
            pass  # a namespace that is no absolute URI, which libxml2's writer refuses
    if sum(1 for _ in etree.iterwalk(element, events=_DECLARATIONS)) > MAX_DECLARATIONS:
        raise Malformed(f"The XML has more than {MAX_DECLARATIONS} namespace declarations.")
    if not _is_written_out(element):
        raise Malformed(f"The names in the XML have more than {MAX_NAMES} characters.")
    data: bytes = etree.tostring(element, method="c14n2", with_comments=False, strip_text=True)  # type: ignore[call-overload]
    try:
        again = xml.parse(data, max_bytes=len(data))
        ambiguous = not _same(element, again)
    except Malformed:
        ambiguous = True  # an attribute twice
    if ambiguous:
        raise Malformed("The XML has no unambiguous canonical form.")
    return data


def loses_space(element: Element) -> bool:
    """Whether trimming takes white space away from a text that says something. Indentation does not count."""
    return any(
        text and text.strip() not in ("", text)
        for node in element.iter()
        for text in (node.text, node.tail if node is not element else None)
    )


def _is_plain(element: Element) -> bool:
    """Whether every element has a namespace and no prefix, and no attribute has a namespace (xml:space is one)."""
    for node in element.iter():
        if node.prefix is not None or node.tag[0] != "{":
            return False
        for name in node.keys():  # noqa: SIM118 - an element's iterator is over its children
            if name[0] == "{":
                return False
    return True


def _exclusive(element: Element) -> bytes:
    for node in element.iter():
        text, tail = node.text, node.tail
        if text and text != (trimmed := text.strip()):
            node.text = trimmed
        if tail and tail != (trimmed := tail.strip()):
            node.tail = trimmed
    data: bytes = etree.tostring(element, method="c14n", exclusive=True, with_comments=False)
    return data


def _is_written_out(element: Element) -> bool:
    left = MAX_NAMES
    for node in element.iter():
        left -= len(node.tag) + sum(map(len, node.keys()))
        if left < 0:
            return False
    return True


def _same(one: Element, other: Element) -> bool:
    """Whether two elements are equal but for white space around texts."""
    ours, theirs = list(one.iter()), list(other.iter())
    return len(ours) == len(theirs) and all(
        a.tag == b.tag
        and len(a) == len(b)
        and sorted(a.items()) == sorted(b.items())
        and (a.text or "").strip() == (b.text or "").strip()
        and (a is one or (a.tail or "").strip() == (b.tail or "").strip())
        for a, b in zip(ours, theirs, strict=True)
    )
