"""The chunk files that are open: the ones used last, up to so many, and those that threads work on."""

import errno
import os

from gkfs.daemon import keys
from gkfs.daemon.chunk_files import file_name
from gkfs.daemon.store import MetadataStore


class ChunkFile:
    """An open chunk file. *users*: threads working on it, which keep it open.

    *cached*: it may be in the page cache, by small I/O, or because it was read before: what many nodes read comes
    from the disk twice, and then from there.
    """

    __slots__ = ("cached", "dropped", "fd", "size", "users")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.users = 0
        self.cached = False
        self.dropped = False


class OpenChunks:
    """The open files of the chunks below one folder."""

    def __init__(self, folder: str, store: MetadataStore, files_max: int) -> None:
        self._folder = folder
        self._files_max = files_max
        self._store = store
        self._open: dict[tuple[int, int], ChunkFile] = {}  # least recently used first

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
            path = self.path(fid, chunk)
            try:
                fd = self._descriptor(path, 0)
                file = ChunkFile(fd, os.fstat(fd).st_size)
            except FileNotFoundError:
                if not create:
                    return None
                self._store.put_now(keys.chunk(fid, chunk), b"")
                file = ChunkFile(self._descriptor(path, os.O_CREAT), 0)
            if len(self._open) >= self._files_max:
                self.drop(*next(iter(self._open)))
        self._open[name] = file
        return file

    def _descriptor(self, path: str, flags: int) -> int:
        while True:
            try:
                return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                    raise
                self.drop(*next(iter(self._open)))  # others have taken what there is: fewer must do

    def drop(self, fid: int, chunk: int) -> None:
        """Close the chunk's file as soon as no thread works on it."""
        file = self._open.pop((fid, chunk), None)
        if file is None:
            return
        file.dropped = True
        if not file.users:
            os.close(file.fd)

    def release(self, file: ChunkFile) -> None:
        """A thread is done with *file*."""
        file.users -= 1
        if file.dropped and not file.users:
            os.close(file.fd)

    def close(self) -> None:
        """Close all files; no thread may be working."""
        for file in self._open.values():
            os.close(file.fd)
        self._open.clear()
