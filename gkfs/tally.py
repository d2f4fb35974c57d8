"""What a subtree holds: counts, bytes, and histograms of file sizes and ages, which add up. Pure.

Tallies of parts of a tree, or of one tree on several daemons, give that of the whole by addition, in any order.
"""

import stat
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

SIZE_CLASSES: Final = 64  # 0: empty; k: 2^(k-1) up to 2^k - 1 bytes
AGE_CLASSES: Final = 40  # 0: under a second, or in the future; k: 2^(k-1) up to 2^k - 1 seconds

_BILLION: Final = 10**9


class Tally:
    """Counts of directory entries. *size_bytes* is the sum of the files' sizes, holes included."""

    __slots__ = ("ages", "directories", "files", "others", "size_bytes", "sizes", "symlinks")

    def __init__(self) -> None:
        self.files = 0  # regular ones
        self.directories = 0
        self.symlinks = 0
        self.others = 0  # devices, pipes, sockets
        self.size_bytes = 0
        self.sizes: dict[int, int] = {}  # class of size: regular files
        self.ages: dict[int, int] = {}  # class of age, since the last change of the data: regular files

    def add_entry(self, mode: int, size_bytes: int, mtime_ns: int, now_ns: int) -> None:
        """Count one."""
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFREG:
            self.files += 1
            self.size_bytes += size_bytes
            size_class = size_bytes.bit_length()
            self.sizes[size_class] = self.sizes.get(size_class, 0) + 1
            age_class = max(0, (now_ns - mtime_ns) // _BILLION).bit_length()
            self.ages[age_class] = self.ages.get(age_class, 0) + 1
        elif kind == stat.S_IFDIR:
            self.directories += 1
        elif kind == stat.S_IFLNK:
            self.symlinks += 1
        else:
            self.others += 1

    def add(self, other: "Tally") -> None:
        """Count all that *other* has counted."""
        self.files += other.files
        self.directories += other.directories
        self.symlinks += other.symlinks
        self.others += other.others
        self.size_bytes += other.size_bytes
        for own, more in ((self.sizes, other.sizes), (self.ages, other.ages)):
            for which, count in more.items():
                own[which] = own.get(which, 0) + count

    @property
    def entries(self) -> int:
        """All of them."""
        return self.files + self.directories + self.symlinks + self.others

    def pack(self) -> list[Any]:
        """As it travels; `unpack` is the inverse."""
        numbers = [self.files, self.directories, self.symlinks, self.others, self.size_bytes]
        return [*numbers, sorted(self.sizes.items()), sorted(self.ages.items())]

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Self:
        """The inverse of `pack`. Raises ValueError or TypeError when it is none."""
        tally = cls()
        tally.files, tally.directories, tally.symlinks, tally.others, tally.size_bytes, sizes, ages = packed
        tally.sizes, tally.ages = dict(sizes), dict(ages)
        return tally

    def document(self) -> dict[str, Any]:
        """For JSON: classes by their lower bounds, in bytes and seconds."""
        return {
            "files": self.files,
            "directories": self.directories,
            "symlinks": self.symlinks,
            "others": self.others,
            "bytes": self.size_bytes,
            "sizes": {str(lower_bound(which)): count for which, count in sorted(self.sizes.items())},
            "ages": {str(lower_bound(which)): count for which, count in sorted(self.ages.items())},
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and self.pack() == other.pack()

    __hash__ = None  # type: ignore[assignment]


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum."""
    result = Tally()
    for tally in tallies:
        result.add(tally)
    return result


def lower_bound(which: int) -> int:
    """The smallest number of bytes, or seconds, of a class.

    >>> [lower_bound(which) for which in (0, 1, 2, 11)]
    [0, 1, 2, 1024]
    """
    return 1 << which >> 1
