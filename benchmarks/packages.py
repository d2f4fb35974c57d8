"""Debian packages that systems need, and sources of Debian's that are in none."""

import contextlib
import fnmatch
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import Failed, run

LIBRARY = Path(__file__).resolve().parents[1] / "deploy" / "lib.sh"
INSTALL_TIMEOUT_S = 600.0


def missing(packages: Sequence[str]) -> list[str]:
    """Which of them are not installed."""
    if not packages:
        return []
    return _library('missing_packages "$@"', packages, 60.0).split()


def install(packages: Sequence[str]) -> None:
    """Install them by apt-get, their services neither started nor enabled. Raises Failed."""
    _library('need_packages "$@"', packages, INSTALL_TIMEOUT_S)


def fetch_source(package: str, pattern: str, target: Path, stack: contextlib.ExitStack) -> None:
    """Write the file *pattern* of the source package *package* to *target*. Nothing of the system is changed.

    Raises Failed when Debian's servers cannot be reached or have no such file.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gkfs-source-", dir=target.parent)))
    _library('fetch_source "$@"', [package, str(folder)], INSTALL_TIMEOUT_S)
    for path in folder.glob("*.orig.tar.?z*"):
        if path.suffix == ".asc":
            continue
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if fnmatch.fnmatch(member.name, pattern) else None
                if file is not None:
                    target.write_bytes(file.read())
                    return
    raise Failed(f"no {pattern} in the source of {package}")


def _library(script: str, arguments: Sequence[str], timeout_s: float) -> str:
    return run(["bash", "-c", f'set -euo pipefail; . "{LIBRARY}"; {script}', "benchmarks", *arguments], timeout_s)
