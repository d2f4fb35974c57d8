"""Records of this user's mounts: which process serves which MOUNTDIR, so that `gkfs umount` can wait for it.

    $XDG_RUNTIME_DIR/gkfs or /tmp/gkfs-UID, mode 0700
        mount-1f3c....json    pid, start_ticks, mountdir, hostfile, log of one mount
        mount-1f3c....log     its messages, while it is mounted, unless --log names another file
        errors.log            tracebacks of failures that should not happen

A record is a help, not the truth: the truth is the kernel's mount table.
"""

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import NamedTuple

from gkfs.commands.children import is_running, start_time
from gkfs.errors import GkfsError


class Record(NamedTuple):
    """Who serves one mount."""

    pid: int
    start_ticks: int  # names the process together with pid
    mountdir: str
    hostfile: str
    log: str  # empty: the caller has it

    @property
    def running(self) -> bool:
        return is_running(self.pid, self.start_ticks)


def folder() -> Path:
    """This user's runtime folder, made if needed. Raises GkfsError when there is none that is safe."""
    problem = ""
    for path in _candidates():
        try:
            make_private(path)
        except GkfsError as error:
            problem = str(error)
        else:
            return path
    raise GkfsError(f"no runtime folder: {problem}")


def tmp_folder() -> Path:
    """This user's folder in /tmp, the same path on all nodes."""
    return Path(f"/tmp/gkfs-{os.geteuid()}")


def make_private(path: Path) -> None:
    """Make the folder *path* if it is not there. Raises GkfsError unless it is this user's alone."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise GkfsError(f"{path}: {error.strerror}") from None
    # In /tmp another user could have made it first, to read or redirect what we write.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise GkfsError(f"{path} is not a folder of this user alone (mode 0700)")


def log_file(mountdir: Path) -> Path:
    """Where the messages of a mount on *mountdir* go unless told otherwise."""
    return folder() / f"{_key(mountdir)}.log"


def write(mountdir: Path, hostfile: Path, log: Path | None) -> None:
    """Note that this process serves *mountdir*. Raises OSError or GkfsError."""
    pid = os.getpid()
    record = Record(pid, start_time(pid) or 0, str(mountdir), str(hostfile), str(log or ""))
    path = folder() / f"{_key(mountdir)}.json"
    temporary = path.with_suffix(f".{pid}")
    temporary.write_text(json.dumps(record._asdict()))
    temporary.replace(path)


def find(mountdir: Path) -> Record | None:
    """The record of *mountdir*, if this user has one."""
    for candidate in _candidates():
        path = candidate / f"{_key(mountdir)}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):
            if path.stat().st_uid == os.geteuid():
                return Record(**json.loads(path.read_bytes()))
    return None


def remove(mountdir: Path) -> None:
    """Forget the mount on *mountdir*, and its log if that is empty; a log with a reason in it stays."""
    for candidate in _candidates():
        path = candidate / f"{_key(mountdir)}.json"
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            if path.with_suffix(".log").stat().st_size == 0:
                path.with_suffix(".log").unlink()
        with contextlib.suppress(OSError):
            candidate.rmdir()  # the last one to leave


def _candidates() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = [Path(runtime) / "gkfs"] if runtime and os.path.isdir(runtime) else []
    # A mount made in a job without XDG_RUNTIME_DIR is found from a login session, too.
    return [*own, tmp_folder()]


def _key(mountdir: Path) -> str:
    real = os.path.join(os.path.realpath(mountdir.parent), mountdir.name)
    return f"mount-{hashlib.sha256(os.fsencode(real)).hexdigest()[:16]}"
