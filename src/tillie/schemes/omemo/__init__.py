"""OMEMO (XEP-0384 0.9.1, `urn:xmpp:omemo:2`), in the order a reader wants it:

scheme      the whole behaviour: devices, seal, open, learn, tick
receiving   what an arrived <key> does: existing sessions, key exchanges, crossed first messages
sessions    sessions and skipped keys in the store
ratchet     the Double Ratchet of one session
x3dh        how a session begins
payload     content encryption
own         our device and its prekeys
contacts    lists and bundles of other devices
records     what is stored, byte by byte
element     codec of <encrypted>
messages    codec of what is inside a <key>
version     what tells one OMEMO version from another
"""

from tillie.schemes.omemo.scheme import Omemo, Repair

__all__ = ["Omemo", "Repair"]
