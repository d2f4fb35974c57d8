"""What programs asked for and were told, and when: the material of the checks.

Times are ticks: of any two events one has the lower tick, and an operation that began after another one had ended
has seen it end.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

NEVER = math.inf


class Place(NamedTuple):
    """A directory as a program found it: its number, and the path it walked there."""

    fid: int
    path: tuple[bytes, ...]


ROOT = Place(1, ())


@dataclass(slots=True)
class NameOp:
    """One call about names. *error* is its errno, 0 when it succeeded; unknown while *ended* is NEVER."""

    kind: str
    client: str
    begun: int
    places: tuple[Place, ...]
    names: tuple[bytes, ...]
    fid: int = 0  # what it is about, if it is given by number
    flags: int = 0
    ended: float = NEVER
    error: int = 0
    found: int = 0  # the number that it said
    is_directory: bool = False

    def __str__(self) -> str:
        paths = " ".join(
            b"/".join((b"", *place.path, name)).decode() + f"(in {place.fid:x})"
            for place, name in zip(self.places, self.names, strict=True)
        )
        about = f" of {self.fid:x}" if self.fid else ""
        if self.ended == NEVER:
            outcome = "unknown"
        else:
            outcome = f"error {self.error}" if self.error else f"{self.found:x}"
        return f"[{self.begun}..{self.ended}] {self.client}: {self.kind} {paths}{about} {self.flags}: {outcome}"


@dataclass(slots=True)
class Write:
    """Bytes written, or a cut: what a file has in *blocks* is *stamp* afterwards; b"" for a cut."""

    client: str
    fid: int
    blocks: frozenset[int]
    stamp: bytes
    begun: int
    ended: float = NEVER
    shown: float = NEVER  # when whoever opens the file later must see it
    failed: bool = False  # it has not happened, or in part, or will


@dataclass(slots=True)
class Read:
    """What was read of a block: a stamp, or b"" for zeros and what is beyond the end."""

    client: str
    fid: int
    block: int
    opened: int
    begun: int
    ended: int
    stamp: bytes


@dataclass(slots=True)
class Append:
    """A record appended. *done*: the write has returned."""

    client: str
    fid: int
    record: bytes
    done: bool = False


@dataclass
class History:
    """All of a run."""

    names: list[NameOp] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)
    ticks: int = 0

    def tick(self) -> int:
        """The time of a next event."""
        self.ticks += 1
        return self.ticks
