"""OpenPGP for XMPP (XEP-0373) and its messages (XEP-0374), in the order a reader wants it:

scheme      the whole behaviour: devices, seal, open, learn, tick
opening     what an arrived message is: decrypted, its signature checked
content     codec of <signcrypt>, <sign>, <crypt>, and their checks
keys        our own keys
announcing  how they come to the server and stay there
contacts    lists and certificates of others
backup      the backup of our secret keys, and its code
objects     any bytes, sealed for people whose keys are known, offline
records     what is stored, byte by byte
element     codec of <openpgp>
"""

from tillie.schemes.openpgp.content import Form
from tillie.schemes.openpgp.objects import OpenedObject, SealedObject
from tillie.schemes.openpgp.scheme import KeyInfo, OpenedContent, OpenPgp

__all__ = ["Form", "KeyInfo", "OpenPgp", "OpenedContent", "OpenedObject", "SealedObject"]
