from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OMEMOMessage(_message.Message):
    __slots__ = ("n", "pn", "dh_pub", "ciphertext")
    N_FIELD_NUMBER: _ClassVar[int]
    PN_FIELD_NUMBER: _ClassVar[int]
    DH_PUB_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
    n: int
    pn: int
    dh_pub: bytes
    ciphertext: bytes
    def __init__(self, n: _Optional[int] = ..., pn: _Optional[int] = ..., dh_pub: _Optional[bytes] = ..., ciphertext: _Optional[bytes] = ...) -> None: ...

class OMEMOAuthenticatedMessage(_message.Message):
    __slots__ = ("mac", "message")
    MAC_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    mac: bytes
    message: bytes
    def __init__(self, mac: _Optional[bytes] = ..., message: _Optional[bytes] = ...) -> None: ...

class OMEMOKeyExchange(_message.Message):
    __slots__ = ("pk_id", "spk_id", "ik", "ek", "message")
    PK_ID_FIELD_NUMBER: _ClassVar[int]
    SPK_ID_FIELD_NUMBER: _ClassVar[int]
    IK_FIELD_NUMBER: _ClassVar[int]
    EK_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    pk_id: int
    spk_id: int
    ik: bytes
    ek: bytes
    message: OMEMOAuthenticatedMessage
    def __init__(self, pk_id: _Optional[int] = ..., spk_id: _Optional[int] = ..., ik: _Optional[bytes] = ..., ek: _Optional[bytes] = ..., message: _Optional[_Union[OMEMOAuthenticatedMessage, _Mapping]] = ...) -> None: ...
