"""What was read ahead of programs: whole chunks, each for any number of readers, and how much there is of it.

A handle's blocks serve its next reads, for `READ_AHEAD_AGE_S`; then they only take memory. Nobody looks after a
handle that is not read from, so each read drops those of all handles that were not read from for so long. Blocks
that are still of use stay: if one handle's could push out those of another, many that are read at once would have
the same chunks sent again and again. Who finds no room reads what it was asked for.
"""

import time
from collections import OrderedDict

from gkfs.channel import Call
from gkfs.client.pump import Gate
from gkfs.limits import READ_AHEAD_AGE_S, READ_AHEAD_ALL_BYTES
from gkfs.messages import Buffer, ReadChunkReply


class Block:
    """A chunk being read, or read; any number of handlers may wait for it."""

    __slots__ = ("_call", "_waiting", "length", "read_s")

    def __init__(self, call: Call[ReadChunkReply], length: int, now_s: float) -> None:
        self._call = call
        self.length = length  # asked for: up to the end of the file as it was
        self._waiting: list[Gate] = []
        self.read_s = now_s
        if not call.done:
            call.on_done = self._wake

    async def data(self) -> Buffer:
        """What is stored of the chunk; Raises OSError."""
        if not self._call.done:
            gate = Gate()
            self._waiting.append(gate)
            await gate
        return self._call.result().data

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for gate in waiting:
            gate.open()


class Ahead:
    """What was read ahead for one handle."""

    __slots__ = ("blocks", "known", "next_offset", "room", "streak")

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}  # by chunk; `Room` changes it
        self.room: Room | None = None  # where they are counted, if there are any
        self.known = (0, 0)  # changes of the file here, and its version, when they were read
        self.next_offset = 0  # where a sequential read goes on
        self.streak = 0  # sequential reads so far

    def drop(self) -> None:
        """Forget all blocks."""
        if self.room is not None:
            self.room.drop(self)


class Room:
    """What all handles of a mount have read ahead."""

    def __init__(self) -> None:
        self._length = 0
        self._read_s: OrderedDict[Ahead, float] = OrderedDict()  # of those with blocks, longest ago first

    def has(self, length: int) -> bool:
        """Whether there is room for so much of what programs are at."""
        return self._length + length <= READ_AHEAD_ALL_BYTES

    @property
    def is_half_full(self) -> bool:
        """Whether what is left is for chunks that programs are at: none further on are read for anybody."""
        return self._length >= READ_AHEAD_ALL_BYTES // 2

    def put(self, ahead: Ahead, chunk: int, block: Block) -> None:
        """Note what has been asked for, for a handle that was noted as read from."""
        self.remove(ahead, chunk)
        ahead.blocks[chunk] = block
        self._length += block.length

    def remove(self, ahead: Ahead, chunk: int) -> None:
        """Forget the block of that chunk, if there is one."""
        block = ahead.blocks.pop(chunk, None)
        if block is not None:
            self._length -= block.length

    def touch(self, ahead: Ahead, now_s: float) -> None:
        """A handle that has blocks, or is about to, is read from."""
        ahead.room = self
        self._read_s[ahead] = now_s
        self._read_s.move_to_end(ahead)

    def drop(self, ahead: Ahead) -> None:
        """Forget all blocks of a handle."""
        self._length -= sum(block.length for block in ahead.blocks.values())
        ahead.blocks.clear()
        ahead.room = None
        self._read_s.pop(ahead, None)

    def expire(self) -> None:
        """Forget what is too old to be used, of handles that nobody reads from."""
        now_s = time.monotonic() if self._read_s else 0.0
        while self._read_s:
            ahead, read_s = next(iter(self._read_s.items()))
            if now_s - read_s <= READ_AHEAD_AGE_S:
                return
            self.drop(ahead)
