"""Stage-in and stage-out against cp, rsync and tar, on this machine: prints a table of seconds.

    python benchmarks/staging.py FOLDER [--files 20000] [--size 4294967296] [--rounds 3] [--daemons 2] [--movers N]

FOLDER is an empty place on a local disk with room for some ten times the data. Each round runs all ways one after
another on fresh destinations; the table shows the medians, and how much faster than `cp -a` through a mount of the
same file system each one is. Writes of earlier steps are flushed (sync) before each measurement; what was just
written is in the page cache, for all ways alike.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

GKFS = (sys.executable, "-m", "gkfs")
MIXED_BYTES = (0, 200, 1000, 4096, 10_000, 30_000, 100_000, 400_000)
MIXED_WEIGHTS = (2, 10, 20, 30, 20, 10, 6, 2)


def make_tree(top: Path, files: int, size_of: Callable[[], int]) -> int:
    """*files* in folders of 100; returns the bytes."""
    total = 0
    for number in range(files):
        folder = top / f"{number // 1000:03d}" / f"{number // 100 % 10}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        size = size_of()
        (folder / f"file-{number:06d}").write_bytes(os.urandom(size))
        total += size
    return total


def make_data(folder: Path, files: int, size: int) -> dict[str, tuple[Path, str]]:
    """What is moved: name -> (folder, description)."""
    random.seed(1)
    trees = {}
    small = folder / "small"
    total = make_tree(small, files, lambda: 4096)
    trees["small"] = (small, f"{files} files of 4 KiB")
    mixed = folder / "mixed"
    total = make_tree(mixed, files, lambda: random.choices(MIXED_BYTES, MIXED_WEIGHTS)[0])
    trees["mixed"] = (mixed, f"{files} files of 0 to 400 kB, {total >> 20} MiB")
    large = folder / "large"
    large.mkdir()
    block = os.urandom(1 << 20)
    with (large / "file").open("wb") as file:
        for number in range(size >> 20):
            file.write(number.to_bytes(8, "little") + block[8:])
    trees["large"] = (large, f"one file of {size >> 20} MiB")
    return trees


class Site:
    """A file system of its own, with a mount."""

    def __init__(self, folder: Path, daemons: int) -> None:
        self.folder = folder
        self.hosts = folder / "hosts"
        self.mnt = folder / "mnt"
        self.mnt.mkdir(parents=True)
        (folder / "root").mkdir()
        self.gkfs("start", "-r", folder / "root", "-H", self.hosts, "-n", daemons)
        self.gkfs("mount", "-H", self.hosts, self.mnt)

    def gkfs(self, *arguments: object) -> None:
        run([*GKFS, *map(str, arguments)])

    def end(self) -> None:
        self.gkfs("umount", self.mnt)
        self.gkfs("fsck", "-H", self.hosts)
        self.gkfs("stop", "-H", self.hosts, "--purge")
        shutil.rmtree(self.folder)


def run(command: list[str] | str) -> float:
    """Seconds that *command* took, which must succeed."""
    begun_s = time.perf_counter()
    done = subprocess.run(command, shell=isinstance(command, str), capture_output=True, text=True, check=False)
    duration_s = time.perf_counter() - begun_s
    if done.returncode:
        raise SystemExit(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return duration_s


def measured(command: list[str] | str) -> float:
    os.sync()
    return run(command)


def round_of(folder: Path, name: str, source: Path, daemons: int, movers: list[str]) -> dict[str, float]:
    """All ways, in and out."""
    site = Site(folder / "site", daemons)
    try:
        return measure_all(folder, name, source, site, movers)
    finally:
        site.end()


def measure_all(folder: Path, name: str, source: Path, site: Site, movers: list[str]) -> dict[str, float]:
    """All ways, on one file system."""
    mnt, out, disk = site.mnt, folder / "out", folder / "disk"
    out.mkdir()
    disk.mkdir()
    options = ["-H", str(site.hosts), *movers]
    found = {
        "in: cp -a, local disk": measured(["cp", "-a", str(source), str(disk)]),
        "in: cp -a, mount": measured(["cp", "-a", str(source), str(mnt / "cp")]),
        "in: rsync -a, mount": measured(["rsync", "-a", f"{source}/", str(mnt / "rsync")]),
        "in: tar | tar, mount": measured(
            f"mkdir {mnt}/tar && tar -C {source} -cf - . | tar -C {mnt}/tar -xf - --no-same-owner"
        ),
        "in: gkfs stage-in": measured([*GKFS, "stage-in", *options, f"{source}/", "stage"]),
        "out: cp -a, mount": measured(["cp", "-a", str(mnt / "cp"), str(out / "cp")]),
        "out: rsync -a, mount": measured(["rsync", "-a", f"{mnt}/stage/", str(out / "rsync")]),
        "out: tar | tar, mount": measured(
            f"mkdir {out}/tar && tar -C {mnt}/tar -cf - . | tar -C {out}/tar -xf - --no-same-owner"
        ),
        "out: gkfs stage-out": measured([*GKFS, "stage-out", *options, "stage/", str(out / "stage")]),
    }
    run(["diff", "-r", str(source), str(out / "stage")])
    shutil.rmtree(out)
    shutil.rmtree(disk)
    print(f"  {name}: " + ", ".join(f"{way} {seconds:.2f}" for way, seconds in found.items()), file=sys.stderr)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=4 << 30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--daemons", type=int, default=2)
    parser.add_argument("--movers", type=int)
    parser.add_argument("--only", help="small, mixed or large")
    asked = parser.parse_args()
    data = asked.folder / "data"
    data.mkdir(parents=True)
    movers = ["--movers", str(asked.movers)] if asked.movers else []
    try:
        trees = make_data(data, asked.files, asked.size)
        for name, (source, what) in trees.items():
            if asked.only and name != asked.only:
                continue
            rounds = [round_of(asked.folder, name, source, asked.daemons, movers) for _ in range(asked.rounds)]
            print(f"\n{what}, {asked.daemons} daemons, median of {asked.rounds}:")
            medians = {way: statistics.median(found[way] for found in rounds) for way in rounds[0]}
            for way, seconds in medians.items():
                against = medians[f"{way.partition(':')[0]}: cp -a, mount"]
                print(f"  {way:<24} {seconds:7.2f} s   cp -a on the mount: x {against / seconds:.1f}")
    finally:
        shutil.rmtree(data)


if __name__ == "__main__":
    main()
