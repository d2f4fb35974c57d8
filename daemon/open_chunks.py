"""The chunk files that are open: the ones used last, up to so many, and those that threads work on."""

import errno
import os

from gkfs.daemon import keys
from gkfs.daemon.chunk_files import file_name
from gkfs.daemon.store import MetadataStore


class ChunkFile:
    """An open chunk file. *users*: threads working on it, which keep it open. *dropped*: the chunk was cut.

    *cached*: it may be in the page cache, by small I/O, or because it was read before: what many nodes read comes
    from the disk twice, and then from there.
    """

    __slots__ = ("cached", "dropped", "fd", "name", "size", "users")

    def __init__(self, name: tuple[int, int], fd: int, size: int) -> None:
        self.name = name
        self.fd = fd
        self.size = size
        self.users = 0
        self.cached = False
        self.dropped = False


class OpenChunks:
    """The open files of the chunks below one folder: up to *files_max*, and those that have to go but are in use.

    The latter are found again: a chunk that was opened twice would have two sizes, and the one that a write in a
    thread does not know of would hide what that writes.
    """

    def __init__(self, folder: str, store: MetadataStore, files_max: int) -> None:
        self._folder = folder
        self._files_max = files_max
        self._store = store
        self._open: dict[tuple[int, int], ChunkFile] = {}  # least recently used first
        self._leaving: dict[tuple[int, int], ChunkFile] = {}  # closed as soon as nobody uses them; not in _open

    def path(self, fid: int, chunk: int) -> str:
        """Where the chunk's file is, or would be."""
        return f"{self._folder}/{file_name(fid, chunk)}"

    def get(self, fid: int, chunk: int, *, create: bool) -> ChunkFile | None:
        """The chunk's file, opened; *create*: made and indexed, else None if there is none. Raises OSError.

        A caller that hands it to a thread adds to its `users`, and calls `release` then.
        """
        name = (fid, chunk)
        file = self._open.pop(name, None)
        if file is None:
            file = self._leaving.pop(name, None) or self._opened(name, create=create)
            if file is None:
                return None
            if len(self._open) >= self._files_max:
                self._evict()
        self._open[name] = file
        return file

    def _opened(self, name: tuple[int, int], *, create: bool) -> ChunkFile | None:
        path = self.path(*name)
        try:
            fd = self._descriptor(path, 0)
            return ChunkFile(name, fd, os.fstat(fd).st_size)
        except FileNotFoundError:
            if not create:
                return None
            self._store.put_now(keys.chunk(*name), b"")
            return ChunkFile(name, self._descriptor(path, os.O_CREAT), 0)

    def _descriptor(self, path: str, flags: int) -> int:
        while True:
            try:
                return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                    raise
                self._evict()  # others have taken what there is: fewer must do

    def _evict(self) -> None:
        """The file used longest ago makes room for others, at once or when no thread works on it any more."""
        name = next(iter(self._open))
        file = self._open.pop(name)
        if file.users:
            self._leaving[name] = file
        else:
            os.close(file.fd)

    def drop(self, fid: int, chunk: int) -> None:
        """The chunk is cut: who comes next opens it anew. Its file is closed as soon as no thread works on it."""
        name = (fid, chunk)
        file = self._open.pop(name, None) or self._leaving.pop(name, None)
        if file is None:
            return
        file.dropped = True
        if not file.users:
            os.close(file.fd)

    def release(self, file: ChunkFile) -> None:
        """A thread is done with *file*."""
        file.users -= 1
        if file.users:
            return
        # One that was dropped is not looked for: what is there by its name is another, opened after the cut.
        if file.dropped or self._leaving.pop(file.name, None) is not None:
            os.close(file.fd)

    def close(self) -> None:
        """Close all files; no thread may be working."""
        for file in (*self._open.values(), *self._leaving.values()):
            os.close(file.fd)
        self._open.clear()
        self._leaving.clear()
