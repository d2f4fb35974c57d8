"""Reads: small files from their record, others from their chunks, and ahead of programs that read on.

The kernel reads ahead in pieces of 128 KiB. Who reads like that gets whole chunks here, the next ones while the
last are being copied: one request for each chunk, to different daemons at once. What was read ahead belongs to the
handle, and goes when this node changes the file, or after `READ_AHEAD_AGE_S`; all handles share the room for it.
"""

import errno
import time
from collections.abc import Sequence

from gkfs import chunks
from gkfs.channel import Call
from gkfs.client.ahead import Ahead, Block, Room
from gkfs.client.context import Context
from gkfs.client.handles import FileHandle
from gkfs.client.inodes import Inode
from gkfs.errors import os_error
from gkfs.limits import CHUNK_SIZE_BYTES, READ_AHEAD_AGE_S, READ_AHEAD_CHUNKS
from gkfs.messages import Buffer, ReadChunkReply, ReadChunkRequest
from gkfs.operations import READ_CHUNK


class Reader:
    """The reads of one mount."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._room = Room()

    async def read(self, handle: FileHandle, offset: int, length: int, *, ahead: bool = True) -> Buffer:
        """Up to *length* bytes from *offset*; shorter only at the end of the file. Holes read as zeros.

        *ahead*: all that was written here is confirmed, so that more may be read than was asked for.
        """
        inode = handle.inode
        inode.was_read = True
        if handle.direct and (inode.entry.is_inline or offset + length > inode.size) and not inode.gone:
            # Others may have changed it since; a cached handle is cut by the kernel, which asked.
            await self._context.stat(inode)
        if inode.entry.is_inline and inode.data is None:
            await self._context.stat(inode)
        if inode.entry.is_inline and inode.data is not None:
            return inode.data[offset : offset + length]
        length = min(length, inode.size - offset)
        if length <= 0:
            return b""
        self._room.expire()
        if ahead and not handle.direct and self._is_sequential(handle, offset):
            return await self._read_ahead(handle, offset, length)
        handle.ahead.next_offset = offset + length
        return await self._read(inode, offset, length)

    async def _read(self, inode: Inode, offset: int, length: int, *, again: bool = False) -> Buffer:
        version = None if again else inode.entry.version
        pieces = list(chunks.pieces(offset, length))
        calls = [self._ask(inode, piece.chunk, piece.offset, piece.length) for piece in pieces]
        found = [((await call).data, piece.length) for piece, call in zip(pieces, calls, strict=True)]
        return await self._whole(inode, offset, found, version)

    async def _whole(
        self, inode: Inode, offset: int, pieces: Sequence[tuple[Buffer, int]], version: int | None
    ) -> Buffer:
        """What was read from *offset*, see `_joined`, up to where the file ends by now.

        *version*: of the record, when the pieces were asked for; None: whatever it was. Raises OSError: ESTALE
        when what is missing is no hole, but the file.
        """
        if all(len(data) >= length for data, length in pieces):
            return _joined(pieces)
        if not inode.lease_left_s():
            if inode.gone:
                raise os_error(errno.ESTALE, f"file {inode.fid:#x} lost its name elsewhere")
            await self._context.lease(inode)
        # What is missing may be what another node has cut off.
        left = inode.size - offset
        if left <= 0:
            return b""
        if version not in (None, inode.entry.version):
            # And written anew, before the size was asked for: the file never had zeros there. Once is enough: who
            # reads a hole while others append must get on.
            length = min(left, sum(length for _, length in pieces))
            return await self._read(inode, offset, length, again=True)
        return _joined(pieces)[:left]

    def _ask(self, inode: Inode, chunk: int, offset: int, length: int) -> Call[ReadChunkReply]:
        owner = self._context.chunk_owner(inode, chunk)
        return self._context.pool.call(owner, READ_CHUNK, ReadChunkRequest(inode.fid, chunk, offset, length))

    # --- ahead

    def _is_sequential(self, handle: FileHandle, offset: int) -> bool:
        """Whether a read goes on where the last ones were; the kernel's own reads ahead come in any order."""
        ahead, known = handle.ahead, (handle.inode.data_changes, handle.inode.entry.version)
        if ahead.known != known:
            if ahead.known[0] != known[0]:
                ahead.streak = 0  # who reads and writes in turns would use little of what is read ahead
            ahead.drop()
            ahead.known = known
        if abs(offset - ahead.next_offset) >= CHUNK_SIZE_BYTES:
            ahead.streak = 0
            ahead.drop()
            return False
        ahead.streak += 1
        return ahead.streak > 1

    async def _read_ahead(self, handle: FileHandle, offset: int, length: int) -> Buffer:
        inode, ahead, room = handle.inode, handle.ahead, self._room
        version, now_s = ahead.known[1], time.monotonic()
        ahead.next_offset = max(ahead.next_offset, offset + length)
        pieces = list(chunks.pieces(offset, length))
        has_room = room.has(len(pieces) * CHUNK_SIZE_BYTES)
        if not has_room and any(piece.chunk not in ahead.blocks for piece in pieces):
            return await self._read(inode, offset, length)
        room.touch(ahead, now_s)
        blocks = [self._block(inode, ahead, piece.chunk, piece.offset + piece.length, now_s) for piece in pieces]
        last = (offset + length - 1) // CHUNK_SIZE_BYTES
        for chunk in range(last + 1, min(last + 1 + _depth(ahead.streak), chunks.count(inode.size))):
            if room.is_half_full and chunk not in ahead.blocks:
                break
            self._block(inode, ahead, chunk, 0, now_s)
        for chunk in [chunk for chunk in ahead.blocks if chunk < last - 1]:
            room.remove(ahead, chunk)
        found = [
            (memoryview(await block.data())[piece.offset : piece.offset + piece.length], piece.length)
            for piece, block in zip(pieces, blocks, strict=True)
        ]
        return await self._whole(inode, offset, found, version)

    def _block(self, inode: Inode, ahead: Ahead, chunk: int, wanted: int, now_s: float) -> Block:
        """The chunk with at least *wanted* bytes of it, as far as the file goes."""
        block = ahead.blocks.get(chunk)
        if block is None or block.length < wanted or now_s - block.read_s > READ_AHEAD_AGE_S:
            length = min(CHUNK_SIZE_BYTES, inode.size - chunk * CHUNK_SIZE_BYTES)
            block = Block(self._ask(inode, chunk, 0, length), length, now_s)
            self._room.put(ahead, chunk, block)
        return block


def _depth(streak: int) -> int:
    """How many chunks to read ahead after so many sequential reads: more for who goes on for long."""
    return min(READ_AHEAD_CHUNKS, streak // 4)


def _joined(pieces: Sequence[tuple[Buffer, int]]) -> Buffer:
    """Pieces of (data, length) as one, with zeros for what a hole lacks of the length. Raises OSError (EIO)."""
    parts: list[Buffer] = []
    for data, length in pieces:
        parts.append(data)
        if len(data) > length:  # which the kernel would not take
            raise os_error(errno.EIO, f"{len(data)} bytes in answer to a question for {length}")
        if len(data) < length:
            parts.append(bytes(length - len(data)))
    return parts[0] if len(parts) == 1 else b"".join(parts)
