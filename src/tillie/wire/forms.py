"""Data forms (XEP-0004), as far as negotiations use them, and their normal form (XEP-0116 section 6.2).

    <x xmlns="jabber:x:data" type="form">
      <title/>? <instructions/>*                                    kept in `Form.xml` alone
      <field var="..." type="..."? label="..."?>
        <desc/>? <value/>* <required/>? (<option label="..."?><value/></option>)*
      </field>*
    </x>

The reader is strict: nothing but the above, one field for each `var`, text only where text belongs. A field of type
"fixed" without `var` is a text for people: it stays in `Form.xml` and in the normal form, and is none of `Form.fields`.
What MACs cover is computed from the XML as it was sent or came, never from what was read out of it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from tillie.errors import Malformed, UsageError
from tillie.wire import xml
from tillie.wire.xml import Element

NAMESPACE = "jabber:x:data"
TYPES = ("form", "submit", "cancel", "result")
FIELD_TYPES = (
    "boolean",
    "fixed",
    "hidden",
    "jid-multi",
    "jid-single",
    "list-multi",
    "list-single",
    "text-multi",
    "text-private",
    "text-single",
)
MAX_FORM_BYTES = 131_072
MAX_FIELDS = 64
MAX_VALUES = 256  # values, or options, of one field
MAX_VALUE = 16_384  # characters of a value, an option, a title, an instruction or a description
MAX_NAME = 512  # characters of a `var` or a label

_TRUE = ("1", "true")
_FALSE = ("0", "false")
_LISTS = ("list-multi", "list-single")
_SPACE = " \t\r\n"
# An answer needs no types, and programs that write them write "text-single" on fields of many values.
_SINGLE = ("boolean", "jid-single", "list-single", "text-private")
_SINGLE_IN_FORM = (*_SINGLE, "text-single", "")


class Field(NamedTuple):
    """One field (XEP-0004 section 3.2). `type` is "" where there is none; `labels` are those of the options, in their
    order, or () if no option has one."""

    var: str
    type: str = ""
    values: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    required: bool = False
    label: str = ""
    labels: tuple[str, ...] = ()


class Form(NamedTuple):
    """A data form (XEP-0004 section 3): its type, its fields in their order, and the `<x/>` exactly as it goes or
    came, UTF-8."""

    type: str
    fields: tuple[Field, ...]
    xml: bytes

    def __repr__(self) -> str:
        return f"Form({self.type!r}, {tuple(field.var for field in self.fields)!r})"  # values may be secret

    def get(self, var: str) -> Field | None:
        return next((field for field in self.fields if field.var == var), None)

    def values(self, var: str) -> tuple[str, ...]:
        """All values of a field; () if it has none or is absent."""
        field = self.get(var)
        return field.values if field else ()

    def value(self, var: str) -> str:
        """The value of a field; "" if it has none or is absent. Raises `Malformed` if it has several."""
        values = self.values(var)
        if len(values) > 1:
            raise Malformed(f"The field {var!r} has several values.")
        return values[0] if values else ""

    def boolean(self, var: str) -> bool | None:
        """The value of a boolean field (XEP-0004 section 3.3); None if it is absent. Raises `Malformed` if it is
        neither 1, true, 0 nor false."""
        if self.get(var) is None:
            return None
        value = self.value(var)
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise Malformed(f"The field {var!r} is neither true nor false.")


# -- reading --------------------------------------------------------------------------------------------------------


def parse(x: bytes) -> Form:
    """A form from the bytes of its `<x/>` (XEP-0004 section 3). Raises `Malformed`."""
    return parse_written(x) or _parse_tree(x)


def _parse_tree(x: bytes) -> Form:
    root = xml.parse(x, max_bytes=MAX_FORM_BYTES)
    if root.tag != _tag("x"):
        raise Malformed("That is not a data form.")
    form_type = _attributes(root, "type").get("type", "")
    if form_type not in TYPES:
        raise Malformed("The form has no type that is known.")
    single = _SINGLE_IN_FORM if form_type == "form" else _SINGLE
    fields: list[Field] = []
    for child in _children(root):
        if child.tag == _tag("field"):
            field = _field(child, single)
            if field.var or field.type != "fixed":
                fields.append(field)
        elif child.tag in (_tag("title"), _tag("instructions")):
            _text(child)
        else:
            raise Malformed("The form has an element that does not belong there.")
        if len(fields) > MAX_FIELDS:
            raise Malformed(f"The form has more than {MAX_FIELDS} fields.")
    if len({field.var for field in fields}) < len(fields):
        raise Malformed("The form has a field twice.")
    return Form(form_type, tuple(fields), x)


def _field(element: Element, single: tuple[str, ...]) -> Field:
    attributes = _attributes(element, "var", "type", "label")
    var, field_type = attributes.get("var", ""), attributes.get("type", "")
    if field_type and field_type not in FIELD_TYPES:
        raise Malformed("A field has an unknown type.")
    if not var and field_type != "fixed":
        raise Malformed("A field has no name.")
    values: list[str] = []
    options: list[tuple[str, str]] = []
    seen: list[str] = []  # what may be there once
    for child in _children(element):
        if child.tag == _tag("value"):
            values.append(_text(child))
        elif child.tag == _tag("option"):
            options.append(_option(child))
        elif child.tag == _tag("required") and not _text(child):
            seen.append("required")
        elif child.tag == _tag("desc"):
            _text(child)
            seen.append("desc")
        else:
            raise Malformed("A field has an element that does not belong there.")
    if len(set(seen)) < len(seen):
        raise Malformed("A field has an element twice that may be there once.")
    if max(len(values), len(options)) > MAX_VALUES:
        raise Malformed(f"A field has more than {MAX_VALUES} values.")
    if len(values) > 1 and field_type in single:
        raise Malformed(f"The field {var!r} has several values.")
    if options and field_type not in _LISTS:
        raise Malformed(f"The field {var!r} is no list and has options.")
    labels = tuple(label for label, _ in options)
    return Field(
        var,
        field_type,
        tuple(values),
        tuple(value for _, value in options),
        "required" in seen,
        attributes.get("label", ""),
        labels if any(labels) else (),
    )


def _option(element: Element) -> tuple[str, str]:
    """The label and the value of an option."""
    children = _children(element)
    if len(children) != 1 or children[0].tag != _tag("value"):
        raise Malformed("An option has no value, or more than one.")
    return _attributes(element, "label").get("label", ""), _text(children[0])


def _children(element: Element) -> list[Element]:
    """The children of an element that may have white space between them and no other text."""
    children = list(element)
    if any(text and text.strip(_SPACE) for text in (element.text, *(child.tail for child in children))):
        raise Malformed("The form has text where none belongs.")
    return children


def _attributes(element: Element, *known: str) -> dict[str, str]:
    attributes = {str(name): str(value) for name, value in element.items()}
    if not attributes.keys() <= set(known):
        raise Malformed("The form has an attribute that does not belong there.")
    if any(len(value) > MAX_NAME for value in attributes.values()):
        raise Malformed(f"A name or a label in the form is longer than {MAX_NAME} characters.")
    return attributes


def _text(element: Element) -> str:
    _attributes(element)
    text = xml.text_of(element)
    if len(text) > MAX_VALUE:
        raise Malformed(f"A text in the form is longer than {MAX_VALUE} characters.")
    return text


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


# -- writing --------------------------------------------------------------------------------------------------------


def write(type: str, fields: Iterable[Field]) -> Form:
    """A form of this type with these fields, in their order (XEP-0004 section 3).

    It is written in the spelling that Gajim uses, which is XML like any other: so recorded forms come out byte for
    byte. Raises `UsageError` on what `parse` would refuse.
    """
    body = b"".join(map(_write_field, fields))
    try:
        return parse(b'<x xmlns="jabber:x:data" type=%b>%b</x>' % (_quoted(type), body))
    except Malformed as error:
        raise UsageError(error.detail) from None


def _write_field(field: Field) -> bytes:
    if field.labels and len(field.labels) != len(field.options):
        raise UsageError("Options and their labels are not as many.")
    attributes = (("var", field.var), ("type", field.type), ("label", field.label))
    parts = [b"<field%b>" % b"".join(b" %b=%b" % (name.encode(), _quoted(text)) for name, text in attributes if text)]
    parts.extend(b"<value>%b</value>" % xml.escape(value) for value in field.values)
    if field.required:
        parts.append(b"<required />")
    for option, label in zip(field.options, field.labels or [""] * len(field.options), strict=True):
        start = b"<option label=%b>" % _quoted(label) if label else b"<option>"
        parts.append(b"%b<value>%b</value></option>" % (start, xml.escape(option)))
    return b"".join(parts) + b"</field>"


def _quoted(text: str) -> bytes:
    return b'"' + xml.attribute(text)[1:-1] + b'"'


# -- the normal form ------------------------------------------------------------------------------------------------


class Dialect(Enum):
    """How a normal form is written. XEP-0116 section 6.2 can be read in more ways than one (docs/spec-notes.md)."""

    STRICT = "strict"  # empty elements as pairs, no text between elements
    GAJIM = "gajim"  # <required />, and white space stays where it is inside a field


_TEXT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"})
_ATTRIBUTE_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"}
)
_PLAIN = re.compile('[^&<>"\t\n\r]*+')


def normal(form: Form | bytes, dialect: Dialect = Dialect.STRICT, *, without: Container[str] = ()) -> bytes:
    """The normal form of a form's content: what hashes and MACs cover (XEP-0116 section 6.2).

    The children of `<x/>` in their order, the fields named in `without` left out, as canonical XML without namespaces:
    attributes sorted, in double quotes, one space before each. `form` must come from `parse` or `write`, or
    be the `xml` of one that did.
    """
    x = form if isinstance(form, bytes) else form.xml
    return _normal_written(x, dialect, without) or _normal_tree(x, dialect, without)


def _normal_tree(x: bytes, dialect: Dialect, without: Container[str]) -> bytes:
    root = xml.parse(x, max_bytes=MAX_FORM_BYTES)
    kept = (child for child in root if not (child.tag == _tag("field") and child.get("var", "") in without))
    return "".join(_normal(child, dialect) for child in kept).encode()


def _normal(element: Element, dialect: Dialect) -> str:
    name = str(element.tag).rpartition("}")[2]
    start = name + "".join(
        f' {key!s}="{_escaped(str(value), _ATTRIBUTE_ESCAPES)}"' for key, value in sorted(element.items())
    )
    spaced = dialect is Dialect.GAJIM
    parts: list[str] = []
    if element.text and (spaced or not len(element)):
        parts.append(_escaped(element.text, _TEXT_ESCAPES))
    for child in element:
        parts.append(_normal(child, dialect))
        if spaced and child.tail:
            parts.append(_escaped(child.tail, _TEXT_ESCAPES))
    if spaced and not parts:
        return f"<{start} />"
    return f"<{start}>{''.join(parts)}</{name}>"


def _escaped(text: str, escapes: dict[int, str]) -> str:
    return text if _PLAIN.fullmatch(text) else text.translate(escapes)


# -- a short cut ----------------------------------------------------------------------------------------------------
#
# A negotiation reads each of its forms up to five times. In the spelling of `write`, without any character that would
# need an escape, one regular expression for a field reads and normalises for a quarter of what a tree costs. It takes
# only what a tree takes too, with the same meaning (a property test holds both against each other).

_TEXT = "[ !#-%'-;=?-~]*+"  # printable ASCII, but for " & < >
_OPENING = re.compile('<x xmlns="jabber:x:data" type="([a-z]++)">')
_CLOSING = "</x>"
_VALUE, _VALUE_END = "<value>", "</value>"
_WRITTEN_OPTION = f'<option(?: label="({_TEXT})")?+><value>({_TEXT})</value></option>'
_OPTION = re.compile(_WRITTEN_OPTION)
_FIELD = re.compile(
    f'<field var="({_TEXT})"(?: type="([a-z-]++)")?+(?: label="({_TEXT})")?+>((?:<value>{_TEXT}</value>)*+)'
    f"(<required ?/>)?+((?:{_WRITTEN_OPTION.replace(f'({_TEXT})', _TEXT)})*+)</field>"
)
_KINDS = frozenset({"", *FIELD_TYPES})
_EMPTY = (b"<value></value>", b'"></field>')  # which Gajim's dialect writes in its own way


def parse_written(x: bytes) -> Form | None:
    """A form in the spelling of `write`; None for any other, which `parse` may still take, and for what it refuses."""
    form_type, found = _written(x)
    single = _SINGLE_IN_FORM if form_type == "form" else _SINGLE
    fields = []
    for one in found:
        var, kind, label, coded, required, options = one.groups(default="")
        values = tuple(coded[len(_VALUE) : -len(_VALUE_END)].split(_VALUE_END + _VALUE)) if coded else ()
        labels, choices = zip(*_OPTION.findall(options), strict=True) if options else ((), ())
        if (
            not var
            or kind not in _KINDS
            or (len(values) > 1 and kind in single)
            or (choices and kind not in _LISTS)
            or (len(one[0]) > MAX_NAME and not _within_limits(one[0], (var, label, *labels), values, choices))
        ):
            return None
        fields.append(Field(var, kind, values, choices, bool(required), label, labels if any(labels) else ()))
    if not 0 < len(fields) <= MAX_FIELDS or len({field.var for field in fields}) < len(fields):
        return None
    return Form(form_type, tuple(fields), x)


def _within_limits(field: str, names: Iterable[str], values: Sequence[str], choices: Sequence[str]) -> bool:
    return len(field) <= MAX_VALUE and max(map(len, names)) <= MAX_NAME and max(len(values), len(choices)) <= MAX_VALUES


def _normal_written(x: bytes, dialect: Dialect, without: Container[str]) -> bytes | None:
    found = _written(x)[1]
    if not found or (dialect is Dialect.GAJIM and any(empty in x for empty in _EMPTY)):
        return None
    must = "<required />" if dialect is Dialect.GAJIM else "<required></required>"
    parts = []
    for one in found:
        var, kind, label, values, required, options = one.groups(default="")
        if var not in without:
            before = f' label="{label}"' if one[3] is not None else ""
            before += f' type="{kind}"' if kind else ""
            parts.append(f'<field{before} var="{var}">{values}{must if required else ""}{options}</field>')
    return "".join(parts).encode()


def _written(x: bytes) -> tuple[str, list[re.Match[str]]]:
    """The type of a form in the spelling of `write`, and its fields; no fields if it is not in that spelling."""
    text = x.decode("ascii", "replace") if len(x) <= MAX_FORM_BYTES else ""
    start = _OPENING.match(text)
    if start is None or start[1] not in TYPES or not text.endswith(_CLOSING):
        return "", []
    found: list[re.Match[str]] = []
    at, end = start.end(), len(text) - len(_CLOSING)
    while at < end and len(found) <= MAX_FIELDS and (one := _FIELD.match(text, at)):
        found.append(one)
        at = one.end()
    return (start[1], found) if at == end else ("", [])
