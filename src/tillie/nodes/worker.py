"""A process of its own that opens messages under slow passwords, one after the other; run as a file by `workers`.

It reads requests from standard input and writes answers to standard output, and ends with its input:

    request   4 bytes length of the message, 4 bytes of the password, 4 bytes limit of the plaintext; both
    answer    1 byte: 0 opened, 1 undecryptable, 2 malformed; 4 bytes length; plaintext, or why as UTF-8
"""

from __future__ import annotations

import signal
import sys
from struct import Struct
from typing import BinaryIO

from tillie.crypto import password
from tillie.errors import Malformed, PeerError

REQUEST, ANSWER = Struct(">III"), Struct(">BI")
OPENED, UNDECRYPTABLE, MALFORMED = 0, 1, 2


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    while head := requests.read(REQUEST.size):
        size, password_size, limit = REQUEST.unpack(head)
        kind, said = _open(requests.read(size), requests.read(password_size).decode(), limit)
        answers.write(ANSWER.pack(kind, len(said)) + said)
        answers.flush()


def _open(message: bytes, secret: str, limit: int) -> tuple[int, bytes]:
    try:
        return OPENED, password.open(message, secret, max_bytes=limit)
    except PeerError as error:
        return MALFORMED if isinstance(error, Malformed) else UNDECRYPTABLE, error.detail.encode()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the whole group; our input ends when it is time
    serve(sys.stdin.buffer, sys.stdout.buffer)
