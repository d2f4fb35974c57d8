"""The folder that a pack is written to: locked meanwhile, cleared of what killed packs left, complete at the end.

A pack's files have its number in their names, so that a new pack grows beside an old one, which stays whole until
the new one takes its place. The lock is a file; its holder is found dead by flock on the same node, and by a file
that does not grow older on another one.
"""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Self

from gkfs import manifest
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import PACK_LOCK_DEAD_S, PACK_LOCK_RENEW_S, POLL_INTERVAL_S
from gkfs.manifest import Manifest

_LOCK_NAME = "gkfs-pack.lock"


class PackFolder:
    """*folder*, made if missing. Use as a context: what it holds at the end is a pack, old or new, or nothing."""

    def __init__(self, folder: Path, replace: bool) -> None:
        """Lock and clear it. Raises GkfsError when it holds something else, or a pack and not *replace*."""
        self.folder = folder
        self.pack = manifest.new_pack()
        self._made = False
        self._lock = -1
        self._renew_at_s = 0.0
        try:
            self._begin(replace)
        except OSError as error:
            self._unlock()
            raise GkfsError(f"{folder}: {error.strerror}") from None
        except GkfsError:
            self._unlock()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._clear()
        self._unlock()
        if self._made:
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # if there is nothing in it

    def renew(self) -> None:
        """Say that we are alive; to be called often."""
        now_s = time.monotonic()
        if now_s > self._renew_at_s:
            self._renew_at_s = now_s + PACK_LOCK_RENEW_S
            with contextlib.suppress(OSError):
                os.utime(self._lock)

    def complete(self, finished: Manifest) -> None:
        """The pack is complete. Raises GkfsError."""
        try:
            manifest.write(self.folder, finished)
        except OSError as error:
            raise GkfsError(f"{self.folder}: {error.strerror}") from None

    def _begin(self, replace: bool) -> None:
        try:
            self.folder.mkdir()
            self._made = True
        except FileExistsError:
            pass
        names = os.listdir(self.folder)
        strange = [name for name in names if not _is_ours(name)]
        if strange:
            raise GkfsError(f"{self.folder} is not empty: it holds {min(strange)!r}", ExitStatus.USAGE)
        if manifest.NAME in names and not replace:
            raise GkfsError(f"{self.folder} holds a pack; --force puts another in its place", ExitStatus.USAGE)
        self._take_lock()
        self._clear()

    def _clear(self) -> None:
        """Remove all files of packs but those of the one that is complete."""
        kept = None
        if (self.folder / manifest.NAME).exists():
            kept = manifest.read(self.folder).pack
        for name in os.listdir(self.folder):
            pack = manifest.pack_of(name)
            is_old = pack is not None and pack != kept
            if is_old or name.startswith(f"{manifest.NAME}."):
                (self.folder / name).unlink(missing_ok=True)

    def _take_lock(self) -> None:
        path = self.folder / _LOCK_NAME
        while True:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._busy() from None
            if os.path.exists(path) and os.path.samestat(os.fstat(self._lock), os.stat(path)):
                break
            os.close(self._lock)  # its holder has just removed it
        holder = os.read(self._lock, 256).decode(errors="replace").strip()
        own = socket.gethostname()
        if holder and holder.split()[0] != own and self._is_renewed():
            os.close(self._lock)  # it is not ours to remove
            self._lock = -1
            raise self._busy(holder)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{own} {os.getpid()}\n".encode(), 0)

    def _is_renewed(self) -> bool:
        """Whether its holder, on another node, is alive."""
        before = os.fstat(self._lock).st_mtime_ns
        until_s = time.monotonic() + PACK_LOCK_DEAD_S
        while time.monotonic() < until_s:
            time.sleep(POLL_INTERVAL_S)
            if os.fstat(self._lock).st_mtime_ns != before:
                return True
        return False

    def _busy(self, holder: str = "") -> GkfsError:
        if not holder:
            holder = os.read(self._lock, 256).decode(errors="replace").strip()
            os.close(self._lock)
            self._lock = -1
        host, _, pid = holder.partition(" ")
        return GkfsError(f"{self.folder}: process {pid} on {host} is packing into it")

    def _unlock(self) -> None:
        if self._lock >= 0:
            (self.folder / _LOCK_NAME).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1


def _is_ours(name: str) -> bool:
    own = (manifest.NAME, _LOCK_NAME)
    return name in own or name.startswith(f"{manifest.NAME}.") or manifest.pack_of(name) is not None
