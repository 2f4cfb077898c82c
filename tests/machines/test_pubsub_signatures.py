"""Signatures of items, judged: who signed what, who did not, who would like to spoil it (XEP-0475, XEP-0476)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tillie.crypto import openpgp
from tillie.crypto.openpgp import SecretKey
from tillie.model import Address, Done, Key, State, Trust
from tillie.pubsub import checking, signed, signing
from tillie.pubsub.attachments import Attached, Attachment
from tillie.pubsub.checking import Checked, Found, SignatureReport, Verdict
from tillie.pubsub.items import Item, Node
from tillie.pubsub.signing import Signature, Statement
from tillie.store import Committed, MemoryStore

JULIET, ROMEO, MALLORY = (
    Address(f"{name}.lit") for name in ("juliet@capulet", "romeo@montague", "mallory@malfi")
)  # fmt: skip
NOW = 1_795_500_000.0
DAY = 86_400.0
NODE = Node(JULIET, "blog")
ENTRY = b"<entry xmlns='http://www.w3.org/2005/Atom'><title>Hi</title></entry>"
OTHER = ENTRY.replace(b"Hi", b"Ho")
ITEM = Item("x1", b"", JULIET)

_KEYS: dict[str, SecretKey] = {}


def key_of(who: Address, number: int = 0) -> SecretKey:
    name = f"{who} {number}"
    if name not in _KEYS:
        _KEYS[name] = openpgp.generate(f"xmpp:{who}")
    return _KEYS[name]


def sign(
    who: Address = JULIET,
    payload: bytes = ENTRY,
    *,
    at: float = NOW,
    also: Sequence[Address] = (),
    node: Node = NODE,
    key: SecretKey | None = None,
    author: Address | None = None,
    publisher: Address | None = None,
) -> Found:
    """A signature, attached as its signer would, unless told otherwise."""
    statement = signing.statement(who, at, also=also)
    value = openpgp.sign_detached(signing.signed_form(node, payload, statement), key or key_of(who))
    return Found(author or who, publisher or author or who, signing.encode(Signature(statement, value)))


class Reader:
    """Somebody who checks: what she holds and trusts, and what she has seen."""

    def __init__(self, *trusted: Address, holds: Sequence[Address] = (JULIET, ROMEO, MALLORY)) -> None:
        self.store = MemoryStore(Address("reader@example.org"))
        self.trusted = {(who, key_of(who).fingerprint): Trust.VERIFIED for who in trusted}
        self.certificates = {who: (key_of(who).certificate,) for who in holds}

    def check(
        self,
        *found: Found,
        payload: bytes = ENTRY,
        item: Item = ITEM,
        node: Node = NODE,
        published: float | None = None,
    ) -> Checked:
        def trust(who: Address, fingerprint: bytes) -> Trust:
            return self.trusted.get((who, fingerprint), Trust.UNDECIDED)

        def step(s: State) -> Done[Checked]:
            got = checking.check(s, node, item, payload, found, self.certificates, trust, NOW, published=published)
            return Done(got)

        out = self.store.run(step)
        assert isinstance(out, Committed)
        return out.value

    def one(self, found: Found, **more: object) -> SignatureReport:
        (report,) = self.check(found, **more).reports  # type: ignore[arg-type]
        return report

    def dump(self) -> dict[Key, bytes]:
        kinds = ("signed", "statement", "statements")
        out = self.store.run(lambda s: Done({k: v for kind in kinds for k, v in s.scan(Key("pubsub", kind, ""))}))
        assert isinstance(out, Committed)
        return out.value


# -- the four verdicts ----------------------------------------------------------------------------------------------


def test_trusted_untrusted_invalid_unknown() -> None:
    assert Reader(JULIET).check(sign()).summary is Verdict.VALID_TRUSTED
    assert Reader().check(sign()).summary is Verdict.VALID_UNTRUSTED
    assert Reader(JULIET).check(sign(), payload=OTHER).summary is Verdict.INVALID
    assert Reader(JULIET, holds=()).check(sign()).summary is Verdict.UNKNOWN_KEY
    assert Reader(JULIET).check() == Checked(None)


def test_a_valid_one_says_who_when_and_what_it_does_not_prove() -> None:
    checked = Reader(JULIET).check(sign(at=NOW - 5))
    (report,) = checked.reports
    assert (report.signer, report.author, report.time) == (JULIET, JULIET, NOW - 5)
    assert report.fingerprint == key_of(JULIET).fingerprint
    assert (report.trust, report.notes, report.error) == (Trust.VERIFIED, (), "")
    assert checked.notes == (checking.CAVEAT,)


def test_a_distrusted_key() -> None:
    reader = Reader()
    reader.trusted[JULIET, key_of(JULIET).fingerprint] = Trust.DISTRUSTED
    report = reader.one(sign())
    assert report.verdict is Verdict.VALID_UNTRUSTED
    assert "You distrust its key." in report.notes


# -- bad signatures -------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_the_signers() -> None:
    """Mallory signs in Juliet's name; his certificate is held, under his own address."""
    report = Reader(JULIET).one(sign(JULIET, key=key_of(MALLORY)))
    assert report.verdict is Verdict.INVALID
    assert "not known to be the signer's" in report.error


def test_a_key_announced_by_somebody_whom_it_does_not_name() -> None:
    """Mallory announces Juliet's key as his own: what she signs is not his."""
    reader = Reader(JULIET, holds=(JULIET,))
    reader.certificates[MALLORY] = (key_of(JULIET).certificate,)
    report = reader.one(sign(MALLORY, key=key_of(JULIET)))
    assert (report.signer, report.verdict) == (MALLORY, Verdict.UNKNOWN_KEY)


def test_a_revoked_key() -> None:
    reader = Reader(JULIET)
    found = sign()
    reader.certificates[JULIET] = (openpgp.revoke(key_of(JULIET)).certificate,)
    report = reader.one(found)
    assert (report.verdict, report.error) == (Verdict.INVALID, "Its key was revoked.")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"<signer>juliet@capulet.lit", b"<signer>mallory@malfi.lit"),
        lambda data: data.replace(b"stamp='20", b"stamp='19"),
        lambda data: data.replace(b"</signer>", b"</signer><signer>romeo@montague.lit</signer>"),
    ],
)
def test_an_altered_statement(change: Callable[[bytes], bytes]) -> None:
    found = sign()
    altered = found._replace(element=change(found.element))
    assert altered != found
    assert Reader(JULIET, MALLORY).check(altered).summary is Verdict.INVALID


@pytest.mark.parametrize(
    "value", [b"x", b"-----BEGIN PGP SIGNATURE-----", b"\xc2\x00", b"\x88\x05\x04\x00\x00\x00\x00"]
)
def test_what_is_no_openpgp_signature(value: bytes) -> None:
    element = signing.encode(Signature(signing.statement(JULIET, NOW), value))
    report = Reader(JULIET).one(Found(JULIET, JULIET, element))
    assert report.verdict is Verdict.INVALID
    assert report.error


def test_a_truncated_signature_at_every_byte() -> None:
    reader = Reader(JULIET)
    found = sign()
    whole = signing.parse(found.element)
    for length in range(1, len(whole.signature)):
        element = signing.encode(whole._replace(signature=whole.signature[:length]))
        assert reader.check(found._replace(element=element)).summary is Verdict.INVALID


def test_signatures_of_other_kinds_and_other_things() -> None:
    inner = b"<time stamp='2026-11-21T06:00:00Z'/><signer>juliet@capulet.lit</signer>"
    element = b"<signature xmlns='urn:xmpp:pubsub-signing:0'>%s</signature>"
    report = Reader(JULIET).one(Found(JULIET, JULIET, element % inner))
    assert report.verdict is Verdict.UNSUPPORTED
    for nonsense in (b"", b"x", ENTRY, element):
        assert Reader(JULIET).one(Found(JULIET, JULIET, nonsense)).verdict is Verdict.INVALID


@pytest.mark.parametrize("payload", [b"", b"<entry/>", b"<e xmlns='u' xmlns:p='u' p:a='1'/>"])
def test_payloads_that_nobody_can_have_signed(payload: bytes) -> None:
    report = Reader(JULIET).one(sign(), payload=payload)
    assert report.verdict is Verdict.INVALID
    assert report.error


# -- several signers ------------------------------------------------------------------------------------------------


def test_two_signers_each_with_a_signature() -> None:
    both = Reader(JULIET, ROMEO).check(sign(JULIET, also=[ROMEO]), sign(ROMEO, also=[JULIET]))
    assert both.summary is Verdict.VALID_TRUSTED
    assert [report.signer for report in both.reports] == [JULIET, ROMEO]


def test_a_named_signer_who_has_not_signed() -> None:
    checked = Reader(JULIET, ROMEO).check(sign(JULIET, also=[ROMEO]))
    assert [(report.signer, report.verdict) for report in checked.reports] == [
        (JULIET, Verdict.VALID_TRUSTED),
        (ROMEO, Verdict.MISSING),
    ]
    assert checked.summary is Verdict.VALID_UNTRUSTED


def test_a_named_signer_whose_own_signature_is_wrong() -> None:
    checked = Reader(JULIET, ROMEO).check(sign(JULIET, also=[ROMEO]), sign(ROMEO, OTHER))
    assert [report.verdict for report in checked.reports] == [Verdict.VALID_TRUSTED, Verdict.INVALID]
    assert checked.summary is Verdict.INVALID
    # What somebody else attached in his name does not stand for him.
    checked = Reader(JULIET, ROMEO).check(sign(JULIET, also=[ROMEO]), sign(ROMEO, OTHER, author=MALLORY))
    assert [report.verdict for report in checked.reports] == [
        Verdict.VALID_TRUSTED,
        Verdict.INVALID,
        Verdict.MISSING,
    ]
    assert checked.summary is Verdict.VALID_UNTRUSTED


def test_who_names_others_without_signing_names_nobody() -> None:
    checked = Reader(JULIET, ROMEO).check(sign(JULIET), sign(MALLORY, also=[ROMEO], payload=OTHER))
    assert ROMEO not in {report.signer for report in checked.reports}
    assert checked.summary is Verdict.VALID_TRUSTED


def test_two_keys_of_one_signer_in_one_element() -> None:
    """Libervia signs with each secret key of the account, and puts the signatures one behind the other."""
    reader = Reader(JULIET)
    reader.certificates[JULIET] += (key_of(JULIET, 1).certificate,)
    one, two = (signing.parse(sign(key=key_of(JULIET, number)).element) for number in (0, 1))
    both = signing.encode(one._replace(signature=one.signature + two.signature))
    checked = reader.check(Found(JULIET, JULIET, both))
    assert [report.verdict for report in checked.reports] == [Verdict.VALID_TRUSTED, Verdict.VALID_UNTRUSTED]
    assert checked.summary is Verdict.VALID_TRUSTED
    many = one._replace(signature=one.signature * (checking.MAX_PACKETS + 1))
    assert reader.check(Found(JULIET, JULIET, signing.encode(many))).summary is Verdict.INVALID


# -- who would like to spoil it -------------------------------------------------------------------------------------


def test_a_bad_signature_in_somebody_elses_name() -> None:
    """Mallory may attach. He names Juliet as the signer: reported, and not counted."""
    forged = sign(JULIET, key=key_of(MALLORY), author=MALLORY)
    checked = Reader(JULIET).check(forged, sign())
    assert checked.summary is Verdict.VALID_TRUSTED
    assert [report.verdict for report in checked.reports] == [Verdict.INVALID, Verdict.VALID_TRUSTED]
    assert any("attached under the address of mallory" in note for note in checked.reports[0].notes)
    assert Reader(JULIET).check(forged).summary is Verdict.INVALID  # there is nothing better


def test_a_bad_signature_under_her_own_address_that_the_service_gives_away() -> None:
    forged = sign(JULIET, key=key_of(MALLORY), publisher=MALLORY)
    checked = Reader(JULIET).check(sign(), forged)
    assert checked.summary is Verdict.VALID_TRUSTED
    assert checked.reports[1].disputed


@pytest.mark.parametrize("payload", [ENTRY, OTHER])
def test_a_stranger_beside_a_trusted_signer(payload: bytes) -> None:
    assert Reader(JULIET).check(sign(), sign(MALLORY, payload)).summary is Verdict.VALID_TRUSTED


def test_a_stranger_alone_makes_nothing_trusted() -> None:
    assert Reader(JULIET).check(sign(MALLORY)).summary is Verdict.VALID_UNTRUSTED


def test_the_publishers_own_bad_signature_counts() -> None:
    item = ITEM._replace(publisher=ROMEO)
    checked = Reader(JULIET).check(sign(JULIET), sign(ROMEO, OTHER), item=item)
    assert checked.summary is Verdict.INVALID


def test_a_bad_signature_in_the_publishers_name() -> None:
    """Romeo published and has not signed; Mallory attaches something in his name, under either address."""
    item = ITEM._replace(publisher=ROMEO)
    for forged in (
        sign(ROMEO, key=key_of(MALLORY), author=MALLORY),
        sign(ROMEO, key=key_of(MALLORY), publisher=MALLORY),
    ):
        assert Reader(JULIET).check(sign(JULIET), forged, item=item).summary is Verdict.VALID_TRUSTED


def test_an_older_signature_beside_the_new_one() -> None:
    """The item was changed and signed again; the signature of the version before is still there."""
    assert Reader(JULIET).check(sign(payload=OTHER, at=NOW - DAY), sign()).summary is Verdict.VALID_TRUSTED


def test_notes_on_who_published_what() -> None:
    report = Reader(JULIET).one(sign(publisher=MALLORY), item=ITEM._replace(publisher=ROMEO))
    assert report.verdict is Verdict.VALID_TRUSTED
    assert report.notes == (
        "The service says that romeo@montague.lit published the item.",
        "The service says that mallory@malfi.lit attached it.",
    )


# -- time, and what was seen before ---------------------------------------------------------------------------------


def test_times_that_can_not_be() -> None:
    reader = Reader(JULIET)
    assert "Its time is in the future." in reader.one(sign(at=NOW + DAY)).notes
    assert "It was made long before the item was published." in reader.one(sign(at=NOW - 40 * DAY), published=NOW).notes
    assert reader.one(sign(at=NOW - DAY), published=NOW, item=ITEM._replace(id="x2")).notes == ()


def test_the_same_item_under_another_id_or_node() -> None:
    """Neither is signed: both verify. Who has seen the first is told."""
    reader = Reader(JULIET)
    found = sign()
    assert reader.one(found).notes == ()
    assert reader.one(found).notes == ()
    copied = reader.one(found, item=ITEM._replace(id="x2"))
    moved = reader.one(found, node=Node(JULIET, "other"))
    for report in (copied, moved):
        assert report.verdict is Verdict.VALID_TRUSTED
        assert report.notes == ("The same signed version was seen before as item 'x1' of node 'blog'.",)


def test_an_older_version_that_comes_back() -> None:
    reader = Reader(JULIET)
    older, newer = sign(payload=OTHER, at=NOW - DAY), sign()
    assert reader.one(older, payload=OTHER).notes == ()
    assert reader.one(newer).notes == ()
    report = reader.one(older, payload=OTHER)
    assert report.verdict is Verdict.VALID_TRUSTED
    assert report.notes[0].startswith("An older version: juliet@capulet.lit signed this item again at 2026-")


def test_only_valid_signatures_are_remembered() -> None:
    reader = Reader(JULIET)
    reader.check(sign(), payload=OTHER)
    reader.check(sign(JULIET, key=key_of(MALLORY)))
    assert reader.dump() == {}


def test_ids_too_long_to_remember_are_compared_all_the_same() -> None:
    reader = Reader(JULIET)
    long = "x" * (signed.MAX_ITEM_ID + 1)
    reader.one(sign(at=NOW - 1), item=ITEM._replace(id=long))
    assert reader.dump() == {}
    found = sign()
    reader.one(found, item=ITEM._replace(id=long[1:]))
    assert len(reader.dump()) == 4
    assert "seen before as item 'xxx" in reader.one(found, item=ITEM._replace(id=long)).notes[0]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed, "MAX_STATEMENTS", 3)
    reader = Reader(JULIET)
    found = [sign(at=NOW - number) for number in range(10)]
    for number, each in enumerate(found):
        reader.check(each, item=ITEM._replace(id=f"i{number}"))
        assert len(reader.dump()) <= 3 * 3 + 1
    assert reader.one(found[9], item=ITEM).notes  # one of the newest three
    assert not reader.one(found[0], item=ITEM._replace(id="i99")).notes  # forgotten


# -- limits, white space, collecting --------------------------------------------------------------------------------


def test_white_space_is_said() -> None:
    spaced = ENTRY.replace(b"Hi", b"Hi <b>you</b>")
    assert checking.SPACE in Reader(JULIET).check(sign(payload=spaced), payload=spaced).notes
    assert checking.SPACE not in Reader(JULIET).check(sign()).notes


def test_as_many_signatures_as_are_checked_and_one_more() -> None:
    reader = Reader(JULIET, holds=())
    most = [sign()] * checking.MAX_SIGNATURES
    assert checking.MORE not in reader.check(*most).notes
    assert checking.MORE in reader.check(*most, sign()).notes


def test_collecting() -> None:
    element = sign(also=[ROMEO]).element
    children = tuple(Attachment(signing.SIGNATURE, element) for _ in range(checking.MAX_OF_AUTHOR + 1))
    found = checking.found_in([Attached(JULIET, None, children), Attached(ROMEO, ROMEO, children[:1])])
    assert [one.author for one in found] == [JULIET] * checking.MAX_OF_AUTHOR + [ROMEO]
    assert checking.signers_of((*found, Found(MALLORY, None, b"x"))) == (JULIET, ROMEO)


def test_a_statement_of_its_own_spelling() -> None:
    """The time is signed as it is written, so that two clients that follow the XEP to the letter agree."""
    statement = Statement("2022-10-16T20:39:03.5+02:00", (JULIET,))
    value = openpgp.sign_detached(signing.signed_form(NODE, ENTRY, statement), key_of(JULIET))
    report = Reader(JULIET).one(Found(JULIET, JULIET, signing.encode(Signature(statement, value))))
    assert (report.verdict, report.time) == (Verdict.VALID_TRUSTED, 1_665_945_543.5)
