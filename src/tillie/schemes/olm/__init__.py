"""Olm on vodozemac: sealed device-to-device messages (Matrix specification 1.19, "End-to-End Encryption"), in the order
a reader wants it:

scheme      the whole behaviour: devices, seal, open, learn, tick
receiving   what an arrived message opens with: existing sessions, new ones
opening     whether what opened is from whom it says, and for us
binding     room_id and fingerprint: to which conversation and devices it belongs
repair      new sessions in place of broken ones
sessions    sessions in the store, and in vodozemac
keys        our one-time and fallback keys, their whole life
own         our device, and how it is published
contacts    device lists and claimed keys of others
payload     what is inside, written and read
content     codec of m.room.encrypted
pickled     our keys in the form that vodozemac reads
records     what is stored, byte by byte
"""

from tillie.schemes.olm.scheme import Olm

__all__ = ["Olm"]
