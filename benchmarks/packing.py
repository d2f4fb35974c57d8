"""How fast `gkfs pack`, `unpack` and `du` are, beside tar and du on the mount. Prints a table.

    python -m benchmarks.packing [--files 20000] [--large-mib 2048] [--daemons 2] [--folder DIR]

The tree is of many small files (0 to 8 KiB, 20 folders), or one large file of random bytes. DIR holds daemons'
data and packs alike, so that all of it is one disk; caches are as the runs before leave them.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import program


class Site:
    """A file system in *folder*, of *count* daemons, mounted."""

    def __init__(self, folder: Path, count: int) -> None:
        self.hosts, self.mnt = folder / "hosts", folder / "mnt"
        self._data = folder / "data"
        for path in (self.mnt, self._data):
            path.mkdir(parents=True)
        gkfs("start", "-r", self._data, "-H", self.hosts, "-n", count)
        gkfs("mount", "-H", self.hosts, self.mnt)

    def end(self) -> None:
        """Nothing is left."""
        gkfs("umount", self.mnt)
        gkfs("stop", "-H", self.hosts, "--purge")


def gkfs(*arguments: object) -> None:
    """Run it to its end, quietly."""
    run([sys.executable, "-m", "gkfs", *map(str, arguments)])


def run(command: Sequence[object]) -> None:
    """Run a command that must succeed."""
    environment = os.environ | program.ENVIRONMENT
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, env=environment)


def timed(rows: list[tuple[str, float]], what: str, command: Sequence[object]) -> None:
    """Run *command* and note the seconds it took."""
    begun_s = time.monotonic()
    run(command)
    rows.append((what, time.monotonic() - begun_s))
    print(f"  {what}: {rows[-1][1]:.2f} s", flush=True)


def make_small(folder: Path, files: int) -> None:
    """*files* of 0 to 8 KiB."""
    source = random.Random(1)
    for number in range(files):
        path = folder / f"d{number % 20:02d}" / f"f{number:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(source.randrange(8192)))


def make_large(folder: Path, size_mib: int) -> None:
    """One file."""
    folder.mkdir(parents=True)
    with (folder / "large").open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(1 << 20))


def measure(source: Path, folder: Path, daemons: int) -> list[tuple[str, float]]:
    """All figures for the tree *source*."""
    python = [sys.executable, "-m", "gkfs"]
    rows: list[tuple[str, float]] = []
    one = Site(folder / "one", daemons)
    run(["cp", "-a", f"{source}/.", one.mnt])
    timed(rows, "tar cf from the mount", ["tar", "-C", one.mnt, "-cf", folder / "tar", "."])
    timed(rows, "gkfs pack", [*python, "pack", "-H", one.hosts, folder / "pack"])
    timed(rows, "du -s on the mount", ["du", "-s", one.mnt])
    timed(rows, "gkfs du", [*python, "du", "-H", one.hosts, "/", "--json"])
    one.end()
    timed(rows, "gkfs unpack --verify", [*python, "unpack", "--verify", folder / "pack"])
    other = Site(folder / "other", daemons + 1)
    timed(rows, "tar xf to the mount", ["tar", "-C", other.mnt, "-xf", folder / "tar"])
    timed(rows, "gkfs unpack", [*python, "unpack", "-H", other.hosts, folder / "pack", "/again"])
    run(["diff", "-r", source, other.mnt / "again"])
    other.end()
    return rows


def main() -> None:
    """Measure both trees and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--large-mib", type=int, default=2048)
    parser.add_argument("--daemons", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=("small", "large"))
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else ("small", "large"):
        folder = Path(tempfile.mkdtemp(prefix="gkfs-packing-", dir=arguments.folder))
        try:
            source = folder / "source"
            if name == "small":
                make_small(source, arguments.files)
                title = f"{arguments.files} files of 0 to 8 KiB"
            else:
                make_large(source, arguments.large_mib)
                title = f"one file of {arguments.large_mib} MiB"
            print(f"{title}, {arguments.daemons} daemons, unpacked onto {arguments.daemons + 1}")
            rows = measure(source, folder, arguments.daemons)
            print("\n| | s |\n|---|---|")
            for what, seconds in rows:
                print(f"| {what} | {seconds:.2f} |")
        finally:
            for hosts in folder.glob("*/hosts"):  # of what failed half-way
                gkfs("umount", "--force", hosts.parent / "mnt")
                gkfs("stop", "-H", hosts, "--purge")
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
