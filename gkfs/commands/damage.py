"""Which chunks are not what was written: the part of `gkfs fsck` that reads all data, if they have checksums."""

import struct
from collections.abc import Awaitable, Callable
from typing import Any

from gkfs import metadentry
from gkfs.audit_messages import AuditChunksRequest, AuditStoreRequest
from gkfs.commands.parallel import for_each
from gkfs.daemon import keys
from gkfs.daemon.faults import Fault, Kind, file_name, key_name
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.operations import AUDIT_CHUNKS, AUDIT_STORE

Ask = Callable[[int, Any, Any], Awaitable[Any]]  # daemon, operation, request; raises GkfsError


async def find_damage(daemon_count: int, ask: Ask) -> tuple[list[Fault], int]:
    """The faults of all chunks on *daemon_count* daemons, and how many chunks were read. Raises GkfsError."""
    found: list[tuple[int, bytes, int, int]] = []  # daemon, key, blocks, offset
    checked = [0] * daemon_count

    async def read(index: int) -> None:
        after, more = b"", True
        while more:
            page = await ask(index, AUDIT_CHUNKS, AuditChunksRequest(after))
            found.extend((index, *chunk) for chunk in zip(page.keys, page.blocks, page.offsets, strict=True))
            checked[index] += page.checked
            after = page.after
            more = bool(after)

    await for_each(range(daemon_count), read)
    names = await _names({keys.chunk_of_key(key)[0] for _, key, _, _ in found}, daemon_count, ask)
    return [_fault(*chunk, names) for chunk in sorted(found)], sum(checked)


def _fault(daemon: int, key: bytes, blocks: int, offset: int, names: dict[int, list[str]]) -> Fault:
    fid, chunk = keys.chunk_of_key(key)
    where = ", ".join(sorted(names.get(fid, ()))[:3]) or file_name(fid)
    first = chunk * CHUNK_SIZE_BYTES + offset
    facts = f"chunk {chunk}, {blocks} blocks are not what was written, the first at byte {first}"
    return Fault(Kind.CHECKSUM, where, daemon, facts, fid)


async def _names(fids: set[int], daemon_count: int, ask: Ask) -> dict[int, list[str]]:
    """The paths of files."""
    found: dict[int, list[str]] = {}

    async def read(index: int) -> None:
        first, end = keys.PATHS
        more = True
        while more:
            page = await ask(index, AUDIT_STORE, AuditStoreRequest(first, end))
            for key, value in zip(page.keys, page.values, strict=True):
                try:
                    fid = metadentry.fid_of(value)
                except struct.error:
                    continue  # a fault of another kind
                if fid in fids:
                    found.setdefault(fid, []).append(key_name(key))
            more = page.more
            first = page.keys[-1] + b"\0" if page.keys else end

    if fids:
        await for_each(range(daemon_count), read)
    return found
