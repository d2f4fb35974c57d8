"""Rootdirs on disk: ROOTDIR/daemon-0, daemon-1, ...; whose they are, and removing what was made there.

The daemon's own view of its folder is `gkfs.daemon.superblock`; here only what others may know and remove.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features, Sync

LOG_NAME: Final = "daemon.log"
_PREFIX: Final = "daemon-"
_FOLDERS: Final = ("metadata", "chunks", "copies")
# The lock goes last: whoever holds it keeps daemons out meanwhile.
_FILES: Final = (
    "superblock.json",
    "superblock.json.new",
    "views.json",
    "views.new",
    "socket",
    LOG_NAME,
    "ballast",
    "lock",
)


class Contents(NamedTuple):
    """What superblock.json of one daemon's folder says."""

    fsid: str
    daemon: int
    daemon_count: int
    features: Features


def daemon_folder(rootdir: Path, daemon: int) -> Path:
    """The folder of one daemon below the ROOTDIR that people name."""
    return rootdir / f"{_PREFIX}{daemon}"


def check_usable(rootdir: Path) -> None:
    """Raise GkfsError (ROOTDIR) unless *rootdir* is a folder in which this user may make folders."""
    if not rootdir.exists():
        raise _error(rootdir, "does not exist")
    if not rootdir.is_dir():
        raise _error(rootdir, "is not a directory")
    if not os.access(rootdir, os.R_OK | os.W_OK | os.X_OK):
        raise _error(rootdir, "may not be written to")


def existing_daemons(rootdir: Path) -> list[Path]:
    """The folders of daemons in *rootdir*, whatever state they are in."""
    try:
        found = [path for path in rootdir.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    except OSError as error:
        raise _error(rootdir, error.strerror or str(error)) from None
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def existing_file_system(rootdir: Path) -> Contents | None:
    """The file system that *rootdir* holds whole, or None; *daemon* in the result is 0.

    With two copies of everything one daemon may be missing: it finds that it has lost what it had, and ends.
    Raises GkfsError (ROOTDIR) when folders of several file systems are there, or not all of one.
    """
    contents = [read_contents(path) for path in existing_daemons(rootdir)]
    known = [entry for entry in contents if entry is not None]
    if not known:
        return None
    fsids = sorted({entry.fsid for entry in known})
    if len(fsids) > 1:
        raise _error(rootdir, f"holds daemons of {len(fsids)} file systems: {', '.join(fsids[:3])}")
    count = known[0].daemon_count
    if max(entry.daemon for entry in known) >= count or {entry.daemon_count for entry in known} != {count}:
        raise _error(rootdir, f"its daemons disagree on how many there are of file system {fsids[0]}")
    if len(known) < count and (known[0].features.replicas == 1 or len(known) < count - 1):
        here = ", ".join(str(entry.daemon) for entry in known[:10])
        raise _error(
            rootdir, f"holds only daemon {here} of the {count} of file system {fsids[0]}, see `gkfs daemon`"
        )
    if len({entry.features._replace(sync=Sync.FSYNC) for entry in known}) > 1:
        raise _error(rootdir, f"its daemons disagree on the features of file system {fsids[0]}")
    return Contents(fsids[0], 0, count, known[0].features)


def read_contents(folder: Path) -> Contents | None:
    """What the superblock in a daemon's *folder* says, None without one. Raises GkfsError (ROOTDIR)."""
    path = folder / "superblock.json"
    try:
        fields = json.loads(path.read_bytes())
        features = Features(
            bool(fields.get("checksums")),
            Sync(fields.get("sync", Sync.FSYNC)),
            fields.get("tls") is True,
            int(fields.get("replicas", 1)),
        )
        return Contents(str(fields["fsid"]), int(fields["daemon_index"]), int(fields["daemon_count"]), features)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise GkfsError(f"{path} is damaged: {error!r}", ExitStatus.ROOTDIR) from None
    except OSError as error:
        raise GkfsError(f"{path}: {error.strerror}", ExitStatus.ROOTDIR) from None


def purge(folder: Path, fsid: str, daemon: int) -> bool:
    """Remove what daemon *daemon* of file system *fsid* made in *folder*, and *folder* if it is empty then.

    False when the folder is not that daemon's or not there. Raises GkfsError (ROOTDIR) when a daemon uses it or
    something cannot be removed.
    """
    contents = read_contents(folder)
    if contents is None or (contents.fsid, contents.daemon) != (fsid, daemon):
        return False
    with _locked(folder):
        remove_contents(folder)
    return True


def remove_contents(folder: Path) -> None:
    """Remove what a daemon makes in *folder*, and *folder* if it is empty then. Raises GkfsError (ROOTDIR)."""
    try:
        for name in _FOLDERS:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder / name)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise GkfsError(f"cannot remove {error.filename}: {error.strerror}", ExitStatus.ROOTDIR) from None
    with contextlib.suppress(OSError):  # somebody else's files are in it
        folder.rmdir()


def holder(folder: Path) -> int | None:
    """The process id of the daemon that uses *folder*: 0 when it runs on another host, None when none does."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        words = os.pread(lock, 300, 0).decode(errors="replace").split()  # "process 123 on node1"
        local = len(words) == 4 and words[1].isdecimal() and words[3] == socket.gethostname()
        return int(words[1]) if local else 0
    finally:
        os.close(lock)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise GkfsError(f"{folder}: {error.strerror}", ExitStatus.ROOTDIR) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise GkfsError(f"{folder} is in use by a daemon, nothing is removed", ExitStatus.ROOTDIR) from None
    finally:
        os.close(lock)


def _error(rootdir: Path, reason: str) -> GkfsError:
    return GkfsError(f"rootdir {rootdir} {reason}", ExitStatus.ROOTDIR)
