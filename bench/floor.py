"""The floors: the primitives that each operation cannot do without, in a straight line, and nothing else.

They use the libraries that Tillie uses (cryptography, PyNaCl, hmac, binascii, protobuf, lxml), each in its fastest
known way, and check nothing that the primitives do not check themselves. They keep no state, choose no devices, apply
no trust, no limits and no envelope profile. So no implementation on these libraries can be faster by much, and the
distance from here is what Tillie's own Python costs. Wire sizes are those of real messages.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from hmac import compare_digest, digest
from os import urandom

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from lxml import etree
from nacl.bindings import (
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_sign,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)

SHA256 = hashes.SHA256()
ZEROS = bytes(32)
ENVELOPE = 612  # bytes: padded to 512, and 100 more, the mean of 0-200 (XEP-0420 section "Affix Elements")
PREKEYS = 100
_BYTES, _UINT32, _MESSAGE = 12, 13, 11  # FieldDescriptorProto.Type
_REQUIRED, _OPTIONAL = 2, 1


def _messages() -> dict[str, type]:
    """The three protobuf messages of XEP-0384 section 9, as classes of the protobuf library."""
    file = descriptor_pb2.FileDescriptorProto(name="bench_omemo.proto", package="bench_omemo", syntax="proto2")
    fields: dict[str, tuple[tuple[str, int, int], ...]] = {
        "Message": (("n", _UINT32, 2), ("pn", _UINT32, 2), ("dh_pub", _BYTES, 2), ("ciphertext", _BYTES, 1)),
        "Authenticated": (("mac", _BYTES, 2), ("message", _BYTES, 2)),
        "KeyExchange": (
            ("pk_id", _UINT32, 2),
            ("spk_id", _UINT32, 2),
            ("ik", _BYTES, 2),
            ("ek", _BYTES, 2),
            ("message", _MESSAGE, 2),
        ),
    }
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for number, (member, kind, label) in enumerate(members, 1):
            field = message.field.add(name=member, number=number, type=kind, label=label)
            if kind == _MESSAGE:
                field.type_name = ".bench_omemo.Authenticated"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"bench_omemo.{name}")) for name in fields}


_CLASSES = _messages()
Message, Authenticated, KeyExchange = _CLASSES["Message"], _CLASSES["Authenticated"], _CLASSES["KeyExchange"]
PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, remove_comments=False)


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256, length, ZEROS, info).derive(secret)


def encrypt_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
    missing = 16 - len(data) % 16
    return Cipher(AES256(key), CBC(iv)).encryptor().update(data + bytes((missing,)) * missing)


def decrypt_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
    padded = Cipher(AES256(key), CBC(iv)).decryptor().update(data)
    return padded[: -padded[-1]]


# -- the parts ------------------------------------------------------------------------------------------------------


_HEAD, _MIDDLE = b"<envelope xmlns='urn:xmpp:sce:1'><content>", b"</content><from jid='alice@a.example'/><rpad>"
_TAIL = b"</rpad></envelope>"


def envelope(content: bytes) -> bytes:
    """Random padding and the bytes of an `<envelope>`."""
    missing = ENVELOPE - len(content) - len(_HEAD) - len(_MIDDLE) - len(_TAIL)
    rpad = b2a_base64(urandom(missing * 3 // 4 + 1), newline=False)[:missing]
    return b"".join((_HEAD, content, _MIDDLE, rpad, _TAIL))


def seal_payload(plaintext: bytes) -> tuple[bytes, bytes]:
    """A fresh key, HKDF to 80 bytes, AES-256-CBC, HMAC. Returns (base64 ciphertext, key and truncated HMAC)."""
    key = urandom(32)
    derived = hkdf(key, b"OMEMO Payload", 80)
    ciphertext = encrypt_cbc(derived[:32], derived[64:], plaintext)
    mac = digest(derived[32:64], ciphertext, "sha256")[:16]
    return b2a_base64(ciphertext, newline=False), key + mac


def open_payload(payload: bytes, key_and_mac: bytes) -> bytes:
    ciphertext = a2b_base64(payload)
    derived = hkdf(key_and_mac[:32], b"OMEMO Payload", 80)
    if not compare_digest(digest(derived[32:64], ciphertext, "sha256")[:16], key_and_mac[32:]):
        raise ValueError("the floor failed its own MAC")
    return decrypt_cbc(derived[:32], derived[64:], ciphertext)


def ratchet_encrypt(chain: bytes, public: bytes, associated: bytes, data: bytes) -> bytes:
    """One symmetric step: two HMACs of the chain, HKDF, AES-256-CBC, protobuf, HMAC, protobuf."""
    message_key = digest(chain, b"\x01", "sha256")
    digest(chain, b"\x02", "sha256")
    derived = hkdf(message_key, b"OMEMO Message Key Material", 80)
    ciphertext = encrypt_cbc(derived[:32], derived[64:], data)
    body = Message(n=17, pn=3, dh_pub=public, ciphertext=ciphertext).SerializeToString()
    mac = digest(derived[32:64], associated + body, "sha256")[:16]
    return Authenticated(mac=mac, message=body).SerializeToString()


def ratchet_decrypt(chain: bytes, associated: bytes, key: bytes) -> bytes:
    outer = Authenticated.FromString(key)
    inner = Message.FromString(outer.message)
    message_key = digest(chain, b"\x01", "sha256")
    digest(chain, b"\x02", "sha256")
    derived = hkdf(message_key, b"OMEMO Message Key Material", 80)
    if not compare_digest(digest(derived[32:64], associated + outer.message, "sha256")[:16], outer.mac):
        raise ValueError("the floor failed its own MAC")
    return decrypt_cbc(derived[:32], derived[64:], inner.ciphertext)


def ratchet_step(private: bytes, public: bytes, root: bytes) -> bytes:
    """One Diffie-Hellman step of the root chain: an exchange and HKDF to 64 bytes."""
    return HKDF(SHA256, 64, root, b"OMEMO Root Chain").derive(crypto_scalarmult(private, public))


def encrypted(keys: list[tuple[int, bytes]], payload: bytes, *, kex: bool = False) -> bytes:
    """The bytes of `<encrypted>` with one `<key>` for each device."""
    attribute = b" kex='true'" if kex else b""
    lines = b"".join(
        b"<key rid='%d'%b>%b</key>" % (rid, attribute, b2a_base64(key, newline=False)) for rid, key in keys
    )
    return (
        b"<encrypted xmlns='urn:xmpp:omemo:2'><header sid='1234567890'><keys jid='bob@b.example'>%b</keys></header>"
        b"<payload>%b</payload></encrypted>" % (lines, payload)
    )


# -- the operations -------------------------------------------------------------------------------------------------


class Floor:
    """The floors of the figures, over one set of keys."""

    def __init__(self) -> None:
        self.chain, self.root, self.associated = urandom(32), urandom(32), urandom(64)
        self.private, self.other_private = urandom(32), urandom(32)
        self.public, self.other_public = (crypto_scalarmult_base(key) for key in (self.private, self.other_private))
        self.seed = urandom(32)
        self.identity, self.secret = crypto_sign_seed_keypair(self.seed)
        self.signature = crypto_sign(self.public, self.secret)[:64]
        keys = (
            (b"<spk id='1'>%b</spk>", self.public),
            (b"<spks>%b</spks>", self.signature),
            (b"<ik>%b</ik>", self.identity),
        )
        self.bundle = b"<bundle xmlns='urn:xmpp:omemo:2'>%b<prekeys>%b</prekeys></bundle>" % (
            b"".join(line % b2a_base64(key, newline=False) for line, key in keys),
            b"".join(
                b"<pk id='%d'>%b</pk>" % (i, b2a_base64(self.other_public, newline=False)) for i in range(PREKEYS)
            ),
        )

    def encrypt(self, content: bytes, devices: int = 1) -> bytes:
        """Steady state: envelope, payload, one symmetric ratchet step for each device, XML."""
        payload, data = seal_payload(envelope(content))
        keys = [(rid, ratchet_encrypt(self.chain, self.public, self.associated, data)) for rid in range(devices)]
        return encrypted(keys, payload)

    def decrypt(self, element: bytes) -> bytes:
        """Steady state: one parse of `<encrypted>`, one symmetric step, payload, one parse of the envelope."""
        header, payload = etree.fromstring(element, PARSER)
        key = ratchet_decrypt(self.chain, self.associated, a2b_base64(header[0][0].text))
        plaintext = open_payload(payload.text, key)
        etree.fromstring(plaintext, PARSER)
        return plaintext

    def decrypt_pingpong(self, element: bytes) -> bytes:
        """... and one Diffie-Hellman step for their new chain. Ours (key pair, exchange) can wait for the next send."""
        ratchet_step(self.private, self.other_public, self.root)
        return self.decrypt(element)

    def encrypt_pingpong(self, content: bytes) -> bytes:
        """Encrypt after a received chain: a new key pair, one Diffie-Hellman step, and the steady state."""
        private = urandom(32)
        crypto_scalarmult_base(private)
        ratchet_step(private, self.other_public, self.root)
        return self.encrypt(content)

    def begin(self, data: bytes) -> bytes:
        """A session from a bundle (X3DH, active), and the first key in it: the key exchange, protobuf.

        One parse of the bundle, its signature, the identity key to Curve25519, an ephemeral key, four exchanges,
        HKDF; the ratchet's own key pair, its first Diffie-Hellman step, and one symmetric step.
        """
        bundle = etree.fromstring(self.bundle, PARSER)
        spk, identity = a2b_base64(bundle[0].text), a2b_base64(bundle[2].text)
        prekey = a2b_base64(bundle[3][17].text)
        crypto_sign_open(a2b_base64(bundle[1].text) + spk, identity)
        their = crypto_sign_ed25519_pk_to_curve25519(identity)
        ephemeral = urandom(32)
        public = crypto_scalarmult_base(ephemeral)
        secret = crypto_scalarmult(self.private, spk) + crypto_scalarmult(ephemeral, their)
        secret += crypto_scalarmult(ephemeral, spk) + crypto_scalarmult(ephemeral, prekey)
        root = hkdf(secret, b"OMEMO X3DH", 32)
        ratchet = urandom(32)
        ratchet_public = crypto_scalarmult_base(ratchet)
        ratchet_step(ratchet, spk, root)
        key = ratchet_encrypt(self.chain, ratchet_public, self.associated, data)
        exchange = KeyExchange(pk_id=17, spk_id=1, ik=self.identity, ek=public, message=Authenticated.FromString(key))
        return bytes(exchange.SerializeToString())

    def first(self, content: bytes, devices: int = 1) -> bytes:
        """New sessions with `devices` devices, and the first message to them."""
        payload, data = seal_payload(envelope(content))
        return encrypted([(rid, self.begin(data)) for rid in range(devices)], payload, kex=True)

    def first_decrypt(self, element: bytes) -> bytes:
        """A session from a key exchange (X3DH, passive), and the first message in it."""
        header, payload = etree.fromstring(element, PARSER)
        exchange = KeyExchange.FromString(a2b_base64(header[0][0].text))
        their = crypto_sign_ed25519_pk_to_curve25519(exchange.ik)
        secret = crypto_scalarmult(self.private, their) + crypto_scalarmult(self.private, exchange.ek)
        secret += crypto_scalarmult(self.private, exchange.ek) + crypto_scalarmult(self.other_private, exchange.ek)
        root = hkdf(secret, b"OMEMO X3DH", 32)
        inner = Message.FromString(exchange.message.message)
        ratchet_step(self.private, inner.dh_pub, root)
        key = ratchet_decrypt(self.chain, self.associated, exchange.message.SerializeToString())
        plaintext = open_payload(payload.text, key)
        etree.fromstring(plaintext, PARSER)
        return plaintext

    def new_device(self) -> bytes:
        """An identity key, a signed prekey with its signature, and 100 prekeys."""
        _, secret = crypto_sign_seed_keypair(urandom(32))
        signed = crypto_scalarmult_base(urandom(32))
        crypto_sign(signed, secret)
        return b"".join(crypto_scalarmult_base(urandom(32)) for _ in range(PREKEYS))
