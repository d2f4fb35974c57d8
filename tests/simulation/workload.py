"""What simulated programs do: random calls on few names, so that they meet, each outcome noted in the history."""

import errno
import os
from collections.abc import Awaitable, Callable
from itertools import count
from random import Random
from typing import Final

import trio
from pyfuse3 import FUSEError

from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.messages import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.simulation.data_model import record
from tests.simulation.history import NEVER, Append, History, Read, Write
from tests.simulation.kernel import LATE, Handle, Kernel, Path

LEAVES: Final = (b"a", b"b", b"c")
DIRECTORIES: Final = (b"d", b"e")
LOGS: Final = (b"log0", b"log1")
ALL_NAMES: Final = LEAVES + DIRECTORIES + LOGS
# (offset, length) of the places of a file that programs write: in the record, beyond it, on both sides of a border
# of chunks, and one that is large enough for a thread.
BLOCKS: Final = (
    (0, 32),
    (3000, 32),
    (9000, 32),
    (CHUNK_SIZE_BYTES - 32, 32),
    (CHUNK_SIZE_BYTES, 32),
    (32 << 10, 160 << 10),
)
_BORDER: Final = (3, 4)
_SIZES: Final = (0, 100, 5000, 10000)
_RECORDS: Final = (20, 300, 5000, 20000)
# Outcomes that programs may meet. Which of them is right when is for the model to say.
EXPECTED: Final = frozenset(
    {
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOTEMPTY,
        errno.EINVAL,
        errno.ESTALE,
        errno.EPERM,
    }
)


class Numbers:
    """What all programs of a run count together."""

    def __init__(self) -> None:
        self.stamps = count(1)
        self.records = count(1)


class Program:
    """One program on the node of *kernel*."""

    def __init__(
        self,
        kernel: Kernel,
        history: History,
        numbers: Numbers,
        random: Random,
        trace: Callable[[str], None],
        *,
        large: bool,
        turns: bool,
        is_late: Callable[[], bool],
    ) -> None:
        """*large*: writes may be; *turns*: all programs write to one file, most of the time.

        *is_late*: whether something has been away for so long that calls give up.
        """
        self._kernel = kernel
        self._is_late = is_late
        self._history = history
        self._numbers = numbers
        self._random = random
        self._turns = turns
        self._trace = trace
        self._open: list[tuple[Handle, bool]] = []  # and whether it appends
        self._blocks = range(len(BLOCKS) if large else len(BLOCKS) - 1)
        self.unexpected: list[str] = []
        self._acts: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (10, self._create),
            (4, self._mkdir),
            (4, self._rmdir),
            (7, self._unlink),
            (10, self._rename),
            (4, self._link),
            (5, self._stat),
            (3, self._list),
            (12, self._append),
            (10, self._write),
            (10, self._read),
            (3, self._truncate),
            (4, self._fsync),
            (6, self._close_one),
        ]
        if turns:
            self._acts += [(60, self._write), (20, self._read), (5, self._fsync)]

    async def run(self, calls: int, think_s: float, begins: Callable[[], Awaitable[None]]) -> None:
        """Make so many calls, then close everything. *begins* is called before each."""
        weights = [weight for weight, _ in self._acts]
        for _ in range(calls):
            await begins()
            if think_s:
                await trio.sleep(self._random.expovariate(1 / think_s))
            act = self._random.choices(self._acts, weights)[0][1]
            await self._try(act.__name__, act)
        while self._open:
            await self._try("close", self._close_one)

    async def _try(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
            self._trace(f"{self._kernel.name}: {name} ends")
        except FUSEError as error:
            self._trace(f"{self._kernel.name}: {name} fails: {errno.errorcode[error.errno]}")
            may_be = self._is_late() if error.errno in LATE else error.errno in EXPECTED
            if not may_be:
                self.unexpected.append(f"{self._kernel.name}: {name}: {errno.errorcode[error.errno]}")

    # --- names

    def _directory(self) -> Path:
        depth = self._random.choices((0, 1, 2), (5, 5, 1))[0]
        return tuple(self._random.choice(DIRECTORIES) for _ in range(depth))

    def _file(self) -> Path:
        return (*self._directory(), self._random.choice(LEAVES))

    def _any(self) -> Path:
        if self._random.random() < 0.1:
            return (self._random.choice(LOGS),)
        return (*self._directory(), self._random.choice(LEAVES + DIRECTORIES))

    async def _create(self) -> None:
        handle = await self._kernel.create(self._file(), exclusive=self._random.random() < 0.7)
        self._open.append((handle, False))

    async def _mkdir(self) -> None:
        await self._kernel.mkdir((*self._directory(), self._random.choice(DIRECTORIES)))

    async def _rmdir(self) -> None:
        await self._kernel.rmdir((*self._directory(), self._random.choice(DIRECTORIES)))

    async def _unlink(self) -> None:
        await self._kernel.unlink(self._file())

    async def _rename(self) -> None:
        random = self._random
        flags = random.choices((0, RENAME_NOREPLACE, RENAME_EXCHANGE), (6, 1, 1))[0]
        kind = random.random()
        if kind < 0.15:  # logs keep to names of their own: nobody else writes to them
            old, new = random.sample(LOGS, 2)
            await self._kernel.rename((old,), (new,), RENAME_EXCHANGE)
        elif kind < 0.5:
            old_path, new_path = ((*self._directory(), random.choice(DIRECTORIES)) for _ in range(2))
            await self._kernel.rename(old_path, new_path, flags)
        else:
            await self._kernel.rename(self._file(), self._file(), flags)

    async def _link(self) -> None:
        await self._kernel.link(self._file(), self._file())

    async def _stat(self) -> None:
        await self._kernel.stat(self._any())

    async def _list(self) -> None:
        await self._kernel.list(self._directory(), ALL_NAMES)

    # --- data

    async def _handle(self, *, appends: bool) -> Handle:
        found = [handle for handle, its in self._open if its == appends]
        if found and self._random.random() < 0.6:
            return self._random.choice(found)
        if appends:
            handle = await self._kernel.open((self._random.choice(LOGS),), os.O_WRONLY | os.O_APPEND)
        elif self._turns:
            handle = await self._kernel.create((LEAVES[0],), exclusive=False)
        else:
            handle = await self._kernel.open(self._file())
        self._open.append((handle, appends))
        return handle

    async def _append(self) -> None:
        handle = await self._handle(appends=True)
        length = self._random.choice(_RECORDS) + self._random.randrange(100)
        append = Append(self._kernel.name, handle.fid, record(next(self._numbers.records), length))
        async with self._kernel.file_lock(handle.fid):
            self._history.appends.append(append)
            await self._kernel.write(handle, 0, append.record)
            append.done = True

    async def _write(self) -> None:
        handle = await self._handle(appends=False)
        block = self._random.choice(self._blocks)
        blocks = _BORDER if block in _BORDER else (block,)
        stamp = b"%-32d" % next(self._numbers.stamps)
        offset = BLOCKS[blocks[0]][0]
        data = stamp * (sum(BLOCKS[one][1] for one in blocks) // len(stamp))
        async with self._kernel.file_lock(handle.fid):
            noted = Write(self._kernel.name, handle.fid, frozenset(blocks), stamp, self._history.tick())
            self._history.writes.append(noted)
            try:
                await self._kernel.write(handle, offset, data)
            except FUSEError:
                self._have_failed([noted, *self._written(handle.fid)])
                raise
            noted.ended = self._history.tick()

    async def _truncate(self) -> None:
        handle = await self._handle(appends=False)
        size = self._random.choice(_SIZES)
        cut = frozenset(index for index, (offset, _) in enumerate(BLOCKS) if offset >= size)
        async with self._kernel.file_lock(handle.fid):
            noted = Write(self._kernel.name, handle.fid, cut, b"", self._history.tick())
            self._history.writes.append(noted)
            try:
                await self._kernel.truncate(handle, size)
            except FUSEError:
                self._have_failed([noted, *self._written(handle.fid)])
                raise
            noted.ended = noted.shown = self._history.tick()

    async def _read(self) -> None:
        await read_block(
            self._kernel, self._history, await self._handle(appends=False), self._blocks, self._random
        )

    async def _fsync(self) -> None:
        handle = await self._handle(appends=self._random.random() < 0.3)
        await self._publish(handle.fid, self._kernel.fsync(handle))

    async def _close_one(self) -> None:
        if self._open:
            handle, _ = self._open.pop(self._random.randrange(len(self._open)))
            await self._publish(handle.fid, self._kernel.close(handle))

    def _written(self, fid: int) -> list[Write]:
        """What was written through this mount and is not known to others."""
        return [
            write
            for write in self._history.writes
            if write.fid == fid and write.client == self._kernel.name and write.ended != NEVER == write.shown
        ]

    async def _publish(self, fid: int, call: Awaitable[None]) -> None:
        """Make a call after which others see what was written; when it fails they may not, or in part."""
        written = self._written(fid)
        try:
            await call
        except FUSEError:
            self._have_failed(written)
            raise
        now = self._history.tick()
        for write in written:
            write.shown = now

    def _have_failed(self, writes: list[Write]) -> None:
        # Who writes behind learns of it once, with any call about the file.
        for write in writes:
            write.failed = True


async def read_block(kernel: Kernel, history: History, handle: Handle, blocks: range, random: Random) -> None:
    """Read one block and note what was there."""
    block = random.choice(blocks)
    offset, length = BLOCKS[block]
    begun = history.tick()
    data = await kernel.read(handle, offset, length)
    stamp = data[:32] if data.strip(b"\0") else b""
    if stamp and data != stamp * (length // 32):
        stamp = b"torn: " + data[:64]
    history.reads.append(Read(kernel.name, handle.fid, block, handle.opened, begun, history.tick(), stamp))
