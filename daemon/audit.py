"""AUDIT_STORE, AUDIT_FILES, AUDIT_CHUNKS and MEND: the stores as they are, for `gkfs fsck`, and changes to them.

Nothing is judged here; that is what `inspection` is for. A page takes a moment; between two of them others run.
"""

import errno
import os
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import trio

from gkfs import metadentry, paths
from gkfs.audit_messages import (
    AuditChunksReply,
    AuditChunksRequest,
    AuditFilesReply,
    AuditFilesRequest,
    AuditStoreReply,
    AuditStoreRequest,
    MendRequest,
)
from gkfs.daemon import keys
from gkfs.daemon.chunk_files import file_name
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.guards import Guards
from gkfs.daemon.session import Session
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.limits import AUDIT_PAGE_BYTES, AUDIT_PAGE_FILES, SCAN_PAGE_RECORDS
from gkfs.messages import Empty
from gkfs.operations import AUDIT_CHUNKS, AUDIT_FILES, AUDIT_STORE, MEND

_ENTRY_OVERHEAD_BYTES: Final = 16  # msgpack's, of a key, its value and size


class Audit:
    """The handlers; *folder* holds the chunk files."""

    def __init__(
        self,
        store: MetadataStore,
        storage: ChunkStorage,
        guards: Guards,
        names_mended: Callable[[], None],
        folder: Path,
    ) -> None:
        self._store = store
        self._storage = storage
        self._guards = guards
        self._names_mended = names_mended
        self._folder = folder

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve the four operations."""
        dispatcher.serve(AUDIT_STORE, self.store)
        dispatcher.serve(AUDIT_FILES, self.files)
        dispatcher.serve(AUDIT_CHUNKS, self.chunks)
        dispatcher.serve(MEND, self.mend)

    # --- reading

    def store(
        self, session: Session, request: AuditStoreRequest
    ) -> AuditStoreReply | Coroutine[Any, Any, AuditStoreReply]:
        page = self._store.scan(request.first, request.end, SCAN_PAGE_RECORDS)
        room_bytes = AUDIT_PAGE_BYTES
        count = 0
        for key, value in page:
            room_bytes -= len(key) + len(value) + _ENTRY_OVERHEAD_BYTES
            if room_bytes < 0 and count:
                break
            count += 1
        more = count < len(page) or len(page) == SCAN_PAGE_RECORDS
        reply = AuditStoreReply([key for key, _ in page[:count]], [value for _, value in page[:count]], [], more)
        return self._with_sizes(reply) if request.first[:1] == keys.CHUNKS else reply

    async def _with_sizes(self, reply: AuditStoreReply) -> AuditStoreReply:
        names = [
            file_name(*keys.chunk_of_key(key)) if len(key) == len(keys.chunk(0, 0)) else "" for key in reply.keys
        ]
        return reply._replace(sizes=await trio.to_thread.run_sync(sizes, self._folder, names))

    def files(self, session: Session, request: AuditFilesRequest) -> Coroutine[Any, Any, AuditFilesReply]:
        return self._files(os.fsdecode(request.after))

    async def _files(self, after: str) -> AuditFilesReply:
        names, last = await trio.to_thread.run_sync(chunk_names, self._folder, after)
        unknown: list[str] = []
        for number, name in enumerate(names):
            key = chunk_key(name)
            if key is None or self._store.get(key) is None:
                unknown.append(name)
            if number % SCAN_PAGE_RECORDS == 0:
                await trio.lowlevel.checkpoint()
        found = await trio.to_thread.run_sync(sizes, self._folder, unknown)
        there = [(os.fsencode(name), size) for name, size in zip(unknown, found, strict=True) if size >= 0]
        return AuditFilesReply([name for name, _ in there], [size for _, size in there], os.fsencode(last))

    def chunks(self, session: Session, request: AuditChunksRequest) -> Coroutine[Any, Any, AuditChunksReply]:
        return self._storage.damage(request.after)

    # --- repairs

    def mend(self, session: Session, request: MendRequest) -> Empty:
        if not len(request.keys) == len(request.expected) == len(request.values):
            raise os_error(errno.EINVAL, "mend: lists of different length")
        # no await between here and the commit of the batch: nothing changes between check and write
        changes = list(zip(request.keys, request.expected, request.values, strict=True))
        for key, expected, value in changes:
            self._check(key, expected, value)
        for key, expected, value in changes:
            if value is None:
                self._store.delete(key)
            else:
                self._store.put(key, value)
            if _is_path(key):
                self._names_mended()
                for record, delta in ((expected, -1), (value, 1)):
                    if record is not None:
                        self._store.count_entry(metadentry.decode(record).mode, delta)
            elif key[:1] == keys.CHUNKS:
                self._storage.add_found(*keys.chunk_of_key(key))
        return Empty()

    def _check(self, key: bytes, expected: bytes | None, value: bytes | None) -> None:
        """Raise OSError unless this change may be made; Blocked while something else changes the same."""
        if not _may_change(key, expected, value):
            raise os_error(errno.EINVAL, f"mend: key {key.hex()} is not to be changed so")
        if _is_path(key) and self._guards.active:
            self._guards.check_change(paths.path_of_key(key))
        if _is_record(key):
            self._guards.check_fid(metadentry.fid_of(value or expected or b""))
        if self._store.get(key) != expected:
            raise os_error(errno.ESTALE, f"mend: key {key.hex()} has changed meanwhile")


def chunk_key(name: str) -> bytes | None:
    """The index key of the chunk whose file has this name below the folder of the chunks, or None."""
    fid, dot, chunk = name[3:].partition(".")
    try:
        numbers = int(fid, 16), int(chunk, 16)
        return keys.chunk(*numbers) if dot and file_name(*numbers) == name else None
    except (ValueError, OverflowError, struct.error):
        return None


def chunk_names(folder: Path, after: str) -> tuple[list[str], str]:
    """Names below the folder of the chunks after *after*, ascending; and where to go on, "" at the end."""
    top = sorted(os.listdir(folder))
    first = after.partition("/")[0]
    names: list[str] = []
    for name in top:
        if name < first:
            continue
        try:
            inner = [f"{name}/{inner}" for inner in sorted(os.listdir(folder / name))]
        except NotADirectoryError:
            inner = [name]
        if inner == [] and not _is_folder(name):
            inner = [name]
        names += [path for path in inner if path > after]
        if len(names) > AUDIT_PAGE_FILES:
            names = names[:AUDIT_PAGE_FILES]
            return names, names[-1]
    return names, ""


def sizes(folder: Path, names: list[str]) -> list[int]:
    """The sizes of files below *folder*; -1 for one that is not there."""
    found = []
    for name in names:
        try:
            found.append(os.lstat(f"{folder}/{name}").st_size if name else -1)
        except FileNotFoundError:
            found.append(-1)
    return found


def _is_folder(name: str) -> bool:
    return len(name) == 2 and all(digit in "0123456789abcdef" for digit in name)


def _may_change(key: bytes, expected: bytes | None, value: bytes | None) -> bool:
    if key[:1] == keys.CHUNKS:
        return len(key) == len(keys.chunk(0, 0)) and expected is None and value == b""
    if not _is_record(key):
        return key[:1] == keys.HOLDERS and value is None
    records = [record for record in (expected, value) if record is not None]
    try:
        return bool([metadentry.decode(record) for record in records])
    except ValueError:
        return False


def _is_record(key: bytes) -> bool:
    return _is_path(key) or paths.is_address(key)


def _is_path(key: bytes) -> bool:
    return key == keys.ROOT or key[:1] == paths.ROOT
