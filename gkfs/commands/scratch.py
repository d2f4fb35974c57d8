"""Where a node's local data goes when nobody says: the search for the node's own disk.

In this order, the first folder that exists, that this user may write to, and that is on a disk of this node:

    $SLURM_TMPDIR, $LOCAL_SCRATCH, $JOBFS, $TMPDIR      if set, and not just to /tmp
    /mnt/local, /local/scratch, /local, /localscratch, /lscratch, /scratch/local, /nvme, /mnt/nvme, /ssd, /mnt/ssd
    /tmp, /var/tmp

and of each the folder of this user in it, if there is one. A file system in memory is taken only when there is no
disk; one that comes over the network never.
"""

import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from gkfs.commands import mounts
from gkfs.errors import ExitStatus, GkfsError

VARIABLES: Final = ("SLURM_TMPDIR", "LOCAL_SCRATCH", "JOBFS", "TMPDIR")
_LAST: Final = ("/tmp", "/var/tmp")  # Slurm sets TMPDIR to /tmp unless the site knows better
FOLDERS: Final = (
    "/mnt/local",
    "/local/scratch",
    "/local",
    "/localscratch",
    "/lscratch",
    "/scratch/local",
    "/nvme",
    "/mnt/nvme",
    "/ssd",
    "/mnt/ssd",
    *_LAST,
)
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_REMOTE: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "cifs",
        "smb3",
        "pvfs2",
        "panfs",
        "wekafs",
        "9p",
        "virtiofs",
        "afs",
        "ncpfs",
        "ocfs2",
        "gfs2",
        "glusterfs",
    }
)


def find(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for this node's data. Raises GkfsError (ROOTDIR) when there is none."""
    in_memory: list[Path] = []
    looked_at = list(_candidates(environ))
    for folder in looked_at:
        fs_type = _fs_type(folder)
        if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK) or _is_remote(fs_type):
            continue
        if fs_type not in _IN_MEMORY:
            return folder
        in_memory.append(folder)
    if in_memory:
        return in_memory[0]
    raise GkfsError(
        f"no folder on a disk of this node that may be written to among {', '.join(map(str, looked_at))}; "
        f"name one with --rootdir",
        ExitStatus.ROOTDIR,
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # known to the job, not to this node
        user = str(os.geteuid())
    named = [environ.get(variable, "").rstrip("/") for variable in VARIABLES]
    named = [folder for folder in named if folder.startswith("/") and folder not in _LAST]
    for folder in dict.fromkeys([*named, *FOLDERS]):
        own = Path(folder) / user
        if own.is_dir():
            yield own
        yield Path(folder)


def _fs_type(folder: Path) -> str:
    """The type of the file system that holds *folder*, from the mount table: asking a dead server would hang."""
    fs_type = ""
    length = -1
    real = Path(os.path.abspath(folder))
    for mount in mounts.table():
        parts = len(mount.path.parts)
        if parts >= length and real.is_relative_to(mount.path):
            fs_type, length = mount.fs_type, parts
    return fs_type


def _is_remote(fs_type: str) -> bool:
    return fs_type in _REMOTE or fs_type.startswith("fuse.")
