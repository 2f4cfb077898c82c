"""The short cut for forms reads, refuses and normalises as the tree does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fuzz import mutate
from tillie.errors import Malformed
from tillie.negotiation import element
from tillie.wire import forms
from tillie.wire.forms import Dialect, Field

VECTORS = Path(__file__).parents[1] / "vectors" / "esession_gajim_0.16.9.json"
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="&<>'\""), max_size=8)
PIECES = (
    b"<value></value>", b"<value>a</value>", b"<required />", b"<required/>", b"<required></required>", b" ", b"\n",
    b"<option><value>a</value></option>", b'<option label="l"><value>a</value></option>', b"<option></option>",
    b"</field>", b'<field var="v">', b'<field var="">', b'<field var="v" type="fixed">', b'<field var="v" type="odd">',
    b'<field var="v" type="list-single">', b'<field var="v" type="hidden" label="">', b'<field var="v"></field>',
    b'<field label="l" var="v">', b"<field var='v'>", b"<value>&lt;</value>", b"<value>\xc3\xa9</value>", b"<desc/>",
    b'<value xml:lang="en">a</value>', b'<value xmlns="urn:x">a</value>', b"<!-- -->", b"<value/>", b"\x00", b"text",
)  # fmt: skip


@st.composite
def fields(draw: st.DrawFn) -> Field:
    kind = draw(st.sampled_from(("", *forms.FIELD_TYPES)))
    many = 3 if kind in ("hidden", "list-multi", "text-multi", "jid-multi", "fixed") else 1
    options = tuple(draw(st.lists(PLAIN, max_size=3))) if kind.startswith("list") else ()
    labels = tuple(draw(PLAIN) for _ in options) if draw(st.booleans()) else ()
    name, values = draw(PLAIN.filter(bool)), tuple(draw(st.lists(PLAIN, max_size=many)))
    return Field(name, kind, values, options, draw(st.booleans()), draw(PLAIN), labels if any(labels) else ())


WHOLE = st.lists(fields(), min_size=1, max_size=4, unique_by=lambda field: field.var)


def both_agree(data: bytes) -> bool:
    """Whether the short cut took it; it may always leave a form to the tree."""
    form = forms.parse_written(data)
    if form is None:
        return False
    assert form == forms._parse_tree(data)
    for dialect in Dialect:
        for without in ((), [form.fields[0].var]):
            quick = forms._normal_written(data, dialect, without)
            assert quick is None or quick == forms._normal_tree(data, dialect, without)
    return True


@given(st.sampled_from(forms.TYPES), WHOLE)
def test_plain_forms_take_the_short_cut(kind: str, written: list[Field]) -> None:
    form = forms.write(kind, written)
    assert both_agree(form.xml)
    assert forms._normal_written(form.xml, Dialect.STRICT, ()) == forms.normal(form)
    assert element.parse_feature(element.feature(form)) == form
    assert element.parse_init(element.init(form)) == (form, None)


@given(st.integers(0, 2**32), st.sampled_from(forms.TYPES), WHOLE)
def test_mutated_forms_mean_the_same_both_ways(seed: int, kind: str, written: list[Field]) -> None:
    both_agree(mutate(forms.write(kind, written).xml, Random(seed)))


@given(st.sampled_from(("form", "submit", "odd", "")), st.lists(st.sampled_from(PIECES), max_size=9))
def test_pieces_in_any_order_mean_the_same_both_ways(kind: str, pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    both_agree(b'<x xmlns="jabber:x:data" type="%b">%b</x>' % (kind.encode(), body))
    both_agree(b'<x xmlns="jabber:x:data" type="%b"><field var="a">%b</field></x>' % (kind.encode(), body))


LIMITS = {
    "fields": (forms.MAX_FIELDS, lambda n: [Field(f"f{i}") for i in range(n)]),
    "values": (forms.MAX_VALUES, lambda n: [Field("f", "hidden", ("v",) * n)]),
    "options": (forms.MAX_VALUES, lambda n: [Field("f", "list-single", options=("v",) * n)]),
    "name": (forms.MAX_NAME, lambda n: [Field("f" * n)]),
    "label": (forms.MAX_NAME, lambda n: [Field("f", label="l" * n)]),
    "label of an option": (forms.MAX_NAME, lambda n: [Field("f", "list-single", options=("v",), labels=("l" * n,))]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_those_of_the_tree(name: str) -> None:
    limit, make = LIMITS[name]
    body = b"".join(map(forms._write_field, make(limit)))
    more = b"".join(map(forms._write_field, make(limit + 1)))
    opening, closing = b'<x xmlns="jabber:x:data" type="form">', b"</x>"
    assert both_agree(opening + body + closing)
    assert forms.parse_written(opening + more + closing) is None
    with pytest.raises(Malformed):
        forms.parse(opening + more + closing)


def test_a_long_value_is_left_to_the_tree() -> None:
    for size in (forms.MAX_VALUE // 2, forms.MAX_VALUE):
        form = forms.write("submit", [Field("f", values=("v" * size,))])
        assert both_agree(form.xml) is (size < forms.MAX_VALUE)
    with pytest.raises(Malformed):
        forms.parse(form.xml.replace(b"</value>", b"v</value>"))


def test_forms_of_gajim_take_the_short_cut() -> None:
    sessions = json.loads(VECTORS.read_text("utf-8"))["sessions"]
    stanzas = [event["stanza"] for session in sessions for event in session["events"] if "stanza" in event]
    found = [x for stanza in stanzas for x in re.findall(r"<x xmlns=\"jabber:x:data\".*?</x>", stanza)]
    assert len(found) > 4 * len(sessions) - 1
    assert all(both_agree(x.encode()) for x in found)


def test_more_than_a_form_is_left_to_the_tree() -> None:
    form = forms.write("form", [Field("a", values=("1",))])
    whole = element.feature(form)
    for wrong in (whole + b" ", whole.replace(b"</x>", b"</x><x/>"), whole.replace(b"</x>", b"</x>text")):
        assert element._written(wrong, element._FEATURE_OPENING, element._FEATURE_CLOSING) is None
