"""Files of the parallel file system, read and written in threads while requests to the daemons are in flight.

`Output` is written in the order things come, with holes; what is put is gathered and goes out in large pieces.
`Input` is read in blocks, the next ones while the last is being worked on.
"""

import errno
import os
from pathlib import Path
from typing import Final

from gkfs.client.crowd import Crowd, Threads
from gkfs.client.pump import Gate, Pump
from gkfs.errors import os_error
from gkfs.limits import PACK_BLOCK_BYTES, PACK_BLOCKS_AHEAD, PACK_GATHER_BYTES
from gkfs.messages import Buffer

_WRITES_AT_ONCE: Final = 2  # large ones, of one file


class Output:
    """A new file. Raises OSError wherever it is used: FileExistsError, ENOSPC and so on."""

    def __init__(self, path: Path, pump: Pump, threads: Threads) -> None:
        self._path = path
        self._threads = threads
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._runs: list[tuple[int, list[Buffer]]] = []  # gathered: offset, pieces without gap
        self._end = -1  # of the last one
        self._gathered_bytes = 0
        self._writes = Crowd(pump, _WRITES_AT_ONCE)

    def put(self, offset: int, data: Buffer) -> None:
        """Take *data*, which must stay unchanged, for this place in the file."""
        if offset != self._end:
            self._runs.append((offset, []))
        self._runs[-1][1].append(data)
        self._end = offset + len(data)
        self._gathered_bytes += len(data)

    async def settle(self) -> None:
        """Have what was gathered written if it is much; waits while there is too much that is not written."""
        if self._gathered_bytes >= PACK_GATHER_BYTES:
            await self._flush()

    async def close(self) -> None:
        """Write the rest, wait until all of it is on the disk, and close."""
        await self._flush()
        await self._writes.finish()
        await self._threads.run(os.fsync, self._fd)
        os.close(self._fd)

    async def _flush(self) -> None:
        runs, self._runs, self._end, self._gathered_bytes = self._runs, [], -1, 0
        if runs:
            await self._writes.start(self._threads.run(self._write, runs))

    def _write(self, runs: list[tuple[int, list[Buffer]]]) -> None:
        for offset, pieces in runs:
            data = memoryview(b"".join(pieces))
            while data:
                count = os.pwrite(self._fd, data, offset)
                if count == 0:
                    raise os_error(errno.EIO, f"{self._path} takes nothing")
                data, offset = data[count:], offset + count


class Input:
    """A file to read. Raises OSError wherever it is used."""

    def __init__(self, path: Path, pump: Pump, threads: Threads) -> None:
        self._pump = pump
        self._threads = threads
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._blocks: dict[int, _Block] = {}

    async def read(self, offset: int, length: int, limit: int) -> Buffer:
        """Bytes of the file, fewer where it ends; blocks before *limit* are read ahead."""
        if not length:
            return b""
        first, last = offset // PACK_BLOCK_BYTES, (offset + length - 1) // PACK_BLOCK_BYTES
        for number in [number for number in self._blocks if number < first]:
            if self._blocks[number].gate.done:
                del self._blocks[number]
        ahead = min(last + PACK_BLOCKS_AHEAD, max(last, (limit - 1) // PACK_BLOCK_BYTES))
        for number in range(first, ahead + 1):
            if number not in self._blocks:
                self._blocks[number] = block = _Block()
                self._pump.start(self._fill(number, block))
        parts = []
        for number in range(first, last + 1):
            data = await self._blocks[number].data()
            start = max(0, offset - number * PACK_BLOCK_BYTES)
            end = min(PACK_BLOCK_BYTES, offset + length - number * PACK_BLOCK_BYTES)
            parts.append(memoryview(data)[start:end])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """No more reads."""
        os.close(self._fd)

    async def _fill(self, number: int, block: "_Block") -> None:
        try:
            block.content = await self._threads.run(_read_whole, self._fd, number * PACK_BLOCK_BYTES)
        except OSError as error:
            block.error = error
        block.gate.open()


class _Block:
    """A block of a file, there once its gate is open. One reader at a time."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.content = b""
        self.error: OSError | None = None

    async def data(self) -> bytes:
        await self.gate
        if self.error is not None:
            raise self.error
        return self.content


def _read_whole(fd: int, offset: int) -> bytes:
    """A block, shorter where the file ends."""
    parts: list[bytes] = []
    wanted = PACK_BLOCK_BYTES
    while wanted and (data := os.pread(fd, wanted, offset)):
        parts.append(data)
        offset, wanted = offset + len(data), wanted - len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)
