"""A directory tree with about everything a file system can hold, to be copied, packed and compared."""

import os
import random
import shutil
import sysconfig
from pathlib import Path
from typing import Final

_HOUR_NS: Final = 3600 * 10**9
LONGEST_NAME: Final = "n" * 255
ODD_NAMES: Final = (
    b"line\nbreak",
    b"not utf-8 \xff\xfe",
    b"a:b",
    b"back\\slash",
    b" spaces ",
    b"-rf",
    b"*",
    b"'\"$(x)",
    b"tab\there",
    "Grüße-日本語".encode(),
    b"...",
    b"\x01\x7f",
)


def make(root: Path) -> None:
    """Fill the new directory *root*; the same every time, but for the text of the Python library."""
    root.mkdir()
    _sources(root / "sources")
    _contents(root / "contents")
    _kinds(root / "kinds")
    _names(root / "names")
    _times(root)


def _sources(folder: Path) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    for package in ("json", "email", "logging"):
        shutil.copytree(library / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def _contents(folder: Path) -> None:
    folder.mkdir()
    source = random.Random(1)
    for size in (0, 1, 511, 512, 4095, 4096, 4097, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_500_000):
        (folder / f"{size}-bytes").write_bytes(source.randbytes(size))
    with open(folder / "hole", "wb") as file:
        file.write(b"start")
        file.seek(2_500_000)
        file.write(b"after the hole")
        file.truncate(5_000_000)


def _kinds(folder: Path) -> None:
    folder.mkdir()
    for mode in (0o000, 0o400, 0o644, 0o755, 0o1644, 0o4755, 0o2755, 0o6711, 0o7777):
        for make_entry, kind in ((os.mkdir, "directory"), (_empty_file, "file")):
            path = folder / f"{kind}-{mode:o}"
            make_entry(path)
            os.chown(path, mode % 1000 + 1, mode % 777 + 1)
            os.chmod(path, mode)
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "null", 0o020666, os.makedev(1, 3))
    (folder / "relative").symlink_to("../sources/json")
    (folder / "absolute").symlink_to("/nowhere/at all")
    (folder / "long").symlink_to("t" * 1000)
    os.chown(folder / "long", 12, 34, follow_symlinks=False)


def _empty_file(path: Path) -> None:
    path.touch()


def _names(folder: Path) -> None:
    folder.mkdir()
    for name in ODD_NAMES:
        (folder / os.fsdecode(name)).write_bytes(name)
    (folder / LONGEST_NAME).write_bytes(b"long")
    deep = folder
    for depth in range(20):
        deep = deep / f"level-{depth}"
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("deep")


def _times(root: Path) -> None:
    """Give every entry a time of its own, with ns, from 1970 to 2100; from the inside out."""
    for number, (folder, folders, files) in enumerate(os.walk(os.fsencode(root), topdown=False)):
        for position, name in enumerate(sorted(files) + sorted(folders)):
            time_ns = ((number * 51_001 + position * 79_019) % 1_100_000) * _HOUR_NS + 123_456_789 + position
            os.utime(os.path.join(folder, name), ns=(time_ns, time_ns), follow_symlinks=False)
