"""Finding what a path of the namespace means, symbolic links followed, for who has no kernel to do it."""

import errno
import stat

from gkfs import paths
from gkfs.client.bulk import Bulk
from gkfs.errors import os_error
from gkfs.metadentry import Metadentry

_LINKS_FOLLOWED = 40  # as the kernel


async def resolve(bulk: Bulk, path: bytes) -> tuple[bytes, Metadentry | None]:
    """The path without symlinks in it, and what is there; None if nothing is. Raises OSError: ELOOP, ENOTDIR.

    A symlink that leads out of the namespace cannot be followed: EXDEV.
    """
    rest = [name for name in reversed(path.split(b"/")) if name]
    found, entry = paths.ROOT, await bulk.lookup(paths.ROOT)
    followed = 0
    while rest:
        if not entry.is_directory:
            raise os_error(errno.ENOTDIR, paths.printable(found))
        inner = paths.join(found, rest.pop())
        try:
            child = await bulk.lookup(inner)
        except FileNotFoundError:
            return b"/".join([inner, *reversed(rest)]), None
        if not stat.S_ISLNK(child.mode):
            found, entry = inner, child
            continue
        followed += 1
        if followed > _LINKS_FOLLOWED:
            raise os_error(errno.ELOOP, paths.printable(path))
        if child.target.startswith(b"/"):
            raise os_error(errno.EXDEV, f"{paths.printable(inner)} leads to {paths.printable(child.target)}")
        for name in reversed(child.target.split(b"/")):
            if name == b"..":
                raise os_error(errno.EXDEV, f"{paths.printable(inner)} leads to {paths.printable(child.target)}")
            if name not in (b"", b"."):
                rest.append(name)
    return found, entry
