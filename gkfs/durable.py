"""Small documents that are on the disk, whole, when they are said to be."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_json(
    path: Path,
    temporary: Path,
    document: Any,
    *,
    mode: str = "w",
    opener: Callable[[str, int], int] | None = None,
) -> None:
    """Have *document* at *path*, in place of what is there, by way of *temporary* in the same folder.

    File and folder are synced. *mode* and *opener* are those of `open` for *temporary*. Raises OSError.
    """
    with open(temporary, mode, encoding="ascii", opener=opener) as file:
        json.dump(document, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
