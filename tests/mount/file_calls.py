"""Random calls on one file, the same for the same seed.

A difference from what the file should be is repeated with fewer and fewer calls, and ends in a short script, which
runs with `from tests.mount.random_io import File` and two mounts (or twice the same directory):

    file = File(here, there)
"""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.mount.calls import MIB
from tests.mount.random_io import (
    BUFFERED,
    DIRECT,
    FILE_MAX_BYTES,
    MAPPERS,
    PAGE_BYTES,
    READERS,
    SECOND,
    WRITE_ONLY,
    File,
    Wrong,
)

_CHECK_EVERY: Final = 1000
_SHORTEN_LIMIT_S: Final = 30
_SHOWN_CALLS: Final = 30


class Call(NamedTuple):
    """A method of File with its arguments."""

    name: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return f"file.{self.name}({', '.join(map(repr, self.arguments))})"


class Calls:
    """Endless calls that fit the file as it is."""

    def __init__(self, source: random.Random, file: File, *, direct: bool, moves: bool) -> None:
        self._source = source
        self._file = file
        self._excluded = () if direct else (DIRECT,)
        kinds: list[tuple[int, Callable[[], Call]]] = [
            (260, self._pwrite),
            (260, self._pread),
            (90, lambda: Call("append", self._some_data(self._length()))),
            (30, lambda: Call("load", (self._one_of(MAPPERS), *self._range()))),
            (20, lambda: Call("store", (self._one_of(MAPPERS), *self._piece(), self._rarely()))),
            (8, lambda: Call("map", (self._below(2), self._one_of(MAPPERS), *self._wide_range()))),
            (3, lambda: Call("unmap", (self._below(2),))),
            (40, lambda: Call("view_load", (self._below(2), *self._range()))),
            (40, lambda: Call("view_store", (self._below(2), *self._piece(), self._rarely()))),
            (25, lambda: Call("ftruncate", (self._one_of(range(5)), self._new_size()))),
            (10, lambda: Call("truncate", (self._new_size(),))),
            (6, lambda: Call("punch", (self._one_of(range(5)), self._near(self._size())))),
            (40, lambda: Call("reopen", (self._one_of(range(5)),))),
            (1, lambda: Call("reopen", (self._one_of(range(5)), True))),
            (8, lambda: Call("fsync", (self._one_of(range(5)),))),
            (2 if moves else 0, lambda: Call("move", ())),
        ]
        self._weights = [weight for weight, _ in kinds]
        self._kinds = [make for _, make in kinds]

    def next(self) -> Call:
        """One more."""
        return self._source.choices(self._kinds, self._weights)[0]()

    def _size(self) -> int:
        return len(self._file.content)

    def _below(self, end: int) -> int:
        return self._source.randrange(end)

    def _rarely(self) -> bool:
        return self._source.random() < 0.15

    def _one_of(self, handles: "range | tuple[int, ...]") -> int:
        return self._source.choice([handle for handle in handles if handle not in self._excluded])

    def _length(self) -> int:
        kind = self._source.random()
        if kind < 0.6:
            return self._source.randint(1, 100)
        if kind < 0.8:
            return max(1, PAGE_BYTES * self._source.randint(1, 4) + self._source.randint(-3, 3))
        if kind < 0.995:
            return self._source.randint(1, 40_000)
        return self._source.choice([MIB, 2 * MIB - 20]) + self._source.randint(-20, 20)

    def _offset(self, end: int) -> int:
        kind = self._source.random()
        if kind < 0.4:
            return self._source.randint(0, end)
        if kind < 0.6:
            return max(0, end - self._source.randint(0, 20_000))
        border = PAGE_BYTES if kind < 0.8 else MIB
        return max(0, border * self._source.randint(0, end // border) - self._source.randint(-3, 300))

    def _near(self, end: int) -> int:
        return min(self._offset(end), end)

    def _range(self) -> tuple[int, int]:
        """Something to read: maybe beyond the end."""
        return self._offset(self._size()), self._length()

    def _wide_range(self) -> tuple[int, int]:
        return self._offset(self._size()), self._source.randint(1, MIB)

    def _some_data(self, length: int) -> tuple[int, int]:
        return self._below(MIB), length

    def _piece(self) -> tuple[int, int, int]:
        """Something to write, and where: offset, start and length of the data; the file may become longer."""
        length = self._length()
        end = self._size() + (self._below(100_000) if self._source.random() < 0.05 else 0)
        return min(self._offset(end), FILE_MAX_BYTES - length), *self._some_data(length)

    def _pwrite(self) -> Call:
        return Call("pwrite", (self._one_of((BUFFERED, SECOND, WRITE_ONLY, DIRECT)), *self._piece()))

    def _pread(self) -> Call:
        return Call("pread", (self._one_of(READERS), *self._range()))

    def _new_size(self) -> int:
        if self._source.random() < 0.1:
            return self._offset(FILE_MAX_BYTES)
        return min(FILE_MAX_BYTES, max(0, self._size() + self._source.randint(-100_000, 110_000)))


def do(file: File, call: Call) -> None:
    """Make the call, and look at the size after it."""
    getattr(file, call.name)(*call.arguments)
    file.size(file.some_handle())


def exercise(
    here: Path,
    there: Path,
    seed: int,
    operations: int,
    *,
    direct: bool = True,
    moves: bool = False,
    begun: Callable[[int], None] = lambda number: None,
) -> None:
    """Make that many calls at random, on a new file, compared with what they should lead to.

    *direct*: with O_DIRECT. *moves*: sometimes to the other node. *begun* is told the number of each call.
    """
    file = File(here, there)
    calls = Calls(random.Random(seed), file, direct=direct, moves=moves)
    made: list[Call] = []
    filled, number = 0, 0
    try:
        for number in range(operations):
            begun(number)
            if number % _CHECK_EVERY == _CHECK_EVERY - 1:
                made.append(Call("check", (number % (2 * _CHECK_EVERY) == _CHECK_EVERY - 1,)))
            else:
                made.append(calls.next())
            do(file, made[-1])
            if made[-1].name == "check" and made[-1].arguments[0]:
                made.clear()  # all closed: a fault from now on needs nothing from before
                filled = len(file.content)
        for close in (False, True):
            made.append(Call("check", (close,)))
            do(file, made[-1])
        file.remove()
    except (Wrong, OSError, ValueError) as error:  # ValueError: a mapping beyond what fstat says
        with suppress(OSError):
            file.close()
        found = Found(seed, number, filled, made, error)
        raise shortened(found, here, there) from error


# --- from a difference to a short script -------------------------------------------------------------------


class Found(NamedTuple):
    """A difference, and the calls that led to it on a file of *filled* bytes."""

    seed: int
    number: int
    filled: int
    calls: list[Call]
    error: Exception


def shortened(found: Found, here: Path, there: Path) -> Wrong:
    """What to report: with as few calls as still lead to a difference, if repeating them leads to one at all."""
    deadline_s = time.monotonic() + _SHORTEN_LIMIT_S
    facts = f"seed {found.seed}, operation {found.number}: {found.error!r}"
    again = _repeat(found.filled, found.calls, here, there)
    if again is None:
        shown = "\n".join(map(str, found.calls[-_SHOWN_CALLS:]))
        return Wrong(
            f"{facts}\n\nnot again when the {len(found.calls)} calls since the last check were repeated on a file "
            f"of {found.filled} bytes; the last of them:\n\n{shown}"
        )
    filled, calls, error = found.filled, found.calls, again
    step = len(calls)
    while step and time.monotonic() < deadline_s:
        start = 0
        while start < len(calls) and time.monotonic() < deadline_s:
            fewer = calls[:start] + calls[start + step :]
            if (again := _repeat(filled, fewer, here, there)) is not None:
                calls, error = fewer, again
            else:
                start += step
        step //= 2
    if filled and (again := _repeat(0, calls, here, there)) is not None:
        filled, error = 0, again
    script = "\n".join([f"file = File(here, there, filled={filled})", *map(str, calls)])
    return Wrong(f"{facts}\n\nwith fewer calls: {error!r}\n\n{script}")


def _repeat(filled: int, calls: list[Call], here: Path, there: Path) -> Exception | None:
    """The error that the calls lead to on a new file, if they do."""
    file = File(here, there, "again", filled)
    try:
        for call in [*calls, Call("check", (True,))]:
            do(file, call)
    except (Wrong, OSError, ValueError) as error:
        return error
    finally:
        with suppress(OSError):
            file.remove()
    return None
