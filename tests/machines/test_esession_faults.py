"""Every stanza of every flow dropped, repeated, held back, reflected, altered, or with a forged one beside it.

Two clients go through a flow; one stanza of it meets a fault. Whatever that was (`Run.check`): in the end both have the
same session or none, nobody opened anything but what the other said, in its order and once, and who lost a session
knows why and keeps none of its secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings as hypothesis

from support.session_run import Fault, Run, couple
from support.sessions import SMALL, Flying, flying, message
from tillie.negotiation import element as wire
from tillie.negotiation import options
from tillie.schemes.esession.identity import Ed25519Identity
from tillie.schemes.esession.profile import GAJIM, SUBSET
from tillie.schemes.esession.settings import Shield
from tillie.wire import forms, xml
from tillie.wire.forms import Field

EVERY_BYTE = hypothesis().max_examples > 1_000  # HYPOTHESIS_PROFILE=long
STRIDE = 1 if EVERY_BYTE else 101
NOT_ACCEPTABLE, NOT_IMPLEMENTED = "not-acceptable", "feature-not-implemented"
TERMINATE = wire.feature(
    forms.write("submit", (Field("FORM_TYPE", values=(options.SSN,)), Field("terminate", values=("1",))))
)
NOBODY_THERE = (
    b"<error xmlns='jabber:client' type='cancel'>"
    b"<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
)
MINE, THEIRS = Ed25519Identity.generate(), Ed25519Identity.generate()
MUSTNOT = Field("logging", "list-single", ("mustnot",), ("mustnot",), required=True)


# -- the flows --------------------------------------------------------------------------------------------------------


def four() -> Run:
    return couple(SMALL)


def keys() -> Run:
    """Both show a public key, one of them by its hash."""
    mine = replace(SMALL, identity=MINE, own_key=("key",), peer_key=("hash",), known_keys=(THEIRS.key_value,))
    theirs = replace(SMALL, identity=THEIRS, own_key=("hash",), peer_key=("key",))
    return couple(mine, theirs)


def three() -> Run:
    both = {"own_key": ("key",), "peer_key": ("key",), "three_message": True}
    mine = replace(SMALL, identity=MINE, known_keys=(THEIRS.key_value,), shield=Shield.OURS, **both)
    return couple(mine, replace(SMALL, identity=THEIRS, shield=Shield.THEIRS, **both))


def subset() -> Run:
    return couple(replace(SMALL, profile=SUBSET), SMALL)


def gajim() -> Run:
    return couple(replace(SMALL, profile=GAJIM), SMALL)


def talk(run: Run) -> None:
    run.start(run.alice)
    run.say(run.alice, "one")
    run.say(run.bob, "two")
    run.ask(run.alice, "three")
    run.ask(run.bob, "four", kind="presence")
    run.say(run.alice, "five")


def talk_briefly(run: Run) -> None:
    run.start(run.alice)
    run.say(run.bob, "one")
    run.say(run.alice, "two")


def end(run: Run) -> None:
    talk_briefly(run)
    run.do(run.bob, "end")


def both_end(run: Run) -> None:
    talk_briefly(run)
    run.do(run.alice, "end", carry=False)
    run.do(run.bob, "end")


def rekey(run: Run) -> None:
    talk_briefly(run)
    run.do(run.alice, "rekey")
    run.say(run.bob, "three")
    run.do(run.alice, "rekey", carry=False)
    run.do(run.bob, "rekey")
    run.say(run.alice, "four")
    run.say(run.bob, "five")


def renegotiate(run: Run) -> None:
    talk_briefly(run)
    run.do(run.alice, "renegotiate", (MUSTNOT,))
    run.say(run.alice, "three")


def cross(run: Run) -> None:
    run.start(run.alice, carry=False)
    run.start(run.bob)
    run.say(run.alice, "one")
    run.say(run.bob, "two")


def twice(run: Run) -> None:
    """The second session continues what the first left."""
    talk_briefly(run)
    run.do(run.alice, "end")
    run.start(run.bob)
    run.say(run.bob, "three")
    run.say(run.alice, "four")


FLOWS: dict[str, tuple[Callable[[], Run], Callable[[Run], None]]] = {
    "four messages": (four, talk),
    "public keys": (keys, talk_briefly),
    "three messages": (three, talk_briefly),
    "XEP-0217": (subset, talk_briefly),
    "Gajim": (gajim, talk_briefly),
    "the end": (four, end),
    "both end": (four, both_end),
    "re-keys": (four, rekey),
    "a renegotiation": (lambda: couple(replace(SMALL, logging=("may", "mustnot"))), renegotiate),
    "both begin": (four, cross),
    "a session after a session": (four, twice),
}
ENDED = ("the end", "both end")  # the flows that leave no session
OFFERS = {name: 2 if name == "both begin" else 1 for name in FLOWS}


def go(name: str, at: int = -1, fault: Fault | None = None) -> Run:
    begin, flow = FLOWS[name]
    run = begin()
    run.at, run.fault = at, fault
    flow(run)
    return run


def stanzas(name: str) -> list[Flying]:
    return go(name).passed


@pytest.mark.parametrize("name", FLOWS)
def test_without_a_fault(name: str) -> None:
    run = go(name)
    assert run.check() is (name not in ENDED)
    assert not run.errors or name == "both begin"
    for client in run.clients:
        assert client.heard == run.said[run.other(client).own]


# -- the faults -------------------------------------------------------------------------------------------------------


def dropped(run: Run, one: Flying) -> list[Flying]:
    return []


def repeated(run: Run, one: Flying) -> list[Flying]:
    return [one, one]


def repeated_late(run: Run, one: Flying) -> list[Flying]:
    run.late.append(one)
    return [one]


def swapped(run: Run, one: Flying) -> list[Flying]:
    run.held.append(one)
    return []


def reflected(run: Run, one: Flying) -> list[Flying]:
    return [back(one)]


def reflected_too(run: Run, one: Flying) -> list[Flying]:
    return [one, back(one)]


def ended_in_clear(run: Run, one: Flying) -> list[Flying]:
    """Both get an end in clear that the other never sent. Who still negotiates can't tell it from a no."""
    run.unsure = not all(each.active or each.over for client in run.clients for each in client.all())
    threads = run.threads or [thread_of(one)]
    wrong = [message(to, thread, TERMINATE) for thread in threads for to in (one.sender, one.to)]
    sender = {str(one.sender): str(one.to), str(one.to): str(one.sender)}
    return [*(flying(sender[xml.parse(each).get("to", "")], each) for each in wrong), one]


def of_another_thread(run: Run, one: Flying) -> list[Flying]:
    thread = thread_of(one)
    return [Flying(one.stanza.replace(thread.encode(), thread[::-1].encode()), one.sender)] if thread else [one]


def bounced(run: Run, one: Flying) -> list[Flying]:
    """A server sends it back, as servers do: with its id, without its thread."""
    kind = xml.parse(one.stanza).tag.rpartition("}")[2].encode()
    start = b"<%b xmlns='jabber:client' type='error' to='%b' id='%b'>" % (
        kind, one.sender.encode(), xml.parse(one.stanza).get("id", "").encode()
    )  # fmt: skip
    return [Flying(start + NOBODY_THERE + b"</%b>" % kind, one.to)]


def refused_in_its_name(run: Run, one: Flying) -> list[Flying]:
    """Its receiver gets an error in the sender's name, and then the stanza."""
    error = message(one.to, thread_of(one) or run.thread, NOBODY_THERE, type="error")
    return [Flying(error, one.sender), one]


def as_presence(run: Run, one: Flying) -> list[Flying]:
    """The kind of a stanza is in no MAC."""
    stanza = one.stanza.replace(b"<message ", b"<presence ").replace(b"</message>", b"</presence>")
    return [Flying(stanza, one.sender)]


def back(one: Flying) -> Flying:
    """The same stanza, from who should get it to who sent it."""
    to = f"to='{one.to}'".encode(), f'to="{one.to}"'.encode()
    stanza = one.stanza
    for each in to:
        stanza = stanza.replace(each, f"to='{one.sender}'".encode())
    return Flying(stanza, one.to)


def thread_of(one: Flying) -> str:
    found = xml.parse(one.stanza).find("{jabber:client}thread")
    return str(found.text) if found is not None else ""


FAULTS: dict[str, Fault] = {
    each.__name__: each
    for each in (
        dropped,
        repeated,
        repeated_late,
        swapped,
        reflected,
        reflected_too,
        ended_in_clear,
        of_another_thread,
        bounced,
        refused_in_its_name,
        as_presence,
    )
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FLOWS)
def test_each_stanza_meets_each_fault(name: str, fault: str) -> None:
    for at in range(len(stanzas(name))):
        run = go(name, at, FAULTS[fault])
        assert len(run.passed) > at
        session = run.check()
        if fault == "ended_in_clear" and not run.unsure:
            assert session is (name not in ENDED), at


# -- altered bytes --------------------------------------------------------------------------------------------------


def covered(one: Flying) -> range:
    """Where in a stanza that lies which a MAC covers, or becomes part of what one covers: the form, or <c/>."""
    start = max(one.stanza.find(b"<x "), one.stanza.find(b"<c "))
    end = max(one.stanza.find(b"</x>"), one.stanza.find(b"</c>"))
    return range(start, end) if 0 <= start < end else range(0)


class Altering:
    """Changes one byte of what is covered in the stanza: the one `at` this share of it."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.where = b""
        self.thread = ""

    def __call__(self, run: Run, one: Flying) -> list[Flying]:
        places = covered(one)
        place = places[int(self.share * len(places))]
        data = bytearray(one.stanza)
        old = chr(data[place])
        data[place] = ord(old) ^ 1 if old.isalnum() and chr(ord(old) ^ 1).isalnum() else ord("A" if old != "A" else "B")
        self.where, self.thread = one.stanza[max(0, place - 30) : place + 10], thread_of(one)
        return [Flying(bytes(data), one.sender)]


@pytest.mark.parametrize("name", FLOWS)
def test_each_byte_that_is_covered_is_noticed(name: str) -> None:
    """Short of `HYPOTHESIS_PROFILE=long` a sample of them, another one in each stanza."""
    for at, one in enumerate(stanzas(name)):
        size = len(covered(one))
        for place in range(at % STRIDE, size, STRIDE):
            fault = Altering(place / size)
            run = go(name, at, fault)
            run.check()
            for client in run.clients:
                for each in client.all():
                    assert each.thread != fault.thread or each.over, (at, fault.where)


def with_a_field_more(run: Run, one: Flying) -> list[Flying]:
    return [Flying(one.stanza.replace(b"</x>", b'<field var="a"></field></x>'), one.sender)]


@pytest.mark.parametrize("hash_name", ["sha384", "sha512"])
def test_a_proof_that_fails_under_a_long_hash_is_tried_as_every_profile(hash_name: str) -> None:
    """Gajim takes the whole hash for its cipher's key, and AES takes no 64 octets: that once raised no typed error."""
    run = couple(replace(SMALL, hashes=(hash_name,)))
    run.at, run.fault = 2, with_a_field_more
    talk_briefly(run)
    assert run.errors == [(run.bob.own, NOT_IMPLEMENTED)]
    assert not run.check()
