"""The rootdir of one daemon: whose it is, who uses it, how often it was started.

    rootdir/superblock.json   format, fsid, daemon index and count, boot epoch, last TCP port, features, last boot
    rootdir/lock              flock of the daemon that uses it, with its process id and host
    rootdir/ballast           space to give up when the disk is full, see `room`
    rootdir/metadata/         RocksDB
    rootdir/chunks/           chunk files
    rootdir/socket            Unix socket

The boot epoch is part of every fid given by this run of the daemon; it is raised durably before the first one is
given, so fids are never given twice. What a daemon left behind that was killed, or whose node went down, is told
apart by the kernel's boot id and by a mark of a clean end: `Ending`.
"""

import errno
import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from gkfs.durable import write_json
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features, Hostfile, Sync
from gkfs.limits import BOOT_EPOCH_MAX

FORMAT: Final = 2
_SUPERBLOCK: Final = "superblock.json"
_LOCK: Final = "lock"
_BALLAST: Final = "ballast"
_MODE: Final = 0o700
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Ending(Enum):
    """How the last run of a daemon ended."""

    CLEAN = "clean"  # in order: its stores were closed
    KILLED = "killed"  # what it wrote is with the kernel, all of it
    POWER = "power"  # the node went down: of what was not synced some is on the disk, in no order


@dataclass(frozen=True)
class Superblock:
    """What superblock.json says. *port* is 0 before the daemon has listened.

    *node_boot*: the kernel's boot id during the last run; *clean*: that run has ended in order. *power_epoch*: the
    last run at whose end the node went down, 0 for none. *tls* and *replicas*: as the hostfile has them.
    """

    format: int
    fsid: str
    daemon_index: int
    daemon_count: int
    boot_epoch: int
    port: int = 0
    tls: bool = False
    replicas: int = 1
    checksums: bool = False
    sync: str = Sync.FSYNC
    node_boot: str = ""
    clean: bool = False
    power_epoch: int = 0

    @property
    def features(self) -> Features:
        return Features(self.checksums, Sync(self.sync), self.tls, self.replicas)


class Rootdir:
    """An exclusively held rootdir; `close` gives it back. *ending*: of the run before."""

    ending: Ending

    def __init__(self, path: Path, hostfile: Hostfile, daemon_index: int) -> None:
        """Create or check *path*, lock it, and begin a new boot epoch in it. Raises GkfsError (ROOTDIR)."""
        self.path = path
        self._lock_fd = -1
        try:
            # Not its parents: a mistyped path shall not fill the wrong disk.
            path.mkdir(mode=_MODE, exist_ok=True)
            path.chmod(_MODE)
            self._lock_fd = _lock(path)
            self.superblock = self._begin_epoch(hostfile, daemon_index)
        except OSError as error:
            self.close()
            raise GkfsError(f"rootdir {path} cannot be used: {error.strerror}", ExitStatus.ROOTDIR) from None
        except BaseException:
            self.close()
            raise

    @property
    def metadata(self) -> Path:
        return self.path / "metadata"

    @property
    def ballast(self) -> Path:
        return self.path / _BALLAST

    @property
    def chunks(self) -> Path:
        return self.path / "chunks"

    @property
    def socket(self) -> Path:
        return self.path / "socket"

    def remember_port(self, port: int) -> None:
        """Note the TCP *port*, so that a restarted daemon can be found where it was. Raises OSError."""
        if port != self.superblock.port:
            self.superblock = replace(self.superblock, port=port)
            self._write()

    def opened(self) -> None:
        """Note that all stores could be opened: how the run before ended matters no more. Raises OSError."""
        self.superblock = replace(self.superblock, node_boot=_boot_id())
        self._write()

    def end(self) -> None:
        """Note that all stores have been closed in order. Raises OSError."""
        self.superblock = replace(self.superblock, clean=True)
        self._write()

    def close(self) -> None:
        """Release the lock; harmless to repeat."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _begin_epoch(self, hostfile: Hostfile, daemon_index: int) -> Superblock:
        boot = _boot_id()
        checksums, sync, tls, replicas = hostfile.features
        fresh = Superblock(
            FORMAT,
            hostfile.fsid,
            daemon_index,
            hostfile.daemon_count,
            0,
            tls=tls,
            replicas=replicas,
            checksums=checksums,
        )
        known = self._read() or replace(fresh, clean=True)
        for field in ("format", "fsid", "daemon_index", "daemon_count", "checksums", "replicas"):
            found, wanted = getattr(known, field), getattr(fresh, field)
            if found != wanted:
                what = field.replace("_", " ")
                raise GkfsError(
                    f"rootdir {self.path} is of another file system: {what} {found}, in the hostfile {wanted}",
                    ExitStatus.ROOTDIR,
                )
        if known.tls != fresh.tls:
            raise GkfsError(
                f"rootdir {self.path} is of a file system {_with_tls(known.tls)}, the hostfile of one "
                f"{_with_tls(fresh.tls)}",
                ExitStatus.ROOTDIR,
            )
        if known.boot_epoch >= BOOT_EPOCH_MAX:
            raise GkfsError(
                f"rootdir {self.path}: the daemon was started {known.boot_epoch} times, file ids are used up",
                ExitStatus.ROOTDIR,
            )
        self.ending = Ending.CLEAN if known.clean else Ending.KILLED if known.node_boot == boot else Ending.POWER
        self.superblock = replace(
            known,
            boot_epoch=known.boot_epoch + 1,
            sync=str(sync),
            clean=False,
            power_epoch=known.boot_epoch if self.ending is Ending.POWER else known.power_epoch,
        )
        try:
            self._write()
        except OSError as error:
            if error.errno != errno.ENOSPC or not self.ballast.exists():
                raise
            self.ballast.unlink()
            self._write()
        return self.superblock

    def _read(self) -> Superblock | None:
        path = self.path / _SUPERBLOCK
        try:
            return Superblock(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            if (self.path / "metadata").exists():
                raise GkfsError(f"rootdir {self.path} has data but no {_SUPERBLOCK}", ExitStatus.ROOTDIR) from None
            return None
        except (ValueError, TypeError) as error:
            raise GkfsError(f"{path} is damaged: {error}", ExitStatus.ROOTDIR) from None

    def _write(self) -> None:
        plant(self.path, self.superblock)


def plant(path: Path, superblock: Superblock) -> None:
    """Put *superblock* into the rootdir *path*, durably. Raises OSError."""
    write_json(path / _SUPERBLOCK, path / f"{_SUPERBLOCK}.new", asdict(superblock))


def is_used(path: Path) -> bool:
    """Whether a daemon holds the rootdir *path*. Raises OSError."""
    try:
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _with_tls(has_tls: bool) -> str:
    return "with TLS" if has_tls else "without TLS"


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _lock(path: Path) -> int:
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except OSError as error:
        holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another daemon"
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise GkfsError(f"rootdir {path} is in use by {holder}", ExitStatus.ROOTDIR) from None
        raise
    return fd
