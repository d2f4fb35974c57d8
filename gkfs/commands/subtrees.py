"""Which subtree of which file system an argument means.

A path in a mount of this node is that place in the mounted file system, whose hostfile is known from the mount.
Any other path is one within the file system of the hostfile, or of this job, and begins at its root.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gkfs import paths
from gkfs.commands import hostfiles, jobs, mounts, records
from gkfs.errors import ExitStatus, GkfsError


class Subtree(NamedTuple):
    """*path* within the file system of *hostfile*; *given*: as it was named."""

    hostfile: Path
    path: bytes
    given: str


def locate(given: str, hostfile: Path | None) -> Subtree:
    """What *given* means. Raises GkfsError: USAGE when it cannot be said, HOSTFILE.

    With *hostfile* a mount of another file system is none; without, it is that of the mount, or of this job.
    """
    mount, below = _in_mount(os.path.abspath(given))
    if mount is not None:
        record = records.find(mount)
        if record is not None and (hostfile is None or _same(hostfile, Path(record.hostfile))):
            return Subtree(hostfile or Path(record.hostfile), _checked(below), given)
        if hostfile is None:
            raise GkfsError(f"whose mount {mount} is was not noted here: name the hostfile", ExitStatus.USAGE)
    if hostfile is None:
        job = jobs.find(jobs.name_of())
        if job is None:
            raise GkfsError(f"{given} is in no mount of this node: name the hostfile", ExitStatus.USAGE)
        hostfile = job.hostfile
    return Subtree(hostfile, _checked(os.fsencode(os.path.normpath("/" + given.lstrip("/")))), given)


def locate_all(given: Sequence[str], hostfile: Path | None) -> list[Subtree]:
    """As `locate`, all of one file system; nothing given means all of it. Raises GkfsError (USAGE)."""
    found = [locate(text, hostfile) for text in given or (["/"] if hostfile else ["."])]
    if len({subtree.hostfile for subtree in found}) > 1:
        raise GkfsError(f"{found[0].given} and {found[-1].given} are not in one file system", ExitStatus.USAGE)
    return found


def is_in(place: Path, hostfile: Path) -> bool:
    """Whether *place* is in a mount of the file system of *hostfile*."""
    mount, _ = _in_mount(str(place))
    record = records.find(mount) if mount is not None else None
    return record is not None and _same(hostfile, Path(record.hostfile))


def _in_mount(text: str) -> tuple[Path | None, bytes]:
    """The gkfs mount that the absolute path *text* is in, by itself or by a symbolic link, and the place in it."""
    for resolve in (str, _resolved):  # a mount that hangs is only touched when it is not named itself
        path = resolve(text)
        above = [mount for mount in mounts.table() if mount.path == Path(path) or mount.path in Path(path).parents]
        last = max(above, key=lambda mount: len(mount.path.parts), default=None)
        if last is not None and last.fs_type == mounts.FS_TYPE:
            return last.path, os.fsencode("/" + "/".join(Path(path).parts[len(last.path.parts) :]))
    return None, b""


def _resolved(text: str) -> str:
    return os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))


def _checked(path: bytes) -> bytes:
    try:
        paths.check_path(path)
    except OSError as error:
        raise GkfsError(error.strerror or str(error), ExitStatus.USAGE) from None
    return path


def _same(one: Path, other: Path) -> bool:
    if one == other:
        return True
    try:
        return hostfiles.read(one).fsid == hostfiles.read(other).fsid
    except GkfsError:
        return False
