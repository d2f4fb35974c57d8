"""What a job's file system has on a node, and its removal: at the end, or after a kill by the next one.

Only what gkfs makes is removed, and only by the user whose it is; deploy/slurm/epilog does the same for root.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from gkfs.commands import jobs, mounts, records, rootdirs
from gkfs.errors import GkfsError


def clear(name: str) -> bool:
    """Remove what a killed file system of job *name* left on this node; whether there was any.

    Raises GkfsError when it is alive.
    """
    folder = jobs.state_folder(name)
    try:
        lock = os.open(folder / jobs.LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise GkfsError(f"{folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        job = jobs.find(name)
        mountdir = Path(job.mountdir) if job else folder / jobs.MOUNT_NAME
        found = mounts.locate(mountdir)
        if found is not None and found.fs_type == mounts.FS_TYPE:
            mounts.unmount(found.path, lazy=True)
        records.remove(mountdir)
        data = folder / jobs.DATA_NAME
        if data.is_symlink() and data.readlink().name == jobs.data_name(name):
            remove_data(data.readlink())
        remove_state(folder)
    except BlockingIOError:
        raise GkfsError(f"a file system of job {name} runs here already; `gkfs stop` ends it") from None
    finally:
        os.close(lock)
    return True


def remove_data(folder: Path) -> list[str]:
    """Remove what daemons made in *folder*, and *folder*; what could not be removed."""
    warnings = []
    for daemon in rootdirs.existing_daemons(folder):
        try:
            rootdirs.remove_contents(daemon)
        except GkfsError as error:
            warnings.append(str(error))
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        warnings.append(f"cannot remove {folder}: {error.strerror}")
    return warnings


def remove_state(folder: Path) -> list[str]:
    """Remove the state folder with all that is ours in it."""
    try:
        for path in folder.iterdir():
            if path.name == jobs.MOUNT_NAME:
                path.rmdir()
            else:
                path.unlink()
        folder.rmdir()
    except OSError as error:
        return [f"cannot remove {error.filename or folder}: {error.strerror}"]
    with contextlib.suppress(OSError):
        records.tmp_folder().rmdir()  # the last one to leave
    return []
