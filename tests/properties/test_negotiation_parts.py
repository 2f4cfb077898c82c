"""negotiation: elements and errors, choosing among options, threads."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fuzz import mutate
from tillie.errors import Malformed, NegotiationFailed, PeerError, UsageError
from tillie.negotiation import element, options, threads
from tillie.negotiation.element import Failure
from tillie.negotiation.threads import Thread
from tillie.wire import forms, xml
from tillie.wire.forms import Field, Form

FORM = forms.write("form", [Field("FORM_TYPE", "hidden", ("urn:xmpp:ssn",)), Field("accept", "boolean", ("1",))])
CONTENT = f'<c xmlns="{element.CONTENT}"><data>AA==</data><mac>AA==</mac></c>'.encode()
VALUES = st.sampled_from(("a", "b", "c", "d"))
LISTS = st.lists(VALUES, max_size=3, unique=True)


# -- elements -------------------------------------------------------------------------------------------------------


def test_forms_travel_in_their_elements() -> None:
    assert element.parse_feature(element.feature(FORM)) == FORM
    assert element.parse_init(element.init(FORM)) == (FORM, None)
    assert element.parse_init(element.init(FORM, CONTENT)) == (FORM, CONTENT)


FEATURE = f"<feature xmlns='{element.FEATURE}'>"
BAD = {
    "empty": f"{FEATURE}</feature>",
    "two forms": FEATURE + 2 * FORM.xml.decode() + "</feature>",
    "a form and more": f"{FEATURE}{FORM.xml.decode()}<a xmlns='urn:a'/></feature>",
    "a form and content": f"{FEATURE}{FORM.xml.decode()}{CONTENT.decode()}</feature>",
    "text": f"{FEATURE}hello{FORM.xml.decode()}</feature>",
    "text behind": f"{FEATURE}{FORM.xml.decode()}hello</feature>",
    "an attribute": f"<feature xmlns='{element.FEATURE}' a='1'>{FORM.xml.decode()}</feature>",
    "another element": f"<features xmlns='{element.FEATURE}'>{FORM.xml.decode()}</features>",
    "another namespace": f"<feature xmlns='urn:a'>{FORM.xml.decode()}</feature>",
    "a bad form": f"{FEATURE}<x xmlns='jabber:x:data'/></feature>",
    "no XML": "hello",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_features_that_are_refused(data: str) -> None:
    with pytest.raises(Malformed):
        element.parse_feature(data.encode())


@pytest.mark.parametrize(
    "inside",
    [
        b"",
        CONTENT,
        FORM.xml + FORM.xml,
        FORM.xml + CONTENT + CONTENT,
        FORM.xml + b"<c xmlns='urn:a'/>",
        FORM.xml + b"hello",
    ],
)
def test_inits_that_are_refused(inside: bytes) -> None:
    with pytest.raises(Malformed):
        element.parse_init(b"<init xmlns='%b'>%b</init>" % (element.INIT.encode(), inside))
    with pytest.raises(Malformed):
        element.parse_init(element.feature(FORM))


@given(st.integers(0, 2**32), st.sampled_from((element.feature(FORM), element.init(FORM, CONTENT))))
def test_mutated_elements_raise_only_typed_errors(seed: int, data: bytes) -> None:
    changed = mutate(data, Random(seed))
    for parse in (element.parse_feature, element.parse_init, element.parse_error, threads.parse):
        try:
            parse(changed)
        except PeerError:
            pass


def test_the_rule_that_nothing_is_kept_for_later() -> None:
    amp = xml.parse(element.DROP_IF_STORED)
    assert amp.tag == "{http://jabber.org/protocol/amp}amp"
    assert dict(amp[0].attrib) == {"action": "drop", "condition": "deliver", "value": "stored"}


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", element.ERRORS)
@pytest.mark.parametrize("fields", [(), ("security",), ("a", "<&'\"", "http://jabber.org/protocol/chatstates")])
def test_errors_come_back(condition: str, fields: tuple[str, ...]) -> None:
    echo, error = xml.parse_fragment(element.error(condition, fields, element.feature(FORM)))
    assert element.parse_feature(xml.serialise(echo)) == FORM
    assert element.parse_error(xml.serialise(error)) == Failure(condition, fields)


def test_errors_as_the_specification_shows_them() -> None:
    assert element.error("not-acceptable", ("security",)) == (
        b"<error xmlns='jabber:client' code='406' type='modify'>"
        b"<not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        b"<feature xmlns='http://jabber.org/protocol/feature-neg'><field var='security'/></feature></error>"
    )
    assert [element.ERRORS[name] for name in ("service-unavailable", "feature-not-implemented")] == [
        ("cancel", "503"),
        ("cancel", "501"),
    ]


def test_nobody_is_told_another_error() -> None:
    for condition in ("", "bad-request", "forbidden"):
        with pytest.raises(UsageError):
            element.error(condition)


def test_errors_of_others() -> None:
    def read(inside: str, name: str = "error") -> Failure:
        return element.parse_error(f"<{name} xmlns='jabber:client' type='cancel'>{inside}</{name}>".encode())

    stanzas = f"xmlns='{element.STANZAS}'"
    assert read("") == Failure("undefined-condition")
    assert read("<a xmlns='urn:a'/>") == Failure("undefined-condition")
    assert read(f"<remote-server-not-found {stanzas}/><text {stanzas}>no</text>") == Failure(
        "remote-server-not-found", text="no"
    )
    many = "".join(f"<field var='f{n}'/>" for n in range(element.MAX_ERROR_FIELDS))
    assert len(read(f"{FEATURE}{many}</feature>").fields) == element.MAX_ERROR_FIELDS
    for bad in (f"{FEATURE}{many}<field var='more'/></feature>", f"<text {stanzas}><b/></text>"):
        with pytest.raises(Malformed):
            read(bad)
    with pytest.raises(Malformed):
        read("", name="message")


# -- options --------------------------------------------------------------------------------------------------------


def listed(*choices: str, default: str = "", required: bool = False, kind: str = "list-single") -> Field:
    return Field("f", kind, (default,) if default else (), choices, required)


@given(LISTS, LISTS)
def test_the_first_of_theirs_that_is_ours(theirs: list[str], ours: list[str]) -> None:
    common = [value for value in theirs if value in ours]
    assert options.choose(listed(*theirs), ours) == (common[0] if common else None)
    assert options.choose(Field("f", "hidden", tuple(theirs)), ours) == (common[0] if common else None)
    assert options.choose_many(listed(*theirs, kind="list-multi"), ours) == tuple(common)


def test_a_default_is_preferred_if_we_can_support_it() -> None:
    field = listed("a", "b", default="b")
    assert options.choose(field, ["a", "b"]) == "b"
    assert options.choose(field, ["a"]) == "a"
    assert options.offered(field) == ("b", "a")


@pytest.mark.parametrize(
    ("default", "supported", "chosen"),
    [
        ("1", ("1", "0"), "1"),
        ("true", ("true", "false"), "1"),
        ("0", ("1", "0"), "0"),
        ("", ("1", "0"), "0"),
        ("true", ("false",), "0"),
        ("", ("1",), "1"),
        ("1", (), None),
    ],
)
def test_booleans_are_answered_one_way_or_the_other(
    default: str, supported: tuple[str, ...], chosen: str | None
) -> None:
    field = Field("f", "boolean", (default,) if default else ())
    assert options.choose(field, supported) == chosen


def offer(*fields: Field) -> Form:
    return forms.write("form", [*FORM.fields, *fields])


def answer(*fields: Field) -> Form:
    return forms.write("submit", fields)


LOGGING = Field("logging", "list-single", ("mustnot",), ("may", "mustnot"), required=True)
CHAT_STATES = Field("chatstates", "list-single", ("may",), ("may", "mustnot"))
LANGUAGE = Field("language", "list-single", (), ("en", "it"))
STANZAS = Field("stanzas", "list-multi", (), ("message", "presence", "iq"), required=True)
MANY = Field("multisession", "boolean", ("false",))


def test_an_answer_has_all_that_is_required_and_only_what_we_support() -> None:
    supported = {"logging": ("may",), "chatstates": ("mustnot",), "stanzas": ("iq", "message"), "multisession": ("1",)}
    asked = offer(LOGGING, CHAT_STATES, LANGUAGE, STANZAS, MANY, Field("note"))
    fields = options.answers(asked, supported | {"note": ("ours",)})
    assert fields == (
        Field("logging", values=("may",)),
        Field("chatstates", values=("mustnot",)),
        Field("stanzas", values=("message", "iq")),
        Field("multisession", values=("1",)),
        Field("note", values=("ours",)),
    )
    assert options.check_chosen(asked, answer(*fields)) == ()
    assert options.agreed(asked, answer(*fields))["multisession"] == ("1",)


def test_what_is_required_and_unknown_or_impossible() -> None:
    asked = offer(LOGGING, STANZAS, CHAT_STATES, LANGUAGE)
    with pytest.raises(NegotiationFailed) as failed:
        options.answers(asked, {"logging": ("never",)})
    assert (failed.value.condition, failed.value.fields) == ("feature-not-implemented", ("stanzas",))
    with pytest.raises(NegotiationFailed) as failed:
        options.answers(asked, {"logging": ("never",), "stanzas": (), "language": ("de",)})
    assert (failed.value.condition, failed.value.fields) == ("not-acceptable", ("logging", "stanzas"))
    with pytest.raises(NegotiationFailed) as failed:  # a default that we can't support, and nothing else to set it to
        options.answers(offer(CHAT_STATES), {"chatstates": ("sometimes",)})
    assert (failed.value.condition, failed.value.fields) == ("not-acceptable", ("chatstates",))
    assert options.answers(asked, {}, skip=("logging", "stanzas")) == ()


CHOSEN = {
    "all there": (answer(Field("logging", values=("may",)), Field("stanzas", values=("iq",))), ()),
    "one missing": (answer(Field("stanzas", values=("iq",))), ("logging",)),
    "all missing": (answer(), ("logging", "stanzas")),
    "without value": (answer(Field("logging"), Field("stanzas", values=("iq",))), ("logging",)),
    "empty": (answer(Field("logging", values=("",)), Field("stanzas", values=("iq",))), ("logging",)),
    "not offered": (answer(Field("logging", values=("must",)), Field("stanzas", values=("iq",))), ("logging",)),
    "one of several not offered": (
        answer(Field("logging", values=("may",)), Field("stanzas", "hidden", ("iq", "c"))),
        ("stanzas",),
    ),
    "twice": (answer(Field("logging", values=("may",)), Field("stanzas", "hidden", ("iq", "iq"))), ("stanzas",)),
    "several": (answer(Field("logging", "hidden", ("may", "mustnot")), Field("stanzas", values=("iq",))), ("logging",)),
    "no boolean": (
        answer(
            Field("logging", values=("may",)), Field("stanzas", values=("iq",)), Field("multisession", values=("no",))
        ),
        ("multisession",),
    ),
    "more than was asked": (
        answer(Field("logging", values=("may",)), Field("stanzas", values=("iq",)), Field("other", values=("x",))),
        (),
    ),
}


@pytest.mark.parametrize(("chosen", "bad"), CHOSEN.values(), ids=CHOSEN)
def test_what_was_chosen_is_checked(chosen: Form, bad: tuple[str, ...]) -> None:
    assert options.check_chosen(offer(LOGGING, STANZAS, MANY, LANGUAGE), chosen) == bad


@st.composite
def offers(draw: st.DrawFn) -> Form:
    made = []
    for name in ("p", "q", "r"):
        kind = draw(st.sampled_from(("list-single", "list-multi", "boolean", "text-single", "hidden")))
        choices = tuple(draw(LISTS)) if kind.startswith("list") else ()
        default = (
            draw(st.sampled_from(("", "0", "true"))) if kind == "boolean" else draw(st.sampled_from(("", "a", "e")))
        )
        made.append(Field(name, kind, (default,) if default else (), choices, draw(st.booleans())))
    return offer(*made)


@given(offers(), st.dictionaries(st.sampled_from("pqr"), LISTS))
def test_an_answer_that_we_make_passes_their_check(asked: Form, supported: dict[str, list[str]]) -> None:
    try:
        fields = options.answers(asked, supported)
    except NegotiationFailed as error:
        failed = (error.condition, bool(error.fields))
    else:
        failed = None
    if failed:
        assert failed in (("feature-not-implemented", True), ("not-acceptable", True))
        return
    assert options.check_chosen(asked, answer(*fields)) == ()
    for field in fields:
        found = asked.get(field.var)
        assert found is not None
        if found.type != "boolean":
            assert set(field.values) <= set(supported[field.var])


# -- threads --------------------------------------------------------------------------------------------------------


def test_threads() -> None:
    first, second = threads.new(), threads.new()
    assert first != second
    assert len(first) == 32
    assert threads.new(draw=lambda n: bytes(n)) == "00" * 16
    child = threads.offshoot(Thread(first))
    assert child.parent == first
    assert child.id not in (first, second)
    for thread in (Thread(first), child, Thread(" <a>&'\" ", "b")):
        assert threads.parse(threads.write(thread)) == thread


def test_a_message_belongs_to_its_thread_or_begins_a_session() -> None:
    assert threads.place({"a"}, Thread("a")) == (Thread("a"), False)
    assert threads.place({"a"}, Thread("b", "a")) == (Thread("b", "a"), True)
    assert threads.place({"a"}, Thread("a ")) == (Thread("a "), True)  # ids are compared exactly
    made, fresh = threads.place({"a"}, None)
    assert fresh
    assert len(made.id) == 32


def test_threads_that_are_refused() -> None:
    longest = "é" * threads.MAX_THREAD
    assert threads.parse(threads.write(Thread(longest, longest))) == Thread(longest, longest)
    for data in (
        "<thread xmlns='jabber:client'/>",
        f"<thread xmlns='jabber:client'>{longest}x</thread>",
        f"<thread xmlns='jabber:client' parent='{longest}x'>a</thread>",
        "<thread xmlns='jabber:client' parent=''>a</thread>",
        "<thread xmlns='jabber:client' id='1'>a</thread>",
        "<thread xmlns='jabber:client'><a/></thread>",
        "<thread xmlns='urn:a'>a</thread>",
        "<threads xmlns='jabber:client'>a</threads>",
    ):
        with pytest.raises(Malformed):
            threads.parse(data.encode())
