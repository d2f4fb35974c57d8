"""`gkfs umount`: end a mount and wait until its client is gone; heal a dead one."""

import contextlib
import os
import signal
import time
from pathlib import Path

from gkfs.commands import children, mounts, records, terminal
from gkfs.commands.mounts import Busy
from gkfs.commands.options import chosen_mountdir, mountdir_argument, verb
from gkfs.commands.records import Record
from gkfs.commands.signals import pause_until
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import BUSY_RETRY_S, END_GRACE_S, STOP_TIMEOUT_S

_EPILOG = """\b
Examples:
  gkfs umount /mnt/job
  gkfs umount /mnt/job --lazy      in use: detach it now, its client ends when the last file is closed
  gkfs umount /mnt/job --force     in use: end it now, programs that use it get errors
A dead mount ("Transport endpoint is not connected") needs no option.
"""


@verb("umount", _EPILOG)
@mountdir_argument
def umount(target: Path | None, mountdir: Path | None, lazy: bool, force: bool) -> None:
    """Unmount MOUNTDIR and wait until its client has ended."""
    chosen = chosen_mountdir(target, mountdir)
    record = records.find(chosen)
    if force and record is not None and record.running and mounts.locate(chosen) is None:
        path, detached = chosen, False  # unmounted before, by a call that did not want to wait for ever
    else:
        path = _gkfs_mount(chosen)
        record = records.find(path)
        detached = _unmount(path, record, lazy or force)
    if record is not None and record.running:
        _wait_for_client(path, record, lazy=detached and not force, force=force)
    if record is not None and not record.running:
        records.remove(path)


def _gkfs_mount(mountdir: Path) -> Path:
    """The path of the gkfs mount at *mountdir* as the kernel has it. Raises GkfsError (MOUNTDIR)."""
    mount = mounts.locate(mountdir)
    if mount is not None and mount.fs_type == mounts.FS_TYPE:
        return mount.path
    if mount is None and not os.path.lexists(mountdir):
        raise GkfsError(f"mountdir {mountdir} does not exist", ExitStatus.MOUNTDIR)
    kind = f", but one of type {mount.fs_type}" if mount else ""
    raise GkfsError(f"mountdir {mountdir} is not a gkfs mount{kind}", ExitStatus.MOUNTDIR)


def _unmount(path: Path, record: Record | None, detach: bool) -> bool:
    """Unmount *path*; True when it was detached while in use."""
    deadline_s = time.monotonic() + BUSY_RETRY_S
    while True:
        try:
            mounts.unmount(path)
            return False
        except Busy:
            # Whatever uses a dead mount gets nothing from it any more.
            dead = (record is None or not record.running) and mounts.is_dead(path)
            if detach or dead:
                mounts.unmount(path, lazy=True)
                return True
            if not pause_until(deadline_s):
                break
    users = mounts.users(path)
    by = f" by {users}" if users else ""
    raise GkfsError(f"mountdir {path} is in use{by}; --lazy or --force unmount it anyway", ExitStatus.MOUNTDIR)


def _wait_for_client(path: Path, record: Record, lazy: bool, force: bool) -> None:
    if force:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + (END_GRACE_S if force else BUSY_RETRY_S if lazy else STOP_TIMEOUT_S)
    waits_for_it = not (lazy or force)
    while record.running and not (waits_for_it and children.is_stopped(record.pid)) and pause_until(deadline_s):
        pass
    if not record.running:
        return
    if waits_for_it and children.is_stopped(record.pid):
        raise GkfsError(
            f"{path} is unmounted, but its client, process {record.pid}, is stopped (SIGSTOP); "
            f"SIGCONT lets it end, `gkfs umount --force {path}` ends it"
        )
    if lazy:
        terminal.say(f"{path} is detached; its client, process {record.pid}, ends when its files are closed")
    elif force:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGKILL)
        deadline_s = time.monotonic() + END_GRACE_S
        while record.running and pause_until(deadline_s):
            pass
    else:
        raise GkfsError(
            f"{path} is unmounted, but its client, process {record.pid}, still runs after {STOP_TIMEOUT_S:.0f} s; "
            f"its log: {record.log or 'none'}"
        )
