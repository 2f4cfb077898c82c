"""Our own OpenPGP keys: made, announced in the right order, defended, revoked, backed up, restored."""

from __future__ import annotations

import pytest

from support.openpgp import ALICE, BOB, LIST, PgpEnd, PgpWorld, pair
from tillie.crypto import openpgp, password
from tillie.directory import openpgp as directory
from tillie.errors import NoProgress, StoreTooNew, TooLarge, UsageError
from tillie.model import Device, Done, Fetched, Kind, Publish, RolledBack
from tillie.schemes import moments
from tillie.schemes.openpgp import announcing, backup, keys, records
from tillie.wire import xml

OPEN = {"pubsub#access_model": "open", "pubsub#persist_items": "true", "pubsub#max_items": "1"}


def alone(**options: object) -> tuple[PgpWorld, PgpEnd]:
    world = PgpWorld()
    return world, PgpEnd(world, ALICE, **options)  # type: ignore[arg-type]


def generated(end: PgpEnd) -> Device:
    return end.run(lambda s: end.scheme.generate(s, end.now))


# -- making and announcing ------------------------------------------------------------------------------------------


def test_the_certificate_is_published_before_the_list() -> None:
    world, alice = alone()
    key, listed = world.publications
    assert key.node == directory.key_node(alice.device.key)
    assert directory.parse_key(key.payload) == alice.key.certificate.data
    assert key.item == "2027-01-15T08:00:00Z"
    assert (listed.node, listed.item) == (LIST, "current")
    assert directory.parse_list(listed.payload) == ((alice.device.key, world.now),)
    assert dict(key.options) == dict(listed.options) == OPEN
    assert alice.key.certificate.user_ids == (f"xmpp:{ALICE}",)
    assert alice.key.certificate.expires is None


def test_a_crash_between_certificate_and_list() -> None:
    world, alice = alone(generate=False)
    alice.offline = True
    generated(alice)
    (row,) = alice.store.outbox()
    assert row.effect == Publish("openpgp", "key:" + keys.shown(alice.key.fingerprint))
    publication = alice.drive(lambda s: alice.scheme.publication(s, row.effect.what, alice.now))  # type: ignore[union-attr]
    assert publication is not None
    world.publish(ALICE, publication)  # and here the power goes: nothing more is known to the store
    assert (ALICE, LIST) not in world.nodes
    alice.flush()
    assert world.announced(ALICE) == [alice.key.fingerprint]


def test_a_list_that_goes_out_too_early_leaves_the_key_out() -> None:
    world, alice = alone(generate=False)
    alice.offline = True
    generated(alice)
    assert alice.drive(lambda s: alice.scheme.publication(s, "list", alice.now)) is None
    assert (ALICE, LIST) not in world.nodes


def test_no_key_is_made_unless_it_is_wanted() -> None:
    world, alice = alone(generate=False)
    assert alice.device is None
    assert not world.nodes
    assert alice.run(lambda s: Done(alice.scheme.own_device(s, alice.now))) is None
    made = generated(alice)
    assert alice.run(lambda s: Done(alice.scheme.own_device(s, alice.now))) == made
    assert alice.run(lambda s: alice.scheme.prepare(s, alice.now)) == made


def test_no_second_key_is_made_where_another_device_has_one() -> None:
    world, alice = alone()
    laptop = PgpEnd(world, ALICE)
    assert laptop.device is None
    assert any("restore the backup" in notice for notice in laptop.notices)
    assert world.announced(ALICE) == [alice.key.fingerprint]


def test_no_key_is_made_where_the_list_can_not_be_read() -> None:
    world = PgpWorld(unreachable={ALICE})
    alice = PgpEnd(world, ALICE)
    assert alice.device is None
    assert any("can't be read" in notice for notice in alice.notices)
    world.unreachable.clear()
    world.now += 301
    assert alice.run(lambda s: alice.scheme.prepare(s, alice.now)) is not None


def test_keys_of_other_clients_stay_in_the_list() -> None:
    world, alice = alone(generate=False)
    other = openpgp.generate(f"xmpp:{ALICE}").certificate
    world.announce(ALICE, other)
    generated(alice)
    assert world.announced(ALICE) == [other.fingerprint, alice.key.fingerprint]


def test_another_client_joins_while_we_publish() -> None:
    world, alice = alone(generate=False)
    alice.offline = True
    generated(alice)
    other = openpgp.generate(f"xmpp:{ALICE}").certificate
    world.now += announcing.JUST_READ + 1
    world.announce(ALICE, other)
    alice.flush()
    assert set(world.announced(ALICE)) == {other.fingerprint, alice.key.fingerprint}


def test_several_keys_the_last_one_made_signs() -> None:
    world, alice = alone()
    second = generated(alice)
    assert [each.fingerprint for each in alice.run(lambda s: Done(alice.scheme.own_keys(s)))] == [
        second.key,
        alice.device.key,
    ]
    assert set(world.announced(ALICE)) == {alice.device.key, second.key}
    alice.run(lambda s: alice.scheme.activate(s, alice.device.key, alice.now))
    assert alice.key.fingerprint == alice.device.key


def test_the_number_of_our_keys() -> None:
    world, alice = alone(generate=False)
    alice.offline = True
    for _ in range(keys.MAX_OWN):
        generated(alice)
    with pytest.raises(UsageError):
        generated(alice)
    assert not world.nodes


# -- being removed --------------------------------------------------------------------------------------------------


def removed(world: PgpWorld) -> None:
    world.announce(ALICE)
    world.push(ALICE)


def test_a_removed_key_is_announced_again() -> None:
    world, alice = alone()
    removed(world)
    assert world.announced(ALICE) == [alice.device.key]


def test_a_fight_over_the_list_ends() -> None:
    world, alice = alone()
    for _ in range(moments.FIGHT_LIMIT + 3):
        removed(world)
    assert world.announced(ALICE) == []
    assert any("removed this account's OpenPGP key" in notice for notice in alice.notices)
    before = len(world.publications)
    alice.tick()
    assert len(world.publications) == before
    world.now += moments.FIGHT_WINDOW + 1
    alice.tick()
    assert world.announced(ALICE) == [alice.device.key]


def test_a_removed_key_whose_certificate_is_gone_is_published_whole() -> None:
    world, alice = alone()
    world.nodes.clear()
    world.announce(ALICE)
    world.push(ALICE)
    assert directory.key_node(alice.device.key) in {node for _, node in world.nodes}
    assert world.announced(ALICE) == [alice.device.key]


def test_a_key_that_another_device_revoked_is_not_announced_again() -> None:
    world, alice = alone()
    laptop = PgpEnd(world, ALICE, generate=False)
    code = alice.scheme.new_code()
    payload = alice.run(lambda s: Done(alice.scheme.backup(s, code)))
    laptop.run(lambda s: laptop.scheme.restore(s, payload, code, laptop.now))
    laptop.run(lambda s: laptop.scheme.revoke(s, alice.device.key, laptop.now))
    world.push(ALICE)
    assert world.announced(ALICE) == []
    assert alice.key.certificate.revoked
    assert any("revoked elsewhere" in notice for notice in alice.notices)
    (node,) = (node for _, node in world.nodes if node != LIST)
    published = openpgp.parse_certificate(directory.parse_key(world.nodes[ALICE, node]))
    assert published.revoked


def test_what_lies_under_our_keys_name_is_believed_only_as_a_revocation() -> None:
    world, alice = alone()
    before = alice.dump()
    stranger = openpgp.revoke(openpgp.generate(f"xmpp:{ALICE}")).certificate
    fact = Fetched(ALICE, directory.key_node(alice.device.key), "x", directory.encode_key(stranger.data))
    alice.learn(fact)
    assert alice.dump() == before
    world.nodes[ALICE, fact.node] = directory.encode_key(stranger.data)
    removed(world)
    assert not alice.key.certificate.revoked
    assert world.announced(ALICE) == [alice.device.key]


# -- leaving --------------------------------------------------------------------------------------------------------


def test_a_revoked_key_leaves_the_list_and_still_opens() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "before")
    bob.run(lambda s: bob.scheme.revoke(s, bob.device.key, bob.now))
    assert world.announced(BOB) == []
    assert bob.run(lambda s: Done(bob.scheme.own_device(s, bob.now))) is None
    published = world.nodes[BOB, directory.key_node(bob.device.key)]
    assert openpgp.parse_certificate(directory.parse_key(published)).revoked
    (opened,) = world.settle()
    assert opened.kind is Kind.OPENED
    with pytest.raises(UsageError, match="revoked"):
        bob.say(ALICE, "x")
    with pytest.raises(UsageError):
        bob.run(lambda s: Done(bob.scheme.sign(s, b"x")))
    generated(bob)
    bob.say(ALICE, "I am back")


def test_the_next_key_becomes_active() -> None:
    world, alice = alone()
    second = generated(alice)
    alice.run(lambda s: alice.scheme.revoke(s, second.key, alice.now))
    assert alice.run(lambda s: Done(alice.scheme.own_device(s, alice.now))) == alice.device
    assert world.announced(ALICE) == [alice.device.key]


def test_a_retracted_key_stays_here() -> None:
    world, alice = alone()
    alice.run(lambda s: alice.scheme.retract(s, alice.device.key, alice.now))
    assert world.announced(ALICE) == []
    world.push(ALICE)
    assert world.announced(ALICE) == []
    alice.run(lambda s: alice.scheme.announce(s, alice.device.key, alice.now))
    assert world.announced(ALICE) == [alice.device.key]


def test_a_key_that_another_device_left_behind_is_taken_off_the_list_once() -> None:
    world, alice = alone()
    other = openpgp.generate(f"xmpp:{ALICE}").certificate
    world.announce(ALICE, other, alice.key.certificate)
    world.push(ALICE)
    alice.run(lambda s: alice.scheme.retract(s, other.fingerprint, alice.now))
    assert world.announced(ALICE) == [alice.device.key]
    world.announce(ALICE, other, alice.key.certificate)
    world.push(ALICE)
    assert other.fingerprint in world.announced(ALICE)


def test_a_forgotten_key_is_gone() -> None:
    world, alice = alone()
    alice.run(lambda s: alice.scheme.forget(s, alice.device.key, alice.now))
    assert world.announced(ALICE) == []
    assert not alice.run(lambda s: Done(alice.scheme.own_keys(s)))
    assert not any(alice.dump()[key] for key in alice.dump() if key.kind == "own")


@pytest.mark.parametrize("method", ["revoke", "forget", "announce", "activate"])
def test_somebody_elses_key_is_not_ours_to_change(method: str) -> None:
    _, alice, bob = pair()
    with pytest.raises(UsageError):
        alice.run(lambda s: getattr(alice.scheme, method)(s, bob.device.key, alice.now))


# -- an older store -------------------------------------------------------------------------------------------------


def test_after_a_roll_back_a_revocation_is_found_again() -> None:
    world, alice = alone()
    old = alice.dump()
    alice.run(lambda s: alice.scheme.revoke(s, alice.device.key, alice.now))
    alice.roll_back(old)
    assert not alice.key.certificate.revoked
    alice.learn(RolledBack())
    alice.tick()
    assert alice.key.certificate.revoked
    assert world.announced(ALICE) == []


def test_after_a_roll_back_nothing_is_published_before_that_is_known() -> None:
    world, alice = alone()
    old = alice.dump()
    alice.run(lambda s: alice.scheme.revoke(s, alice.device.key, alice.now))
    alice.roll_back(old)
    alice.learn(RolledBack())
    world.unreachable.add(ALICE)
    what = "key:" + keys.shown(alice.device.key)
    with pytest.raises(NoProgress):
        alice.drive(lambda s: alice.scheme.publication(s, what, alice.now))
    alice.tick()  # tried a moment ago
    world.unreachable.clear()
    world.now += 301
    alice.tick()
    assert alice.key.certificate.revoked


def test_after_a_roll_back_what_we_know_of_others_is_fetched_again() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "x")
    alice.learn(RolledBack())
    world.fetches.clear()
    alice.say(BOB, "y")
    assert {ask.node for ask in world.fetches if ask.address == BOB} == {LIST, directory.key_node(bob.device.key)}


# -- backup ---------------------------------------------------------------------------------------------------------


def test_codes() -> None:
    codes = {backup.new_code() for _ in range(50)}
    assert len(codes) == 50
    for code in codes:
        assert [len(group) for group in code.split("-")] == [4] * 6
        assert set(code) <= set(backup.ALPHABET + "-")
        assert backup.read_code(f" {code.lower().replace('-', ' ')}\n") == code
        assert backup.read_code(code.replace("-", "")) == code


@pytest.mark.parametrize(
    "typed", ["", "TWNK-KD5Y-MT3T-E1GS-DRDB-KVT", "TWNK-KD5Y-MT3T-E1GS-DRDB-KVTWW", "0" * 24, "O" * 24]
)
def test_codes_that_are_refused(typed: str) -> None:
    with pytest.raises(UsageError):
        backup.read_code(typed)


def test_a_backup_is_published_for_us_alone_and_restored() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "hello")
    world.settle()
    bob.say(ALICE, "hello, Alice")
    code = alice.scheme.new_code()
    payload = alice.run(lambda s: Done(alice.scheme.backup(s, code)))
    alice.run(lambda s: alice.scheme.publish_backup(s, payload))
    publication = world.publications[-1]
    assert publication.node == "urn:xmpp:openpgp:0:secret-key"
    assert dict(publication.options)["pubsub#access_model"] == "whitelist"
    assert dict(publication.options)["pubsub#send_last_published_item"] == "never"
    assert not any(key.kind == "backup" for key in alice.dump())
    laptop = PgpEnd(world, ALICE)
    got = world.nodes[ALICE, directory.SECRET_NODE]
    (device,) = laptop.run(lambda s: laptop.scheme.restore(s, got, code.lower().replace("-", " "), laptop.now))
    assert device == alice.device
    for letter in world.take(alice):
        assert laptop.open(letter.arrived).kind is Kind.OPENED
    assert laptop.read_texts == ["hello, Alice"]


def test_a_code_is_stretched() -> None:
    _, alice = alone()
    payload = alice.run(lambda s: Done(alice.scheme.backup(s, alice.scheme.new_code())))
    assert password.work(directory.parse_backup(payload)) > 10_000_000


def test_a_wrong_code_changes_nothing() -> None:
    _, alice = alone()
    payload = alice.run(lambda s: Done(alice.scheme.backup(s, alice.scheme.new_code())))
    before = alice.dump()
    with pytest.raises(UsageError, match="does not open with this code"):
        alice.run(lambda s: alice.scheme.restore(s, payload, alice.scheme.new_code(), alice.now))
    assert alice.dump() == before


@pytest.mark.parametrize(
    "payload",
    [b"<secretkey xmlns='urn:xmpp:openpgp:0'>QQ==</secretkey>", b"<x/>", b"<secretkey xmlns='urn:xmpp:openpgp:0'/>"],
)
def test_a_backup_that_can_not_be_read(payload: bytes) -> None:
    _, alice = alone()
    with pytest.raises(UsageError, match="can't be read"):
        alice.run(lambda s: alice.scheme.restore(s, payload, alice.scheme.new_code(), alice.now))


def test_an_event_of_the_secret_key_node_changes_nothing() -> None:
    _, alice = alone()
    code = alice.scheme.new_code()
    payload = alice.run(lambda s: Done(alice.scheme.backup(s, code)))
    before = alice.dump()
    for address in (BOB, ALICE):
        alice.learn(Fetched(address, directory.SECRET_NODE, "current", payload, pushed=True))
    assert alice.dump() == before


def test_the_size_of_a_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    _, alice = alone()
    payload = alice.run(lambda s: Done(alice.scheme.backup(s, alice.scheme.new_code())))
    size = len(directory.parse_backup(payload))
    monkeypatch.setattr(directory, "MAX_BACKUP_BYTES", size)
    alice.run(lambda s: Done(alice.scheme.backup(s, alice.scheme.new_code())))
    monkeypatch.setattr(directory, "MAX_BACKUP_BYTES", size - 1)
    with pytest.raises(TooLarge):
        alice.run(lambda s: Done(alice.scheme.backup(s, alice.scheme.new_code())))


def test_without_keys_there_is_no_backup() -> None:
    _, alice = alone(generate=False)
    with pytest.raises(UsageError, match="no OpenPGP key"):
        alice.run(lambda s: Done(alice.scheme.backup(s, alice.scheme.new_code())))


@pytest.mark.parametrize("data", [b"", b"\x99", b"-----BEGIN PGP PRIVATE KEY BLOCK-----", b"hello"])
def test_imports_that_hold_no_key(data: bytes) -> None:
    _, alice = alone(generate=False)
    with pytest.raises(UsageError):
        alice.run(lambda s: alice.scheme.import_keys(s, data, "", alice.now))


def test_what_a_backup_file_of_the_account_holds() -> None:
    world, alice = alone()
    copied = dict(alice.run(lambda s: Done(list(alice.scheme.copied(s)))))
    laptop = PgpEnd(world, ALICE, generate=False)
    laptop.roll_back(copied)
    assert laptop.key == alice.key
    assert laptop.run(lambda s: laptop.scheme.prepare(s, laptop.now)) == alice.device


def test_a_key_that_was_copied_before_it_was_published_is_published() -> None:
    world, alice = alone(generate=False)
    alice.offline = True
    generated(alice)
    laptop = PgpEnd(world, ALICE, generate=False)
    laptop.roll_back(alice.dump())
    laptop.run(lambda s: laptop.scheme.prepare(s, laptop.now))
    assert world.announced(ALICE) == [alice.key.fingerprint]


def test_an_old_copy_of_a_revoked_key_does_not_bring_it_back() -> None:
    world, alice = alone()
    copy = alice.key.data
    alice.run(lambda s: alice.scheme.revoke(s, alice.device.key, alice.now))
    alice.run(lambda s: alice.scheme.import_keys(s, copy, "", alice.now))
    assert alice.key.certificate.revoked
    assert world.announced(ALICE) == []


def test_an_import_of_a_key_that_was_revoked_meanwhile() -> None:
    world, alice = alone()
    revoked = openpgp.revoke(alice.key)
    alice.run(lambda s: alice.scheme.import_keys(s, revoked.data, "", alice.now))
    assert alice.key.certificate.revoked
    assert world.announced(ALICE) == []
    alice.run(lambda s: alice.scheme.import_keys(s, openpgp.generate("Alice <a@b.c>").data, "", alice.now))
    assert alice.key.certificate.names(ALICE)
    assert world.announced(ALICE) == [alice.key.fingerprint]


# -- showing --------------------------------------------------------------------------------------------------------


def test_what_there_is_to_show() -> None:
    world, alice, bob = pair()
    second = generated(bob)
    bob.run(lambda s: bob.scheme.revoke(s, bob.device.key, bob.now))
    world.push(BOB)
    mine = bob.run(lambda s: Done(bob.scheme.keys(s, BOB, bob.now)))
    assert [(each.fingerprint, each.active, each.held, each.announced, each.why) for each in mine] == [
        (second.key, True, True, True, ""),
        (bob.device.key, False, True, False, "revoked"),
    ]
    alice.say(BOB, "x")
    (theirs,) = alice.run(lambda s: Done(alice.scheme.keys(s, BOB, alice.now)))
    assert (theirs.fingerprint, theirs.held, theirs.active, theirs.announced) == (second.key, False, False, True)
    assert theirs.user_ids == (f"xmpp:{BOB}",)


def test_private_keys_are_never_shown() -> None:
    _, alice = alone()
    for text in (repr(alice.key), repr(alice.run(lambda s: Done(keys.held(s)))), repr(alice.scheme)):
        assert alice.key.data.hex()[40:80] not in text
        assert repr(alice.key.data)[10:40] not in text


def test_records_of_a_newer_version_are_refused_by_name() -> None:
    for decode in (
        records.decode_own,
        records.decode_list,
        records.decode_known,
        moments.decode_time,
        moments.decode_times,
    ):
        with pytest.raises(StoreTooNew):
            decode(b"\x02" + bytes(40))


def test_the_signature_of_other_things() -> None:
    _, alice, bob = pair()
    signature, fingerprint = alice.run(lambda s: Done(alice.scheme.sign(s, b"data")))
    assert fingerprint == alice.device.key
    found = bob.run(lambda s: _done(bob.scheme.certificates(s, ALICE, bob.now)))
    assert bob.scheme.device_of(openpgp.verify_detached(signature, b"data", found), ALICE) == alice.device
    ours = alice.run(lambda s: _done(alice.scheme.certificates(s, ALICE, alice.now)))
    assert [each.fingerprint for each in ours] == [alice.device.key]
    assert xml.parse(directory.encode_key(ours[0].data)) is not None


def _done(found):  # type: ignore[no-untyped-def]
    return Done(found) if isinstance(found, tuple) else found
