"""wire.forms: what goes out comes back, what does not belong is refused, and there is one normal form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from support.fuzz import mutate
from tillie.errors import Malformed, PeerError, UsageError
from tillie.wire import forms, xml
from tillie.wire.forms import Dialect, Field, Form

VECTORS = Path(__file__).parents[1] / "vectors" / "esession_gajim_0.16.9.json"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\ufffe\uffff", min_codepoint=32), max_size=8) | st.text(
    st.sampled_from("ab \t\n\r<>&\"']é𝄞"), max_size=8
)
NAME = st.text(st.sampled_from("abcFORM_TYPE:/#<&\"'é"), min_size=1, max_size=6)


@st.composite
def fields(draw: st.DrawFn) -> Field:
    kind = draw(st.sampled_from(("", *forms.FIELD_TYPES)))
    many = 3 if kind in ("hidden", "list-multi", "text-multi", "jid-multi", "fixed") else 1
    options = tuple(draw(st.lists(TEXT, max_size=3))) if kind.startswith("list") else ()
    labels = tuple(draw(TEXT) for _ in options) if draw(st.booleans()) else ()
    return Field(
        draw(NAME),
        kind,
        tuple(draw(st.lists(TEXT, max_size=many))),
        options,
        draw(st.booleans()),
        draw(TEXT),
        labels if any(labels) else (),
    )


WHOLE = st.lists(fields(), max_size=4, unique_by=lambda field: field.var)


# -- out and back ---------------------------------------------------------------------------------------------------


@given(st.sampled_from(forms.TYPES), WHOLE)
def test_a_form_comes_back_with_its_fields_in_order(kind: str, written: list[Field]) -> None:
    form = forms.write(kind, written)
    assert form == Form(kind, tuple(written), form.xml)
    assert forms.parse(form.xml) == form
    assert forms.write(kind, form.fields).xml == form.xml


def test_questions_to_a_form() -> None:
    form = forms.write("submit", [Field("a", values=("1", "2")), Field("b"), Field("c", values=("",))])
    assert form.get("a") == Field("a", values=("1", "2"))
    assert form.get("d") is None
    assert form.values("a") == ("1", "2")
    assert (form.values("b"), form.values("d")) == ((), ())
    assert (form.value("b"), form.value("c"), form.value("d")) == ("", "", "")
    with pytest.raises(Malformed):
        form.value("a")


@pytest.mark.parametrize(("text", "meaning"), [("1", True), ("true", True), ("0", False), ("false", False)])
def test_booleans(text: str, meaning: bool) -> None:
    form = forms.write("submit", [Field("accept", values=(text,))])
    assert form.boolean("accept") is meaning
    assert form.boolean("other") is None


@pytest.mark.parametrize("values", [(), ("",), ("yes",), ("True",), (" 1",), ("2",), ("1", "1"), ("\u0661",)])
def test_what_is_no_boolean(values: tuple[str, ...]) -> None:
    with pytest.raises(Malformed):
        forms.write("submit", [Field("accept", values=values)]).boolean("accept")


def test_values_are_not_in_what_is_printed() -> None:
    form = forms.write("submit", [Field("password", values=("attack at dawn",))])
    assert "attack" not in repr(form)
    assert "password" in repr(form)


# -- what is refused ------------------------------------------------------------------------------------------------


def of(inside: str, kind: str = "form", start: str = "") -> bytes:
    return f"<x xmlns='jabber:x:data' type='{kind}'{start}>{inside}</x>".encode()


BAD = {
    "another element": b"<y xmlns='jabber:x:data' type='form'/>",
    "another namespace": b"<x xmlns='jabber:x:date' type='form'/>",
    "no namespace": b"<x type='form'/>",
    "no type": b"<x xmlns='jabber:x:data'/>",
    "unknown type": of("", "error"),
    "attribute": of("", start=" lang='en'"),
    "attribute in a namespace": of("", start=" xml:lang='en'"),
    "text": of("hello"),
    "text behind": of("<field var='a'/>hello"),
    "no-break space": of("\u00a0"),
    "CDATA": of("<![CDATA[x]]>"),
    "comment": of("<field var='a'><value>1<!-- -->0</value></field>"),
    "entity": of("<field var='a'><value>&a;</value></field>"),
    "instruction": of("<?a?>"),
    "doctype": b"<!DOCTYPE x>" + of(""),
    "reported": of("<reported/>", "result"),
    "item": of("<item><field var='a'/></item>", "result"),
    "foreign element": of("<a xmlns='urn:a'/>"),
    "foreign element in a field": of("<field var='a'><validate xmlns='urn:v'/></field>"),
    "children in a title": of("<title><b/></title>"),
    "a field twice": of("<field var='a'/><field var='a'/>"),
    "a field twice, one of them fixed": of("<field var='a' type='fixed'/><field var='a'/>"),
    "a field without name": of("<field><value>1</value></field>"),
    "a hidden field without name": of("<field type='hidden'/>"),
    "a field with an empty name": of("<field var=''/>"),
    "a field of unknown type": of("<field var='a' type='list'/>"),
    "an attribute of a field": of("<field var='a' name='b'/>"),
    "a prefixed attribute of a field": of("<field xmlns:p='urn:p' var='a' p:var='b'/>"),
    "text in a field": of("<field var='a'>1</field>"),
    "text between values": of("<field var='a' type='hidden'><value>1</value>1<value>1</value></field>"),
    "children in a value": of("<field var='a'><value><value>1</value></value></field>"),
    "an attribute of a value": of("<field var='a'><value a='1'>1</value></field>"),
    "required twice": of("<field var='a'><required/><required/></field>"),
    "required with text": of("<field var='a'><required>1</required></field>"),
    "required with children": of("<field var='a'><required><a/></required></field>"),
    "description twice": of("<field var='a'><desc/><desc/></field>"),
    "options of no list": of("<field var='a'><option><value>1</value></option></field>"),
    "options of a hidden field": of("<field var='a' type='hidden'><option><value>1</value></option></field>"),
    "an option without value": of("<field var='a' type='list-single'><option/></field>"),
    "an option of two values": of(
        "<field var='a' type='list-single'><option><value>1</value><value>2</value></option></field>"
    ),
    "text in an option": of("<field var='a' type='list-single'><option>1<value>1</value></option></field>"),
    "an attribute of an option": of("<field var='a' type='list-single'><option a='1'><value/></option></field>"),
    "two values of a field without type": of("<field var='a'><value>1</value><value>2</value></field>"),
    **{
        f"two values of {kind}": of(f"<field var='a' type='{kind}'><value>1</value><value>2</value></field>")
        for kind in ("boolean", "jid-single", "list-single", "text-private", "text-single")
    },
    "two values of a chosen list-single": of(
        "<field var='a' type='list-single'><value>1</value><value>2</value></field>", "submit"
    ),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        forms.parse(data)


def test_what_people_and_old_programs_write() -> None:
    """Titles and texts for people are no fields; Gajim marks lists as single lines in its answers."""
    form = forms.parse(
        of(
            "\n <title>Open chat?</title><instructions>1</instructions><instructions/>\n"
            "<field type='fixed'><value>Section 1</value></field>"
            "<field var='a' label='A'><desc>what it is</desc> <required/>\t<value>1</value></field>"
        )
    )
    assert form.fields == (Field("a", values=("1",), required=True, label="A"),)
    many = of("<field var='a' type='text-single'><value>1</value><value>2</value></field>", "result")
    assert forms.parse(many).values("a") == ("1", "2")
    prefixed = b"<p:x xmlns:p='jabber:x:data' type='submit'><p:field var='a'><p:value>1</p:value></p:field></p:x>"
    assert forms.parse(prefixed).value("a") == "1"


LIMITS = {
    "fields": (forms.MAX_FIELDS, lambda n: [Field(f"f{i}") for i in range(n)]),
    "values": (forms.MAX_VALUES, lambda n: [Field("a", "hidden", ("",) * n)]),
    "options": (forms.MAX_VALUES, lambda n: [Field("a", "list-single", options=("",) * n)]),
    "characters of a value": (forms.MAX_VALUE, lambda n: [Field("a", values=("é" * n,))]),
    "characters of an option": (forms.MAX_VALUE, lambda n: [Field("a", "list-multi", options=("é" * n,))]),
    "characters of a name": (forms.MAX_NAME, lambda n: [Field("é" * n)]),
    "characters of a label": (forms.MAX_NAME, lambda n: [Field("a", label="é" * n)]),
    "characters of an option's label": (
        forms.MAX_NAME,
        lambda n: [Field("a", "list-single", options=("",), labels=("é" * n,))],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("limit", "make"), LIMITS.values(), ids=LIMITS)
def test_limits(limit: int, make: Any) -> None:
    assert forms.write("form", make(limit))
    with pytest.raises(UsageError):
        forms.write("form", make(limit + 1))


def test_size() -> None:
    def form(size: int) -> bytes:
        value = "x" * forms.MAX_VALUE
        seven = "".join(f"<field var='{i}'><value>{value}</value></field>" for i in range(7))
        rest = size - len(of(f"{seven}<title></title>"))
        assert 0 < rest < forms.MAX_VALUE
        return of(f"{seven}<title>{'x' * rest}</title>")

    assert len(form(forms.MAX_FORM_BYTES)) == forms.MAX_FORM_BYTES
    assert forms.parse(form(forms.MAX_FORM_BYTES))
    with pytest.raises(Malformed):
        forms.parse(form(forms.MAX_FORM_BYTES + 1))


@pytest.mark.parametrize(
    "written",
    [
        [Field("a"), Field("a")],
        [Field("")],
        [Field("a", "list")],
        [Field("a", options=("1",))],
        [Field("a", "boolean", ("1", "0"))],
        [Field("a", values=("\x00",))],
        [Field("a\x1b")],
        [Field("a", "list-single", options=("1", "2"), labels=("one",))],
    ],
)
def test_what_can_not_be_written(written: list[Field]) -> None:
    with pytest.raises(UsageError):
        forms.write("form", written)


@given(st.integers(0, 2**32), st.sampled_from(forms.TYPES), WHOLE)
def test_mutated_forms_raise_only_typed_errors(seed: int, kind: str, written: list[Field]) -> None:
    data = mutate(forms.write(kind, written).xml, Random(seed))
    try:
        form = forms.parse(data)
    except PeerError:
        return
    for dialect in Dialect:
        forms.normal(form, dialect)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_raise_only_typed_errors(data: bytes) -> None:
    with pytest.raises(PeerError):
        forms.parse(data)


# -- the normal form ------------------------------------------------------------------------------------------------


def reference(form: Form) -> bytes:
    """Canonical XML of what is in a form, by libxml2, its namespace taken away, and white space between elements."""
    parts = []
    for child in xml.parse(form.xml):
        for node in child.iter():
            if len(node) and not (node.text or "").strip():
                node.text = None
            if node is not child and not (node.tail or "").strip():
                node.tail = None
        data: bytes = etree.tostring(child, method="c14n", exclusive=True, with_tail=False)
        parts.append(data.replace(b' xmlns="jabber:x:data"', b"", 1))
    return b"".join(parts)


@given(st.sampled_from(forms.TYPES), WHOLE, st.sampled_from(("", " ", "\n\t")))
def test_the_strict_form_is_canonical_xml_without_namespace(kind: str, written: list[Field], space: str) -> None:
    form = forms.write(kind, written)
    assert forms.normal(form) == reference(form)
    indented = re.sub(b"(<required />)", space.encode() + rb"\1" + space.encode(), form.xml)
    assert forms.normal(forms.parse(indented)) == forms.normal(form)


@given(WHOLE)
def test_the_dialects_differ_only_in_empty_elements(written: list[Field]) -> None:
    form = forms.write("form", written)
    as_pairs = re.sub(rb"<(\w+)((?: \w+=\"[^\"]*\")*) />", rb"<\1\2></\1>", forms.normal(form, Dialect.GAJIM))
    assert as_pairs == forms.normal(form)


def test_the_normal_form_by_example() -> None:
    form = forms.parse(
        b"<x xmlns='jabber:x:data' type='form'>\n <field var='a' type='hidden' label='&lt;&#9;&quot;>'> <required/>"
        b"<value>1 &lt; 2 &gt; &amp; &#13; \"'</value>\n</field>\n<field var='b'/> </x>"
    )
    assert forms.normal(form) == (
        b'<field label="&lt;&#x9;&quot;>" type="hidden" var="a"><required></required>'
        b'<value>1 &lt; 2 &gt; &amp; &#xD; "\'</value></field><field var="b"></field>'
    )
    assert forms.normal(form, Dialect.GAJIM) == (
        b'<field label="&lt;&#x9;&quot;>" type="hidden" var="a"> <required />'
        b'<value>1 &lt; 2 &gt; &amp; &#xD; "\'</value>\n</field><field var="b" />'
    )
    assert forms.normal(form, without=("a",)) == b'<field var="b"></field>'


@given(WHOLE.filter(bool), st.data())
def test_what_is_left_out_leaves_no_trace(written: list[Field], data: st.DataObject) -> None:
    left_out = data.draw(st.sets(st.sampled_from([field.var for field in written])))
    kept = [field for field in written if field.var not in left_out]
    for dialect in Dialect:
        whole = forms.normal(forms.write("result", written), dialect, without=left_out)
        assert whole == forms.normal(forms.write("result", kept), dialect)


def recorded() -> dict[str, Any]:
    sessions = json.loads(VECTORS.read_text("utf-8"))["sessions"]
    return {session["name"]: session for session in sessions}


@pytest.mark.parametrize("session", recorded().values(), ids=recorded())
def test_forms_of_gajim(session: Any) -> None:
    """Gajim's forms are read, written again byte for byte, and normalised as it did."""
    found: dict[str, list[Form]] = {"alice": [], "bob": []}
    hashed = b""
    for event in session["events"]:
        for x in re.findall(r"<x xmlns=\"jabber:x:data\".*?</x>", event.get("stanza", "")):
            form = forms.parse(x.encode())
            found[event["from"]].append(form)
            assert forms.write(form.type, form.fields).xml == x.encode()
        hashed += b"".join(bytes.fromhex(call["content"]) for call in event.get("trace", []) if "content" in call)
    first, third = found["alice"][:2]
    second, fourth = found["bob"][:2]
    state = session["after_negotiation"]["alice"]
    assert forms.normal(first, Dialect.GAJIM).decode() == state["form_s"]
    assert forms.normal(second, Dialect.GAJIM).decode() == state["form_o"]
    for form in (first, second, third, fourth):
        assert forms.normal(form, Dialect.GAJIM, without=("identity", "mac")) in hashed
    assert forms.normal(first) not in hashed  # it has <required/>
