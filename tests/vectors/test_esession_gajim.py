"""Whole sessions of Gajim 0.16.9 with itself, recorded with every random value, replayed by both of our sides.

esession_gajim_0.16.9.json was recorded from two unmodified Gajim 0.16.9 sessions that negotiated with each other in
memory; what its parts are, it says itself (`how_to_read`). TILLIE_ESESSION_VECTORS names another file of the same
form, which is replayed as well. Nothing here knows a recording: events, random values, options and failures come from
the file.

Each event is one of these:
- something that a side did: our side does it, from the recorded random values, and every HMAC and every encryption that
  was recorded must be among those that we made, with the same result;
- a stanza: what our side has ready to send must be what went on the wire, octet for octet. A stanza that was changed in
  flight is compared as it was sent, and delivered as it was changed.

Where Gajim failed we must fail, and nowhere else; but a stanza that was changed in flight we may refuse at once, even
where Gajim found out one message later.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tillie.crypto import ctr, kdf, modp
from tillie.errors import Malformed, NegotiationFailed, PeerError, SessionBroken
from tillie.model import Address
from tillie.negotiation import element
from tillie.schemes.esession import channel as channels
from tillie.schemes.esession import four, messages, offer, text
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.profile import GAJIM_ITSELF
from tillie.schemes.esession.settings import Parties, Secret, Settings
from tillie.schemes.esession.states import Answering, Concluding, Established, Offering
from tillie.trust.strings import SAS28X5
from tillie.wire import c14n, forms, xml

ALICE, BOB = "alice", "bob"
CLIENT = "{jabber:client}"
C = "{http://www.xmpp.org/extensions/xep-0200.html#ns}c"
THREAD = CLIENT + "thread"
HERE = Path(__file__).with_name("esession_gajim_0.16.9.json")
FORMAT = "gajim-esession-vectors-1"


def _recorded() -> Iterator[Any]:
    files = [HERE]
    if other := os.environ.get("TILLIE_ESESSION_VECTORS"):
        files.append(Path(other))
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        assert content["format"] == FORMAT, file
        assert content["sessions"], file
        for session in content["sessions"]:
            yield pytest.param(session, id=f"{file.stem}-{session['name']}")


class Computed:
    """Every HMAC and every encryption of ours since it was last forgotten."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hmacs: set[tuple[bytes, bytes, bytes]] = set()
        self.streams: set[tuple[bytes, int, bytes, bytes]] = set()
        real_digest, real_apply = kdf._digest, ctr.apply

        def digest(key: bytes, data: bytes, name: str) -> bytes:
            out = real_digest(key, data, name)
            self.hmacs.add((key, data, out))
            return out

        def apply(name: str, key: bytes, counter: int, data: bytes) -> bytes:
            out = real_apply(name, key, counter, data)
            self.streams.add((key, counter, data, out))
            return out

        monkeypatch.setattr(kdf, "_digest", digest)
        monkeypatch.setattr(ctr, "apply", apply)

    def forget(self) -> None:
        self.hmacs.clear()
        self.streams.clear()

    def check(self, trace: list[dict[str, str]]) -> None:
        """Each recorded operation is among ours."""
        for step in trace:
            if step["op"] == "hmac":
                wanted = tuple(bytes.fromhex(step[name]) for name in ("key", "content", "out"))
                assert wanted in self.hmacs, ("an HMAC we never made", step)
                continue
            counter = int(step["counter_before"], 16)
            if step["op"] == "encrypt":
                data = bytes.fromhex(step["in_unpadded"])
                data += b" " * (-len(data) % 16)
            else:
                data = bytes.fromhex(step["in"])
            out = bytes.fromhex(step["out"])
            first = (counter + 1) % 2**128
            assert (bytes.fromhex(step["kc"]), first, data, out) in self.streams, ("not encrypted by us", step)
            assert (counter + len(data) // 16) % 2**128 == int(step["counter_after"], 16)


class Side:
    """One of the two, as we play it."""

    def __init__(self, name: str, session: dict[str, Any], draws: list[dict[str, Any]]) -> None:
        self.name = name
        own, peer = (Address(session[f"{who}_jid"]) for who in (name, ALICE if name == BOB else BOB))
        self.parties = Parties(own, peer, session["thread"])
        self.draws = draws
        self.settings = _settings(name, session)
        kept = session.get("retained_secrets_before") or {}
        self.secrets = [
            Secret(bare.encode(), bytes.fromhex(value))
            for bare, values in (kept.get(name) or {}).items()
            for value, _ in values
            if name == BOB or bare == peer.bare
        ]
        self.ready: bytes | None = None  # what must go on the wire next
        self.offering: Offering | None = None
        self.answering: Answering | None = None
        self.concluding: Concluding | None = None
        self.established: Established | None = None
        self.channel: Channel | None = None
        self.over = False

    def draw(self, size: int) -> bytes:
        """The next recorded random value of this side; it must be as long as what we want."""
        drawn = self.draws.pop(0)
        assert (drawn["side"], drawn["bytes"]) == (self.name, size), drawn
        value = bytes.fromhex(drawn["hex"])
        assert len(value) == size
        return value

    # -- what a side does ---------------------------------------------------------------------------------------------

    def negotiate(self) -> None:
        self.offering, form = offer.offer(self.settings, draw=self.draw)
        self.ready = element.feature(form)

    def handle(self, stanza: xml.Element) -> None:
        """A form that came."""
        form = _form(stanza)
        if "terminate" in {field.var for field in form.fields}:
            assert form.boolean("terminate")
            self.over = True
        elif form.type == "form":
            self.answering, answer = offer.answer(self.settings, form, draw=self.draw)
            self.ready = element.feature(answer)
        elif form.type == "submit":
            assert self.offering is not None
            state, answer = four.conclude(
                self.offering, self.settings, self.parties, form, self.secrets, now=0, draw=self.draw
            )
            assert isinstance(state, Concluding)
            self.concluding, self.ready = state, element.feature(answer)
        elif self.answering is not None:
            self.established, last = four.accept(
                self.answering, self.settings, self.parties, form, self.secrets, now=0, draw=self.draw
            )
            assert last is not None
            self.ready, self.channel = element.init(last), self.established.channel
        else:
            assert self.concluding is not None
            self.established = four.finish(self.concluding, self.settings, form, self.secrets, now=0)
            self.channel = self.established.channel

    def encrypt(self, event: dict[str, Any], trace: list[dict[str, str]]) -> None:
        assert self.channel is not None
        hidden = _children(event["plaintext_stanza"]) if "plaintext_stanza" in event else None
        if hidden is None:  # not every recording says what was hidden, but each says what was encrypted
            hidden = bytes.fromhex(trace[0]["in_unpadded"])
        self.channel, self.ready = channels.seal(self.channel, hidden, now=0)

    def decrypt(self, stanza: xml.Element) -> bytes:
        assert self.channel is not None
        (c,) = stanza.findall(C)
        self.channel, incoming = channels.open(self.channel, xml.serialise(c), now=0)
        assert incoming.plaintext is not None
        return incoming.plaintext

    def terminate(self) -> None:
        self.ready = element.feature(messages.write_termination(GAJIM_ITSELF.layout))
        self.over = True


def _settings(name: str, session: dict[str, Any]) -> Settings:
    """Gajim's settings are what it offered or chose: its groups, and how much is logged."""
    by_type: dict[str, forms.Form] = {}
    for event in session["events"]:
        if "stanza" in event and "jabber:x:data" in event["stanza"]:
            form = _form(xml.parse((event.get("original") or event["stanza"]).encode()))
            by_type.setdefault(form.type, form)
    said = by_type["submit"] if name == BOB and "modp" in _fields(by_type.get("submit")) else by_type["form"]
    groups, logging = ((field.options or field.values) if field else () for field in map(said.get, ("modp", "logging")))
    return Settings(
        profile=GAJIM_ITSELF,
        groups=tuple(map(int, groups)),
        ciphers=("aes128-ctr",),
        hashes=("sha256",),
        strings=(SAS28X5,),
        stanzas=("message",),
        logging=logging or ("may",),
        rekey_frequency=2**32 - 1,
        legacy=True,
    )


def _fields(form: forms.Form | None) -> set[str]:
    return {field.var for field in form.fields} if form else set()


def _form(stanza: xml.Element) -> forms.Form:
    (x,) = stanza.iter("{jabber:x:data}x")
    return forms.parse(xml.serialise(x))


def _children(stanza: str) -> bytes:
    """The children of a plain stanza but its thread, as they are written there."""
    inner = re.fullmatch(r"<message\b[^>]*>(.*)</message>", stanza, re.DOTALL)
    assert inner
    return re.sub(r"<thread>[^<]*</thread>", "", inner[1]).encode()


# -- the replay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", list(_recorded()))
def test_a_recorded_session_of_gajim(session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    computed = Computed(monkeypatch)
    draws = copy.deepcopy(session["random"])
    sides = {name: Side(name, session, draws) for name in (ALICE, BOB)}
    events = session["events"]
    arrived: dict[str, Any] = {}  # the last stanza
    compared = failures = 0
    checked: set[str] = set()
    for place, event in enumerate(events):
        if "stanza" in event:
            side = sides[event["from"]]
            if side.ready is not None:
                _compare(event, side.ready)
                compared += 1
                side.ready = None
            else:
                assert failures, ("a stanza that we have not got", event)
            arrived = event
            continue
        side, trace = sides[event["side"]], event.get("trace") or []
        if arrived and _is_error(arrived):
            continue  # the other side gave up, and says so
        computed.forget()
        failed = _failed(event, arrived, events[place + 1] if place + 1 < len(events) else {})
        try:
            _do(side, event, trace, arrived)
        except (NegotiationFailed, SessionBroken, Malformed):
            failures += 1
            if not failed:
                if not arrived.get("tampered"):
                    raise
                break
        else:
            assert not failed, ("Gajim failed and we did not", event)
        if not failed or event["action"] == "decrypt_stanza":
            computed.check(trace)
        if session.get("after_negotiation") and all(one.established for one in sides.values()) and not checked:
            for one in sides.values():
                assert one.channel is one.established.channel  # type: ignore[union-attr]
                _check_state(one, session["after_negotiation"][one.name])
                checked.add(one.name)
    assert compared
    assert bool(session.get("expect_failure")) == bool(failures)
    assert failures or not draws, "random values that we did not use"
    assert failures or checked
    _check_end(session, sides)


def _is_error(event: dict[str, Any]) -> bool:
    return xml.parse(event["stanza"].encode()).get("type") == "error"


def _failed(event: dict[str, Any], arrived: dict[str, Any], following: dict[str, Any]) -> bool:
    """Whether Gajim failed in this event: it raised, or ended the negotiation, or answered with an error."""
    if event.get("error"):
        return True
    if not event["action"].startswith("handle_negotiation") or "terminate" in arrived.get("stanza", ""):
        return False
    answers = "stanza" in following and following["from"] == event["side"] and _is_error(following)
    return answers or event.get("status_after") is None


def _do(side: Side, event: dict[str, Any], trace: list[dict[str, str]], arrived: dict[str, Any]) -> None:
    action = event["action"]
    stanza = xml.parse(arrived["stanza"].encode()) if arrived else None
    if action == "negotiate_e2e":
        side.negotiate()
    elif action.startswith("handle_negotiation"):
        assert stanza is not None
        side.handle(stanza)
    elif action == "encrypt_stanza":
        side.encrypt(event, trace)
    elif action == "decrypt_stanza":
        assert stanza is not None
        plaintext = side.decrypt(stanza)
        if "decrypted_stanza" in event:
            wanted = _children(event["decrypted_stanza"])
            # Gajim marks what it parsed without a namespace.
            wanted = re.sub(rb' xmlns="http://www.gajim.org/xmlns/undeclared"', b"", wanted)
            assert _same_children(plaintext, wanted)
        if "decrypted_body" in event:
            root = xml.parse(b"<message xmlns='jabber:client'>" + plaintext + b"</message>")
            assert root.findtext(CLIENT + "body") == event["decrypted_body"]
        assert text.decode(plaintext).content.data
    elif action == "terminate_e2e":
        side.terminate()
    else:
        pytest.fail(f"an action that is not known: {action}")


def _same_children(ours: bytes, theirs: bytes) -> bool:
    def tree(data: bytes) -> bytes:
        return c14n.canonical(xml.parse(b"<message xmlns='jabber:client'>" + data.rstrip(b" ") + b"</message>"))

    return tree(ours) == tree(theirs)


def _compare(event: dict[str, Any], ready: bytes) -> None:
    """What we have ready is what went on the wire: a form octet for octet, a <c/> as the same XML."""
    sent = event.get("original") or event["stanza"]
    stanza = xml.parse(sent.encode())
    (thread,) = stanza.findall(THREAD)
    assert thread.text == event["thread"]
    if ready.startswith((b"<feature", b"<init")):
        assert ready.decode() in sent
        assert len(stanza) == 2
        return
    (c,) = stanza.findall(C)
    assert c14n.canonical(xml.parse(ready)) == c14n.canonical(c)
    # What else is there is for clients that know nothing of sessions, the same in all of them.
    assert {child.tag for child in stanza} <= {THREAD, C, CLIENT + "body"}


def _integer(text: str) -> int:
    return int(text, 16)


def _check_state(side: Side, state: dict[str, Any]) -> None:
    """The state that Gajim had, against ours."""
    channel, done = side.channel, side.established
    assert channel is not None
    assert done is not None
    newest = channel.sets[-1]
    assert (channel.kc.hex(), channel.km.hex()) == (state["kc_s"], state["km_s"])
    assert (newest.kc.hex(), newest.km.hex()) == (state["kc_o"], state["km_o"])
    assert (channel.counter_out.hex(), channel.counter_in.hex()) == (state["c_s"], state["c_o"])
    assert done.string == state["sas"]
    assert not done.verifies
    assert done.new_secret.hex() == state["srs"]
    assert (done.used.value.hex() if done.used else "") == state["srs_used"]
    assert (done.profile, done.string_name) == (GAJIM_ITSELF.name, SAS28X5)
    group = modp.GROUPS[done.parameters.group]
    if side.name == ALICE:
        assert side.offering is not None
        assert side.concluding is not None
        form_a, form_b = side.offering.form, side.concluding.form_b
        nonces = side.concluding.nonce_a, side.concluding.nonce_b
        own, other = form_a, form_b
        for number, x, e in side.offering.exponents:
            assert (int.from_bytes(x, "big"), int.from_bytes(e, "big")) == (
                _integer(state["x"][str(number)]),
                _integer(state["e"][str(number)]),
            )
        assert int.from_bytes(side.concluding.peer, "big") == _integer(state["d"])
        assert side.concluding.key.hex() == state["k_first"]
        assert (
            kdf.hash_by("sha256", side.concluding.key + (done.used.value if done.used else b"")).hex()
            == (state["k_final"])
        )
    else:
        assert side.answering is not None
        form_a, form_b = side.answering.form_a, side.answering.form_b
        nonces = side.answering.nonce_b, side.answering.nonce_a
        own, other = form_b, form_a
        y = int.from_bytes(side.answering.exponent, "big")
        assert (y, modp.public(group, y)) == (_integer(state["y"]), _integer(state["d"]))
    assert tuple(nonce.hex() for nonce in nonces) == (state["n_s"], state["n_o"])
    dialect = GAJIM_ITSELF.dialect
    assert forms.normal(forms.parse(own), dialect).decode() == state["form_s"]
    assert forms.normal(forms.parse(other), dialect).decode() == state["form_o"]


def _check_end(session: dict[str, Any], sides: dict[str, Side]) -> None:
    for name, side in sides.items():
        state = (session.get("final") or {}).get(name)
        if state and side.channel is not None:
            _check_state(side, state)
        after = (session.get("retained_secrets_after") or {}).get(name)
        if after is not None and side.established is not None:
            values = [value for secrets in after.values() for value, _ in secrets]
            assert side.established.new_secret.hex() in values


def test_the_recordings_are_there() -> None:
    """They hold what the replay is about: failing ones too, and a retained secret."""
    sessions = json.loads(HERE.read_text(encoding="utf-8"))["sessions"]
    assert any(session.get("expect_failure") for session in sessions)
    assert any(session.get("retained_secrets_before") for session in sessions)
    assert issubclass(SessionBroken, PeerError)


def test_another_file_is_replayed_as_well(tmp_path: Path) -> None:
    """All groups, counters that wrap, short strings and failures, made by a second implementation."""
    made = tmp_path / "made.json"
    with made.open("wb") as file:
        subprocess.run([sys.executable, HERE.with_name("make_esession_gajim.py")], check=True, stdout=file, timeout=120)
    names = [session["name"] for session in json.loads(made.read_bytes())["sessions"]]
    environment = {**os.environ, "TILLIE_ESESSION_VECTORS": str(made)}
    arguments = ["-q", "-rN", "-p", "no:cacheprovider", "-k", "test_a_recorded_session_of_gajim and made"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, __file__],
        capture_output=True, text=True, env=environment, timeout=240, check=False,
    )  # fmt: skip
    assert f"{len(names)} passed" in ran.stdout, ran.stdout[-4_000:]
    assert len(names) > len(modp.GROUPS)
