"""What was read ahead of a program: whole chunks, each for any number of readers."""

from gkfs.channel import Call
from gkfs.client.pump import Gate
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

    __slots__ = ("blocks", "known", "next_offset", "streak")

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}  # by chunk
        self.known = (0, 0)  # changes of the file here, and its version, when they were read
        self.next_offset = 0  # where a sequential read goes on
        self.streak = 0  # sequential reads so far
