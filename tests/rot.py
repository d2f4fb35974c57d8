"""Damage to files, as bit rot does it."""

from pathlib import Path


def flip(path: Path, offset: int, mask: int = 1) -> None:
    """The bits of *mask* change in the byte at *offset*."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ mask]))
