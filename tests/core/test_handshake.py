"""The bytes of the handshake: those that docs/wire_format.md shows."""

import errno
import os
import re
from pathlib import Path

import pytest

from gkfs import handshake
from gkfs.errors import ExitStatus, GkfsError, ProtocolError
from gkfs.handshake import ANSWER_BYTES, GREETING_BYTES, HEAD_BYTES, Call, Greeting
from gkfs.keyfile import PROOF_BYTES, Access, Key

FSID = "5f0c6f6d1c2b4b0e9a51d6c2c3f0a911"
KEY = Key(bytes(range(32)))
DOCUMENT = Path(__file__).parents[2] / "docs" / "wire_format.md"


def call(index: int = 1) -> Call:
    return Call(Access(FSID, KEY), index, b"\xc0" * 16, "client", "daemon 1")


def shown() -> list[str]:
    """The bytes of the greeting, the answer and the proof in the document."""
    text = DOCUMENT.read_text()
    (sample,) = re.findall(r"`00 01 02 \.\. 1f`.*?\n\n(.*?)\n\n[A-Z]", text, re.DOTALL)
    parts = re.split(r"^ +\w+ {2,}", sample, flags=re.MULTILINE)[1:]
    return ["".join(re.findall(r"\b[0-9a-f]{2,}\b", re.sub(r"#.*", "", part))) for part in parts]


def test_the_documents_bytes_are_those_that_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\xc1" * count)
    mine = call()
    monkeypatch.setattr(os, "urandom", lambda count: b"\xd1" * count)
    answer, proof = handshake.answer(KEY, mine.greeting)
    assert shown() == [mine.greeting.hex(), answer.hex(), proof.hex()]
    assert mine.prove(answer) == proof
    assert (len(mine.greeting), len(answer), len(proof)) == (GREETING_BYTES, ANSWER_BYTES, PROOF_BYTES)
    assert handshake.decode_greeting(mine.greeting) == Greeting(10, "client", 1, FSID, b"\xc0" * 16)


def test_no_bit_of_an_answer_can_be_changed() -> None:
    mine = call()
    answer, proof = handshake.answer(KEY, mine.greeting)
    for position in range(HEAD_BYTES, ANSWER_BYTES):
        for bit in range(8):
            changed = bytearray(answer)
            changed[position] ^= 1 << bit
            with pytest.raises(GkfsError, match="another key"):
                mine.prove(bytes(changed))
    assert mine.prove(answer) == proof


def test_no_two_greetings_or_answers_are_alike() -> None:
    mine = call()
    assert mine.greeting != call().greeting
    first, second = (handshake.answer(KEY, mine.greeting) for _ in range(2))
    assert not {*first} & {*second}


def test_refusals_are_told_apart() -> None:
    for number, status in ((errno.EPROTO, ExitStatus.VERSION), (errno.ENXIO, ExitStatus.HOSTFILE)):
        with pytest.raises(GkfsError, match="daemon 1 ") as caught:
            call().check_head(handshake.refusal(number))
        assert caught.value.status == status
    for head in (handshake.refusal(errno.EIO), b"HTTP/1.1", bytes(8)):
        with pytest.raises(ProtocolError):
            call().check_head(head)
    call().check_head(handshake.refusal(0))
