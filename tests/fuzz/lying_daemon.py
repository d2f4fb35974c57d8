"""A daemon that lies to mounts while a file is there: `python -m tests.fuzz.lying_daemon FILE SEED SHARE ...`.

What follows SHARE, of how many replies to be other than they should, is a command line of gkfs. Only the replies
that mounts get are lies; what the daemon does, and says to others, is right.
"""

import errno
import os
import random
import sys
from functools import partial
from typing import Any, Final

from gkfs import wire
from gkfs.cli import main
from gkfs.daemon.connection import Connection
from gkfs.operations import HELLO, TABLE
from tests.fuzz.frames import Frames

_BREAKING: Final = 0.02  # of the lies: bytes that are no frames, after which the mount connects anew
_KEPT: Final = 64  # replies that are said again, or instead of others


class Liar:
    """Makes other frames of replies."""

    def __init__(self, seed: int, share: float) -> None:
        self._random = random.Random(seed)
        self._share = share
        self._frames = Frames(self._random)
        self._said: list[bytes] = []

    def lie(self, data: bytes) -> bytes:
        """What to send instead of the whole frames in *data*."""
        told = []
        while len(data) >= wire.HEADER_BYTES:
            body_bytes, bulk_bytes, *_ = wire.HEADER.unpack_from(data)
            end = wire.HEADER_BYTES + body_bytes + bulk_bytes
            frame, data = data[:end], data[end:]
            lies = frame[_CODE] != HELLO.code and self._random.random() < self._share
            told.append(self._instead_of(frame) if lies else frame)
            if len(frame) < 1 << 16:
                self._said = [*self._said[1 - _KEPT :], frame]
        assert not data
        return b"".join(told)

    def _instead_of(self, frame: bytes) -> bytes:
        choose = self._random
        if choose.random() < _BREAKING:
            return choose.choice((self._frames.noise(), self._frames.mutated(frame), frame[:-1]))
        _, _, seq, code, _, _ = wire.HEADER.unpack_from(frame)
        operation = TABLE[code]
        match choose.randrange(10):
            case 0:
                return b""  # never
            case 1:
                return frame + frame
            case 2:  # another's, of the same kind if there was one
                same = [said for said in self._said if said[_CODE] == code]
                return _with_seq(choose.choice(same or [frame]), seq)
            case 3:
                return _error(code, seq, choose.choice((*errno.errorcode, 134, 4095, 65535)))
            case 4:
                return choose.choice(self._said or [frame])
            case _:  # fields of the right types, and no sense
                return self._frames.reply(operation, seq)


_CODE: Final = 16  # where the operation is in a header
_SEQ: Final = slice(8, 16)


def _with_seq(frame: bytes, seq: int) -> bytes:
    return frame[: _SEQ.start] + seq.to_bytes(8, "little") + frame[_SEQ.stop :]


def _error(code: int, seq: int, number: int) -> bytes:
    return b"".join(wire.encode_error(code, seq, number, "no reason"))


def make_lie(liar: Liar, while_there: str) -> None:
    """Have this process lie to mounts while the file *while_there* is."""
    send = Connection.send

    def sent(connection: Connection, pieces: list[Any]) -> None:
        is_mount = getattr(connection, "session", None) is not None and connection.session.role == "client"
        if is_mount and os.path.exists(while_there):
            told = liar.lie(b"".join(pieces))
            pieces = [told] if told else []
        send(connection, pieces)

    partial(setattr, Connection)("send", sent)


if __name__ == "__main__":
    make_lie(Liar(int(sys.argv[2]), float(sys.argv[3])), sys.argv[1])
    del sys.argv[1:4]
    main()
