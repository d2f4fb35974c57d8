"""What tests of staging have in common."""

import random
from pathlib import Path
from typing import Any, Final

from gkfs.client import bulk
from gkfs.client.bulk import Bulk
from tests.cli.workplace import Workplace

MIB: Final = 1 << 20


def stage(site: Workplace, direction: str, *arguments: str | Path) -> dict[str, Any]:
    """Do it, without any failure; what was counted."""
    counts: dict[str, Any] = site.ok(f"stage-{direction}", "-H", site.hosts, "--json", *arguments).json
    return counts


def make_tree(top: Path, files: int = 60) -> Path:
    """Some folders with small files, and one of more than a range."""
    source = random.Random(files)
    for number in range(files):
        folder = top / f"folder-{number % 7}" / f"inner-{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number}").write_bytes(source.randbytes(source.choice((0, 10, 4096, 70_000))))
    (top / "large").write_bytes(source.randbytes(MIB) * 66 + b"end")
    return top


def names_in(site: Workplace, directory: str = "/") -> list[str]:
    """All names below *directory* of the namespace."""
    top = directory.encode().rstrip(b"/")

    async def work(b: Bulk) -> list[str]:
        found = []
        for daemon in range(b.hosts.daemon_count):
            scan = b.scan(daemon, top or b"/")
            while page := await scan.page():
                found += [path[len(top) + 1 :].decode() for path, _ in page]
        return sorted(found)

    return bulk.run(site.hosts, work)
