"""A tree with everything that a pack must keep, and comparing two trees in every respect."""

import hashlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

MIB = 1 << 20


def make_tree(top: Path) -> None:
    """Files of all kinds below *top*."""
    (top / "d" / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    for number in range(60):
        (top / "d" / f"f{number}").write_bytes(os.urandom(number * 97))
    odd = [
        b"new\nline",
        b"\xff\xfe",
        b" ",
        b"-x",
        b"=%",
        b"\xe9" * 150,
        "\N{LATIN SMALL LETTER E WITH ACUTE}".encode() * 100,
    ]
    for odd_name in odd:
        with open(os.path.join(os.fsencode(top / "d" / "deep"), odd_name), "wb") as file:
            file.write(odd_name)
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(3 * MIB + 5)
        file.write(b"middle")
        file.truncate(9 * MIB + 1)
    (top / "large").write_bytes(os.urandom(5 * MIB + 77))
    (top / "d" / "chunks").write_bytes(os.urandom(2 * MIB))
    os.symlink(b"nowhere/\xff", os.fsencode(top / "symlink"))
    os.mkfifo(top / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(top / "socket"))
    (top / "first").write_bytes(b"of several names")
    os.link(top / "first", top / "d" / "second")
    os.link(top / "first", top / "d" / "deep" / "third")
    os.chmod(top / "d" / "f1", 0o4711)
    if os.geteuid() == 0:
        os.chown(top / "d" / "f2", 1234, 5678)
    os.setxattr(top / "d" / "f3", "user.note", b"with\0bytes\n")
    os.setxattr(top / "d", "user.of-directory", b"x" * 3000)
    os.utime(top / "d" / "f4", ns=(10**18 + 1, 10**18 + 999_999_999))
    os.utime(top / "d" / "deep" / "er", ns=(1, 123_456_789))
    os.utime(top / "empty", ns=(5, -1_500_000_000))


def state(top: Path, *, but: frozenset[str] = frozenset()) -> dict[str, Any]:
    """All of what is below *top*, and of itself, by path; times in ns."""
    found: dict[str, Any] = {}
    names: dict[int, list[str]] = {}
    for folder, folders, files in os.walk(top):
        for path in [Path(folder), *(Path(folder) / name for name in (*folders, *files))]:
            status = path.lstat()
            relative = str(path.relative_to(top))
            if not stat.S_ISDIR(status.st_mode):
                names.setdefault(status.st_ino, []).append(relative)
            found[relative] = {
                "mode": stat.filemode(status.st_mode),
                "owner": (status.st_uid, status.st_gid),
                "size": status.st_size if not path.is_dir() else 0,
                "mtime": status.st_mtime_ns,
                "links": status.st_nlink,
                "content": hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
                "target": os.readlink(path) if path.is_symlink() else "",
                "xattrs": {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)},
            }
    for same in names.values():
        for relative in same:
            found[relative]["names"] = sorted(set(same) - but)
    return {path: facts for path, facts in found.items() if path not in but}


def _xattrs(path: Path) -> list[str]:
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))
