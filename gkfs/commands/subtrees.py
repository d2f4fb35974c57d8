"""Which subtree of which file system an argument means.

A path in a mount of this node is that place in the mounted file system, whose hostfile is known from the mount.
Any other path is one within the file system of the hostfile, or of this job, and begins at its root.
"""

import os
from collections.abc import Iterator, Sequence
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
    mount = mount_above(Path(os.path.abspath(given)))
    record = records.find(mount) if mount is not None else None
    if record is not None and (hostfile is None or _same(hostfile, Path(record.hostfile))):
        return Subtree(hostfile or Path(record.hostfile), _checked(inside(given, mount)), given)
    if hostfile is None and mount is not None:
        raise GkfsError(f"whose mount {mount} is was not noted here: name the hostfile", ExitStatus.USAGE)
    job = jobs.find_for(hostfile)
    if hostfile is None and job is None:
        raise GkfsError(f"{given} is in no mount of this node: name the hostfile", ExitStatus.USAGE)
    found = hostfile or (job and job.hostfile)
    assert found
    return Subtree(found, _checked(inside(given, Path(job.mountdir) if job else None)), given)


def locate_all(given: Sequence[str], hostfile: Path | None) -> list[Subtree]:
    """As `locate`, all of one file system; nothing given means all of it. Raises GkfsError (USAGE)."""
    found = [locate(text, hostfile) for text in given or (["/"] if hostfile else ["."])]
    if len({subtree.hostfile for subtree in found}) > 1:
        raise GkfsError(f"{found[0].given} and {found[-1].given} are not in one file system", ExitStatus.USAGE)
    return found


def is_in(place: Path, hostfile: Path) -> bool:
    """Whether *place* is in a mount of the file system of *hostfile*."""
    mount = mount_above(place)
    record = records.find(mount) if mount is not None else None
    return record is not None and _same(hostfile, Path(record.hostfile))


def mount_above(path: Path) -> Path | None:
    """The gkfs mount that the absolute *path* is on, by itself or by a symbolic link."""
    for known in _names(path):
        above = [mount for mount in mounts.table() if mount.path == known or mount.path in known.parents]
        last = max(above, key=lambda mount: len(mount.path.parts), default=None)
        if last is not None and last.fs_type == mounts.FS_TYPE:
            return last.path
    return None


def inside(argument: str, *tops: Path | None) -> bytes:
    """A path of the namespace: the place below the first of the mounts *tops* that *argument* is in.

    If it is in none, as it is; relative ones begin at the root then.
    """
    for top in [top for top in tops if top is not None]:
        for known in _names(Path(os.path.abspath(argument))):
            if known == top or top in known.parents:
                return os.fsencode("/" + "/".join(known.parts[len(top.parts) :]))
    return os.fsencode(os.path.normpath("/" + argument.lstrip("/")))


def _names(path: Path) -> Iterator[Path]:
    """*path*, then without symbolic links: a mount that hangs is only touched when it is not named itself."""
    yield path
    yield Path(os.path.realpath(path.parent)) / path.name


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
        return hostfiles.read_addresses(one).fsid == hostfiles.read_addresses(other).fsid
    except GkfsError:
        return False
