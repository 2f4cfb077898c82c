"""Write openpgp_gnupg.json: keys and messages of GnuPG, as Libervia and others have them, weak and hostile ones too.

Run by hand, with gpg installed: `PYTHONPATH=src:tests python tests/vectors/make_openpgp.py`. The keys are new each
time; what is in the file was made once and is kept, so that our code is held against the same bytes for ever.
"""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

from support.gnupg import GnuPG

HERE = Path(__file__).parent
TEXT = ("<signcrypt xmlns='urn:xmpp:openpgp:0'/>" + "wherefore art thou " * 100).encode()
PASSWORD = "TWNK-KD5Y-MT3T-E1GS-DRDB-KVTW"
BOMB = 20_000_000  # zeros
READERS = {"ed25519": "ed25519 cv25519", "rsa": "rsa2048 rsa2048", "nistp256": "nistp256 nistp256"}
READERS |= {"nistp521": "nistp521 nistp521", "whole": "rsa2048"}


def _key(gpg: GnuPG, name: str, algorithms: str, *options: str) -> None:
    """A primary key, and a subkey for encryption; or one key for everything, which is what Libervia makes."""
    first, _, second = algorithms.partition(" ")
    usage = "sign,cert" if second else "sign,cert,encrypt"
    gpg.run(*options, "--quick-gen-key", f"xmpp:{name}@capulet.lit", first, usage, "never")
    if second:
        gpg.run(*options, "--quick-add-key", gpg.fingerprint(f"xmpp:{name}@capulet.lit"), second, "encr", "never")


def _weak(gpg: GnuPG) -> dict[str, bytes]:
    """Certificates that must not be encrypted to, by why."""
    _key(gpg, "rsa1024", "rsa1024 rsa1024")
    _key(gpg, "dsa", "dsa2048 elg2048")
    _key(gpg, "sha1", "rsa2048 rsa2048", "--cert-digest-algo", "SHA1")
    _key(gpg, "brainpool", "brainpoolP256r1 brainpoolP256r1")
    past = ("--faked-system-time", "20200101T000000!")
    gpg.run(*past, "--quick-gen-key", "xmpp:expired@capulet.lit", "future-default", "default", "1y")
    gpg.run(*past, "--quick-gen-key", "xmpp:half@capulet.lit", "ed25519", "sign,cert", "never")
    gpg.run(*past, "--quick-add-key", gpg.fingerprint("xmpp:half@capulet.lit"), "cv25519", "encr", "1y")
    gpg.run("--quick-gen-key", "xmpp:sign@capulet.lit", "ed25519", "sign,cert", "never")
    names = ("rsa1024", "dsa", "sha1", "brainpool", "expired", "half", "sign")
    return {name: gpg.export(f"xmpp:{name}@capulet.lit") for name in names}


def _messages(gpg: GnuPG, names: list[str]) -> dict[str, bytes]:
    made = {}
    for name in names:
        made[f"to {name}"] = gpg.seal(TEXT, [f"xmpp:{name}@capulet.lit"], "xmpp:ed25519@capulet.lit")
    to = ["xmpp:ed25519@capulet.lit"]
    for kind in ("none", "zip", "zlib", "bzip2"):
        made[f"compressed {kind}"] = gpg.seal(TEXT, to, to[0], "--compress-algo", kind)
    made["by rsa"] = gpg.seal(TEXT, to, "xmpp:rsa@capulet.lit")
    made["hidden"] = gpg.seal(TEXT, to, to[0], "--throw-keyids")
    made["several"] = gpg.seal(TEXT, [f"xmpp:{name}@capulet.lit" for name in names], to[0])
    made["two signers"] = gpg.seal(TEXT, to, to[0], "--local-user", "xmpp:rsa@capulet.lit")
    return made


def main() -> None:
    with GnuPG() as gpg:
        for name, algorithms in READERS.items():
            _key(gpg, name, algorithms)
        gpg.run(
            "--quick-gen-key", "xmpp:protected@capulet.lit", "future-default", "default", "never", passphrase="sesame"
        )
        names = list(READERS)
        to = ["xmpp:ed25519@capulet.lit"]
        secrets = {name: gpg.export_secret(f"xmpp:{name}@capulet.lit") for name in names}
        secrets["protected"] = gpg.export_secret("xmpp:protected@capulet.lit", "sesame")
        armoured = gpg.run("--armor", "--export-secret-keys", "xmpp:ed25519@capulet.lit", "xmpp:rsa@capulet.lit")
        stub = gpg.run("--export-secret-subkeys", "xmpp:ed25519@capulet.lit")
        mdc = ("--rfc2440", "--cipher-algo", "AES256", "--disable-mdc")
        found = {
            "made by": gpg.run("--version").decode().splitlines()[0],
            "text": TEXT,
            "password": PASSWORD,
            "secrets": secrets,
            "armoured": armoured,
            "stub": stub,
            "weak": _weak(gpg),
            "signcrypt": _messages(gpg, names),
            "crypt": gpg.seal(TEXT, to),
            "bomb": gpg.seal(bytes(BOMB), to, to[0]),
            "sign": gpg.run("--local-user", to[0], "--sign", data=TEXT),
            "detached": gpg.sign(TEXT, to[0]),
            "text signature": gpg.sign(TEXT, to[0], "--textmode"),
            "under password": {
                "default": gpg.seal_with_password(TEXT, PASSWORD),
                "salted": gpg.seal_with_password(TEXT, PASSWORD, "--s2k-mode", "1"),
                "simple": gpg.seal_with_password(TEXT, PASSWORD, "--s2k-mode", "0"),
                "bzip2": gpg.seal_with_password(TEXT, PASSWORD, "--s2k-mode", "1", "--compress-algo", "bzip2"),
                "sha512": gpg.seal_with_password(TEXT, PASSWORD, "--s2k-mode", "1", "--s2k-digest-algo", "SHA512"),
                "aes192": gpg.seal_with_password(TEXT, PASSWORD, "--s2k-mode", "1", "--cipher-algo", "AES192"),
            },
            "password bomb": gpg.seal_with_password(bytes(BOMB), PASSWORD, "--s2k-mode", "1"),
            "3des": gpg.seal_with_password(TEXT, PASSWORD, "--s2k-mode", "1", "--cipher-algo", "3DES"),
            "no mdc": gpg.seal_with_password(TEXT, PASSWORD, "--s2k-mode", "1", *mdc),
        }
    text = json.dumps(found, indent=1, default=lambda data: b64encode(data).decode())
    (HERE / "openpgp_gnupg.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
