"""The model of data: close-to-open for what is written in place, each record whole and once for appends."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Final

from tests.simulation.history import NEVER, Append, History, Read, Write

RECORD_HEAD: Final = re.compile(rb"\[([0-9]{8}) ([0-9]{6})\|")
HEAD_BYTES: Final = 17


def record(number: int, length: int) -> bytes:
    """What an append with this number writes: its own number and length, then a filling of its own."""
    head = b"[%08d %06d|" % (number, max(length, HEAD_BYTES + 1))
    return head + bytes([97 + number % 26]) * (max(length, HEAD_BYTES + 1) - len(head) - 1) + b"]"


def check_reads(history: History, late: Collection[str] = ()) -> Iterator[str]:
    """What reads have seen that they must not have. *late*: clients whose writes may come over later ones."""
    by_block: dict[tuple[int, int], list[Write]] = defaultdict(list)
    for write in history.writes:
        for block in write.blocks:
            by_block[write.fid, block].append(write)
    for read in history.reads:
        fault = _fault_of(read, by_block[read.fid, read.block], late)
        if fault:
            yield f"read of block {read.block} of {read.fid:x} by {read.client} at {read.begun}: {fault}"


def _fault_of(read: Read, writes: list[Write], late: Collection[str]) -> str:
    """What is wrong with *read*; nothing in most cases."""
    later = [write for write in writes if _must_see(read, write)]
    if not read.stamp:
        cuts = [write for write in writes if not write.stamp and write.begun < read.ended]
        for write in later:
            if write.stamp and not any(_may_follow(cut, write, late) for cut in cuts):
                return f"{write.stamp.decode()} of {write.client}, shown at {write.shown}, is missing"
        return ""
    sources = [write for write in writes if write.stamp == read.stamp]
    if not sources:
        return f"{read.stamp!r} was never written there"
    source = sources[0]
    for write in later:
        if write is not source and not _may_follow(source, write, late):
            what = write.stamp.decode() or "a cut"
            return f"{source.stamp.decode()} is older than {what} of {write.client}, shown at {write.shown}"
    return ""


def _must_see(read: Read, write: Write) -> bool:
    """Whether *write*, or what came over it, must show."""
    if write.failed or write.ended == NEVER:
        return False
    return (write.ended if write.client == read.client else write.shown) < read.opened


def _may_follow(one: Write, other: Write, late: Collection[str]) -> bool:
    """Whether *one* may have come over *other*."""
    if one.failed:
        return True
    # What another node has not published may come after a cut.
    is_late = one.client != other.client and (one.client in late or not other.stamp)
    end = max(one.ended, one.shown) if is_late else one.ended
    return end > other.begun


def check_appends(fid: int, data: bytes, appends: list[Append]) -> Iterator[str]:
    """What is wrong with the contents of a file that was only appended to."""
    wanted = {number_of(append.record): append for append in appends}
    found: set[int] = set()
    holes = 0
    position = 0
    while position < len(data):
        if not data[position]:
            end = next((at for at in range(position, len(data)) if data[at]), len(data))
            holes += end - position
            position = end
            continue
        head = RECORD_HEAD.match(data, position)
        append = wanted.get(int(head[1])) if head else None
        if head is None or append is None or data[position : position + int(head[2])] != append.record:
            yield f"file {fid:x} has no whole record at {position}: {data[position : position + 40]!r}"
            return
        if int(head[1]) in found:
            yield f"record {int(head[1])} is in file {fid:x} twice"
        found.add(int(head[1]))
        position += len(append.record)
    for number, append in wanted.items():
        if append.done and number not in found:
            yield f"record {number} of {append.client}, acknowledged, is not in file {fid:x}"
    missing = sum(len(append.record) for number, append in wanted.items() if number not in found)
    if holes > missing:
        yield f"file {fid:x} has {holes} zeros between its records, {missing} may be"


def number_of(data: bytes) -> int:
    """The number in the head of a record."""
    return int(data[1:9])
