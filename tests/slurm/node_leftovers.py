"""Print what of gkfs is on this node, one line each. The nodes get it as text, so it imports nothing of ours."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

# Folders of the node's own, and whether all that users have there counts or only what has gkfs in its name.
PLACES = {"/mnt/local": True, "/dev/shm": False, "/tmp": False, "/var/tmp": False, "/run": False}


def processes() -> Iterator[str]:
    """Every process that was started as gkfs. Pid 1, the node itself, may have such a word among its arguments."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if folder.name != "1" and any(Path(os.fsdecode(word)).name.startswith("gkfs") for word in words[:4]):
            yield f"process {folder.name}: {b' '.join(words).decode(errors='replace')}"


def mounts() -> Iterator[str]:
    """Every mount of gkfs, alive or dead."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "fuse.gkfs":
            yield f"mount {fields.split()[4]}"


def sockets() -> Iterator[str]:
    """Every bound Unix socket, named in a folder or not."""
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        name = line.split(maxsplit=7)[7:]
        if name and "gkfs" in name[0]:
            yield f"socket {name[0]}"


def files() -> Iterator[str]:
    """Files and folders, topmost first; what is below a mount is not looked at."""
    for place, everything in PLACES.items():
        device = os.lstat(place).st_dev
        for folder, names, plain in os.walk(place):
            for name in sorted(names + plain):
                path = os.path.join(folder, name)
                try:
                    entry = os.lstat(path)
                except OSError as error:  # a dead mount, for instance
                    yield f"file {path}: {error.strerror}"
                    continue
                if entry.st_dev == device and (everything or "gkfs" in path):
                    yield f"{'socket' if stat.S_ISSOCK(entry.st_mode) else 'file'} {path}"
            names[:] = [name for name in names if _device(os.path.join(folder, name)) == device]


def _device(path: str) -> int:
    try:
        return os.lstat(path).st_dev
    except OSError:
        return -1


if __name__ == "__main__":
    for found in (processes, mounts, sockets, files):
        for line in found():
            print(line)
