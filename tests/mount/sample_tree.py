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


def make(root: Path, *, links: bool = False, attributes: bool = False) -> None:
    """Fill the new directory *root*; the same every time, but for the text of the Python library.

    With *links* it has hard links, with *attributes* extended attributes, those of root's among them.
    """
    root.mkdir()
    _sources(root / "sources")
    _contents(root / "contents")
    _kinds(root / "kinds")
    _names(root / "names")
    if links:
        _links(root / "links", root)
    if attributes:
        _attributes(root / "attributes", root)
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


def _links(folder: Path, root: Path) -> None:
    """Groups of names for one file: in one directory, across directories, of everything that can have several."""
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "pair-1").write_bytes(b"pair" * 5000)
    os.link(folder / "pair-1", folder / "pair-2")
    for number in range(12):
        os.link(root / "contents" / "3500000-bytes", folder / "deep" / f"many-{number}")
    os.link(root / "contents" / "hole", folder / "hole")
    os.link(root / "contents" / "0-bytes", folder / "deep" / "deeper" / "empty")
    for mode in ("4755", "2755"):
        os.link(root / "kinds" / f"file-{mode}", folder / f"set-id-{mode}")
    os.link(root / "kinds" / "fifo", folder / "fifo")
    os.link(root / "kinds" / "null", folder / "device")
    os.link(root / "kinds" / "relative", folder / "symbolic", follow_symlinks=False)
    odd = os.fsencode(root / "names")
    for position, name in enumerate(ODD_NAMES):
        os.link(os.path.join(odd, name), os.path.join(os.fsencode(folder), b"%d " % position + name))


def _attributes(folder: Path, root: Path) -> None:
    """On every kind of entry; one block of 4 KiB must hold those of one file, else ext4 refuses them."""
    folder.mkdir()
    for name, value in (
        ("empty", b""),
        ("text", b"of a user"),
        ("binary", bytes(range(256))),
        ("long", b"v" * 3000),
    ):
        (folder / name).write_text(name)
        os.setxattr(folder / name, f"user.{name}", value)
    (folder / "many").touch()
    for number in range(40):
        os.setxattr(folder / "many", f"user.number-{number}", b"%d" % number)
    (folder / "names").touch()
    for name in ("Grüße", "with space", "dotted.name.of.some.depth", "n" * 250):
        os.setxattr(folder / "names", f"user.{name}", name.encode())
    (folder / "directory").mkdir()
    os.setxattr(folder / "directory", "user.on", b"a directory")
    for path in (root, folder / "text", folder / "directory", root / "kinds" / "file-4755"):
        os.setxattr(path, "user.both", b"user")
        os.setxattr(path, "trusted.both", b"root")
    for kind in ("fifo", "null", "absolute"):  # users' attributes are for files and directories only
        os.setxattr(root / "kinds" / kind, "trusted.kind", kind.encode(), follow_symlinks=False)


def _times(root: Path) -> None:
    """Give every entry a time of its own, with ns, from 1970 to 2100; from the inside out."""
    for number, (folder, folders, files) in enumerate(os.walk(os.fsencode(root), topdown=False)):
        for position, name in enumerate(sorted(files) + sorted(folders)):
            time_ns = ((number * 51_001 + position * 79_019) % 1_100_000) * _HOUR_NS + 123_456_789 + position
            os.utime(os.path.join(folder, name), ns=(time_ns, time_ns), follow_symlinks=False)
