"""Which gkfs the processes of a benchmark or a test run.

The installed one, if it was made from this checkout as it is now: its modules may be compiled (setup.py). Else the
checkout itself, whose modules never are.
"""

import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_FOLDERS: Final = ("gkfs", "gkfs/commands", "gkfs/client", "gkfs/daemon")


def _sources(root: Path) -> dict[Path, bytes]:
    found = [path for folder in _FOLDERS for path in (root / folder).glob("*.py")]
    return {path.relative_to(root): path.read_bytes() for path in found}


def _installed() -> Iterator[Path]:
    """Where gkfs is installed, and not by links to a checkout."""
    for distribution in metadata.distributions(name="gkfs"):
        if any(file.as_posix() == "gkfs/__init__.py" for file in distribution.files or ()):
            root = Path(str(distribution.locate_file("")))
            if not os.path.samefile(root, ROOT):  # where a build has left its notes
                yield root


def _find() -> Path:
    ours = _sources(ROOT)
    return next((root for root in _installed() if _sources(root) == ours), ROOT)


FOLDER: Final = _find()
IS_COMPILED: Final = any((FOLDER / "gkfs").glob("*.so"))
# By which a process finds it, in whatever working directory. Empty counts as not set.
ENVIRONMENT: Final = {"PYTHONPATH": str(ROOT) if FOLDER == ROOT else "", "PYTHONSAFEPATH": "1"}
DESCRIPTION: Final = (
    f"{'compiled' if IS_COMPILED else 'not compiled'}, from {'the checkout' if FOLDER == ROOT else FOLDER}"
)
