"""wire.address: one form for each address (B38)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.errors import InvalidAddress
from tillie.wire import address
from tillie.wire.address import MAX_PART_BYTES

SAME = [
    ("Alice@Example.ORG", "alice@example.org"),
    ("ALICE@example.org/Phone", "alice@example.org/Phone"),
    ("\uff41lice@example.org", "alice@example.org"),  # full-width a
    ("alice@\uff45xample.org", "alice@example.org"),
    ("alice@example.org.", "alice@example.org"),
    ("alice@example\u3002org", "alice@example.org"),  # ideographic full stop
    ("alice@xn--mnchen-3ya.de", "alice@m\u00fcnchen.de"),
    ("alice@XN--MNCHEN-3YA.de", "alice@m\u00fcnchen.de"),
    ("alice@mu\u0308nchen.de", "alice@m\u00fcnchen.de"),  # u and combining diaeresis
    ("e\u0301lise@example.org", "\u00e9lise@example.org"),
    ("alice@example.org/e\u0301", "alice@example.org/\u00e9"),
    ("alice@example.org/a\u00a0b", "alice@example.org/a b"),  # no-break space
    ("alice@[2001:DB8:0:0::1]", "alice@[2001:db8::1]"),
    ("alice@127.0.0.1", "alice@127.0.0.1"),
]


@pytest.mark.parametrize(("text", "normal"), SAME)
def test_two_spellings_of_one_address(text: str, normal: str) -> None:
    assert address.parse(text) == normal == address.parse(normal)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alice@example.org", "\u0430lice@example.org"),  # Cyrillic a
        ("alice@example.org", "al\u0131ce@example.org"),  # dotless i
        ("paypal@example.org", "paypa1@example.org"),
        ("alice@example.org", "alice@ex\u0430mple.org"),
        ("alice@example.org/a", "alice@example.org/A"),  # resources have case
        ("fussball@example.org", "fu\u00dfball@example.org"),
    ],
)
def test_look_alikes_are_never_equal(one: str, other: str) -> None:
    assert address.parse(one) != address.parse(other)


@pytest.mark.parametrize(
    ("text", "bare", "resource"),
    [
        ("a@b/c/d", "a@b", "c/d"),
        ("a@b/c@d/e", "a@b", "c@d/e"),
        ("b/a@c", "b", "a@c"),
        ("a@b//", "a@b", "/"),
        ("a@b/ ", "a@b", " "),
    ],
)
def test_slashes_and_ats_in_a_resource(text: str, bare: str, resource: str) -> None:
    parsed = address.parse(text)
    assert (parsed.bare, parsed.resource) == (bare, resource)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "/",
        "a@",
        "@b",
        "a@b/",
        "a@b@c",
        "a@b@c/d",
        "a b@c",
        "a\tb@c",
        "a@b c",
        "a@b\n",
        "\na@b",
        "a@b/c\n",
        "a@b/\0",
        "a@b/\x1b[2J",
        "a\u202e@b",
        "a\u200b@b",
        "a\u200d@b",
        "a@b\u200b",
        "\ud800@b",
        "a@b/\ud800",
        "a\u00ad@b",
        "al\uff20ice@b",
        "a\uff0fb@c",
        "a'b@c",
        "a&b@c",
        "a<b@c",
        "a:b@c",
        'a"b@c',
        "a@b..c",
        "a@.b",
        "a@-b",
        "a@b-",
        "a@b_c",
        "a@b:5222",
        "a@" + "b" * 64,
        "a@xn--a",
        "a@xn--" + "a" * 100,
        "a@b/" + "c" * 1024,
        "a@[",
        "a@[]",
        "a@[::1",
        "a@[::g]",
        "a@[fe80::1%eth0]",
        "a@1.2.3",
        "a@256.1.1.1",
        "a@01.2.3.4",
        "a@b.\u0663",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidAddress):
        address.parse(text)


@pytest.mark.parametrize("character", ["a", "\u00e9"])
def test_length_of_each_part(character: str) -> None:
    most = MAX_PART_BYTES // len(character.encode())
    for most_text, more_text in [
        (f"{character * most}@b", f"{character * (most + 1)}@b"),
        (f"a@b/{character * most}", f"a@b/{character * (most + 1)}"),
    ]:
        address.parse(most_text)
        with pytest.raises(InvalidAddress):
            address.parse(more_text)
    label = "b" * 63
    address.parse(".".join([label] * 15 + [label]))
    with pytest.raises(InvalidAddress):
        address.parse(".".join([label] * 16 + ["c"]))


def test_bare() -> None:
    assert address.parse_bare("Alice@example.org") == "alice@example.org"
    with pytest.raises(InvalidAddress):
        address.parse_bare("alice@example.org/phone")


def test_plain_addresses_load_no_tables() -> None:
    program = (
        "import sys; from tillie.wire import address; address.parse('alice@example.org/Phone 1')\n"
        "print({'idna', 'precis_i18n'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


PART = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("aAbB.-@/[]1\u00df\u03c2\u0130\uff41")), max_size=12
)
ADDRESS = st.one_of(
    PART,
    st.builds("{}@{}".format, PART, st.sampled_from(["b", "B.c", "\u00e9.org"])),
    st.builds("{}@{}/{}".format, PART, PART, PART),
)


@given(ADDRESS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    try:
        parsed = address.parse(text)
    except InvalidAddress:
        return
    assert address.parse(str(parsed)) == parsed
    assert address.parse(parsed.bare) == parsed.bare


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@given(
    st.text("abz09.!#$%()*+,;=?[]^_`{|}~\\-", max_size=8),
    st.lists(LABEL, min_size=1, max_size=4).map(".".join),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
)
def test_the_short_cut_agrees_with_the_tables(local: str, domain: str, resource: str) -> None:
    text = f"{local}@{domain}/{resource}"
    if not address._PLAIN.fullmatch(text) or "--" in domain:
        return
    assert address.parse(text) == f"{address._localpart(local)}@{address._domain(domain)}/{address._resource(resource)}"
