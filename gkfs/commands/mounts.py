"""The kernel's side of mounts: the mount table, whether a folder can become one, unmounting, who uses one.

Nothing here touches a mount unless it says so: a call into a mount whose daemons hang would hang, too.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gkfs.commands import children, records, terminal
from gkfs.commands.children import Child
from gkfs.commands.signals import pause_until
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import BUSY_RETRY_S, STOP_TIMEOUT_S

FS_TYPE: Final = "fuse.gkfs"
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_USERS_SHOWN: Final = 5
_FUSERMOUNT_TIMEOUT_S: Final = 20
_MTAB: Final = "/etc/mtab"  # fusermount3 looks there for who has mounted


class Busy(Exception):
    """The mount cannot be unmounted because programs use it."""


class Mount(NamedTuple):
    """One line of the mount table."""

    path: Path
    fs_type: str


def table() -> Iterator[Mount]:
    """The mount table as this process sees it; of mounts on one path the last one is on top."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, tail = line.partition(b" - ")
        # Space, tab, newline and backslash are written as octal escapes.
        path = os.fsdecode(fields.split(b" ")[4].decode("unicode_escape").encode("latin-1"))
        yield Mount(Path(path), os.fsdecode(tail.split(b" ")[0]))


def locate(mountdir: Path) -> Mount | None:
    """The topmost mount at *mountdir*, also by a symbolic link to it."""
    mounts = {mount.path: mount for mount in table()}
    by_parent = Path(os.path.realpath(mountdir.parent)) / mountdir.name
    return mounts.get(by_parent) or mounts.get(Path(os.path.realpath(mountdir)))


def is_dead(mountdir: Path) -> bool:
    """Whether the mount's client is gone. Asks the mount: a live one answers or waits for its daemons."""
    try:
        os.stat(mountdir)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def check_mountable(mountdir: Path) -> None:
    """Raise GkfsError (MOUNTDIR) unless *mountdir* is an empty folder that is not a gkfs mount already."""
    mount = locate(mountdir)
    if mount is not None and mount.fs_type.startswith("fuse") and is_dead(mountdir):
        raise _error(mountdir, f"is a dead mount, its client is gone; `gkfs umount {mountdir}` removes it")
    if mount is not None and mount.fs_type == FS_TYPE:
        raise _error(mountdir, f"is already mounted; `gkfs umount {mountdir}` ends that")
    try:
        with os.scandir(mountdir) as entries:
            name = next((entry.name for entry in entries), None)
    except OSError as error:
        reasons = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a directory"}
        raise _error(mountdir, reasons.get(error.errno or 0, f": {error.strerror}")) from None
    if name is not None:
        raise _error(mountdir, f"is not empty: it holds {name!r}")
    if not os.access(mountdir, os.W_OK):
        raise _error(mountdir, "may not be written to")


def check_fuse() -> None:
    """Raise GkfsError (FUSE) when this user cannot mount here, with what is missing."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise GkfsError(f"/dev/fuse cannot be opened: {error.strerror}", ExitStatus.FUSE) from None
    if os.geteuid() == 0:
        return
    _find_fusermount()
    if not os.path.exists(_MTAB):
        problem = f"{_MTAB} does not exist, without which fusermount3 unmounts nothing of a user's"
        raise GkfsError(f"{problem}: as root, ln -s ../proc/self/mounts {_MTAB}", ExitStatus.FUSE)


def others_may_be_let_in() -> bool:
    """Whether this user may mount with allow_other: root, or everybody by the site's /etc/fuse.conf."""
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    return os.geteuid() == 0 or "user_allow_other" in [line.strip() for line in lines]


def unmount(mountdir: Path, lazy: bool = False) -> None:
    """Unmount; *lazy* detaches a mount in use. Raises Busy, or GkfsError (MOUNTDIR or FUSE)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        if libc.umount2(os.fsencode(mountdir), flags) == 0:
            return
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise Busy
        if number != errno.EPERM:  # root of a container may still do it as its users do
            raise _error(mountdir, f"cannot be unmounted: {os.strerror(number)}")
    _fusermount(mountdir, lazy)


@contextlib.contextmanager
def prepared(mountdir: Path) -> Iterator[None]:
    """An empty folder to mount on, made when missing and then removed at the end. Raises GkfsError (MOUNTDIR)."""
    try:
        mountdir.mkdir()
    except FileExistsError:
        check_mountable(mountdir)
        yield
        return
    except OSError as error:
        raise _error(mountdir, f"cannot be made: {error.strerror}") from None
    try:
        yield
    finally:
        try:
            mountdir.rmdir()
        except OSError as error:
            terminal.warn(f"cannot remove {mountdir}: {error.strerror}")


def end(mountdir: Path, client: Child, make_room: Callable[[], None] | None = None) -> list[str]:
    """Unmount and end the client, whatever uses the mount: *make_room* may end those. What to warn of.

    A mount that stays in use is detached, and its users get errors.
    """
    warnings: list[str] = []
    if not _try_unmount(mountdir, 0.0, False, warnings):
        if make_room is not None:
            make_room()
        if not _try_unmount(mountdir, BUSY_RETRY_S, False, warnings):
            names = users(mountdir) or "unknown programs"
            warnings.append(f"{mountdir} is unmounted under {names}: they get errors from now on")
            _try_unmount(mountdir, 0.0, True, warnings)
            client.process.terminate()
    children.wait([client], STOP_TIMEOUT_S)
    children.end([client])
    records.remove(mountdir)  # if it was killed
    return warnings


def _try_unmount(mountdir: Path, retry_s: float, lazy: bool, warnings: list[str]) -> bool:
    """False when it is busy."""
    deadline_s = time.monotonic() + retry_s
    while True:
        try:
            found = locate(mountdir)
            if found is not None and found.fs_type == FS_TYPE:
                unmount(found.path, lazy)
            return True
        except Busy:
            if not pause_until(deadline_s):
                return False
        except GkfsError as error:
            warnings.append(str(error))
            return False


def users(mountdir: Path) -> str:
    """The programs that keep *mountdir* busy, as far as this user may see them: "bash (17), make (23)"."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != str(os.getpid()) and any(_below(link, mountdir) for link in _links(process)):
            found.append(f"{_name_of(process)} ({process.name})")
    more = f" and {len(found) - _USERS_SHOWN} more" if len(found) > _USERS_SHOWN else ""
    return ", ".join(found[:_USERS_SHOWN]) + more


def _find_fusermount() -> str:
    program = shutil.which("fusermount3")
    if program is None:
        raise GkfsError("fusermount3 is not in PATH: install fuse3", ExitStatus.FUSE)
    return program


def _fusermount(mountdir: Path, lazy: bool) -> None:
    command = [_find_fusermount(), "-u", *(["-z"] if lazy else []), "--", str(mountdir)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C"},
            timeout=_FUSERMOUNT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _error(mountdir, f"fusermount3 did not end within {_FUSERMOUNT_TIMEOUT_S} s") from None
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0 and os.strerror(errno.EBUSY) in said:
        raise Busy
    if done.returncode != 0:
        raise _error(mountdir, f"cannot be unmounted: {said or f'fusermount3 ended with {done.returncode}'}")


def _links(process: Path) -> Iterator[str]:
    places = [process / "cwd", process / "root", process / "exe"]
    with contextlib.suppress(OSError):  # another user's process, or it has ended
        places += (process / "fd").iterdir()
    for place in places:
        try:
            yield os.readlink(place)
        except OSError:
            continue


def _below(link: str, mountdir: Path) -> bool:
    return link == str(mountdir) or link.startswith(f"{mountdir}/")


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "process"


def _error(mountdir: Path, reason: str) -> GkfsError:
    space = "" if reason.startswith(":") else " "
    return GkfsError(f"mountdir {mountdir}{space}{reason}", ExitStatus.MOUNTDIR)
