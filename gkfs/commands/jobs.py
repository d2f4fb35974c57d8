"""What is known of a file system that spans the nodes of a job: names, folders, and the file that tells of it.

/tmp/gkfs-UID/NAME/       mode 0700, on every node of the job; NAME is Slurm's job id, or "job"
    hosts                 the hostfile, every node has its own copy
    hosts.FSID.key        the key, likewise
    job.json              what `gkfs stop`, stage-in and others need to know, see `Job`
    data                  symbolic link to SCRATCH/gkfs-UID-NAME, which holds the daemons' folders
    mnt                   the mount, unless another place was asked for
    *.log                 what daemons, mount and launcher had to say
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from gkfs import gang
from gkfs.commands import records
from gkfs.commands.launchers import Launcher, Places
from gkfs.errors import ExitStatus, GkfsError
from gkfs.keyfile import Key

JOB_VARIABLE: Final = "GKFS_JOB"
HOSTS_NAME: Final = "hosts"
DATA_NAME: Final = "data"
MOUNT_NAME: Final = "mnt"
LOCK_NAME: Final = "lock"  # held by the node's process while it lives
_FILE_NAME: Final = "job.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Job(NamedTuple):
    """A file system of a job. Of its *hosts* those *serving* have daemons, those *mounting* a mount."""

    name: str
    fsid: str
    launcher: str
    hosts: tuple[str, ...]
    serving: tuple[str, ...]
    mounting: tuple[str, ...]
    mountdir: str
    gang: dict[str, str]  # how to reach the leader: the environment of its members

    @property
    def places(self) -> Places:
        """All nodes."""
        return Places(Launcher(self.launcher), self.hosts)

    @property
    def key(self) -> Key:
        """The key of the file system. It travels nowhere: all its nodes make it from the gang's."""
        return gang.derived_key(self.gang, f"file system {self.fsid}")

    @property
    def hostfile(self) -> Path:
        return state_folder(self.name) / HOSTS_NAME

    def environment(self) -> dict[str, str]:
        """What the steps of the job need to know."""
        return {
            "GKFS_MOUNTDIR": self.mountdir,
            "GKFS_HOSTFILE": str(self.hostfile),
            JOB_VARIABLE: self.name,
        }


def name_of(environ: Mapping[str, str] = os.environ) -> str:
    """What the file system of this job is called. Raises GkfsError (USAGE)."""
    name = environ.get(JOB_VARIABLE) or environ.get("SLURM_JOB_ID") or "job"
    if not _NAME.fullmatch(name):
        raise GkfsError(f"{JOB_VARIABLE}: {name!r} is no name: letters, digits, '.', '_', '-'", ExitStatus.USAGE)
    return name


def state_folder(name: str) -> Path:
    """The folder of job *name* on each of its nodes."""
    return records.tmp_folder() / name


def make_state_folder(name: str) -> Path:
    """Make it. Raises GkfsError (FAILURE) when it is there already, or would not be this user's alone."""
    folder = state_folder(name)
    records.make_private(records.tmp_folder())
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise GkfsError(
            f"{folder} is there already: a file system of job {name} runs, or was killed; `gkfs stop` ends it"
        ) from None
    except OSError as error:
        raise GkfsError(f"{folder}: {error.strerror}") from None
    return folder


def data_name(name: str) -> str:
    """The folder of job *name* on the node's local disk."""
    return f"gkfs-{os.geteuid()}-{name}"


def write(job: Job) -> None:
    """Make the job's file in its state folder. Raises GkfsError."""
    path = state_folder(job.name) / _FILE_NAME
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            json.dump(job._asdict(), file)
    except OSError as error:
        raise GkfsError(f"{path}: {error.strerror}") from None


def decode(fields: dict[str, Any]) -> Job:
    """A `Job` from what came as JSON or msgpack. Raises TypeError."""
    job = Job(**fields)
    return job._replace(hosts=tuple(job.hosts), serving=tuple(job.serving), mounting=tuple(job.mounting))


def find(name: str) -> Job | None:
    """The job *name*, if it has a file system with this node in it. Raises GkfsError when its file is damaged."""
    path = state_folder(name) / _FILE_NAME
    try:
        if path.lstat().st_uid != os.geteuid():
            return None
        return decode(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise GkfsError(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise GkfsError(f"{path}: {error.strerror}") from None


def name_for(hostfile: Path | None) -> str | None:
    """The name of the job whose hostfile this is, None when it is no job's; without one, that of this job."""
    if hostfile is None:
        return name_of()
    if hostfile.name != HOSTS_NAME or hostfile.parent.parent != records.tmp_folder():
        return None
    return hostfile.parent.name


def find_for(hostfile: Path | None) -> Job | None:
    """The job that `name_for` names, if it has a file system. Raises GkfsError when its file is damaged."""
    name = name_for(hostfile)
    return None if name is None else find(name)
