"""The model of names: whether what programs were told of them can have come about one call after the other.

Each call must have happened at one moment between its beginning and its end; one whose outcome is not known, at
some moment after its beginning, or never. The search tries the orders that are left, as Wing and Gong have it.
A call is about a directory that was looked up before: it may be taken for one about the directory found then, or
for one about the path that was walked.
"""

import errno
from collections.abc import Generator, Iterator
from typing import Final

from gkfs.messages import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.simulation.history import NEVER, NameOp, Place
from tests.simulation.names_state import Names

_GONE: Final = (errno.ENOENT, errno.ESTALE)
_STEPS_MAX: Final = 200_000


class _Step:
    """One call, as what it may be taken for: yields after each change that agrees with what it said."""

    def __init__(self, names: Names, op: NameOp, index: int, known: set[int]) -> None:
        self.names = names
        self.op = op
        self.index = index
        self.known = known  # numbers that answered calls have made
        self.unanswered = op.ended == NEVER

    def ways(self) -> Generator[bool]:
        """Each way it may happen now: the change is made when it yields; whether there is one."""
        names, op = self.names, self.op
        mark = names.mark()
        if op.error == errno.EBUSY and not self.unanswered:  # it has waited long for others, and has not happened
            yield False
            return
        for directories in self._directories(op.places):
            outcome = self._outcome(directories)
            if outcome is not None:
                yield names.mark() != mark
            names.back(mark)
        if op.error == errno.EINVAL and op.kind == "rename" and _is_into_itself(op):
            yield False  # whatever is there
        moved = errno.ENOENT if op.kind == "rename" else errno.ESTALE  # names both directories by path and number
        if self.op.error in (errno.ESTALE, moved) and any(
            not names.alive(names.number(place.fid)) or names.resolve(place.path) != names.number(place.fid)
            for place in op.places
        ):
            yield False

    def _directories(self, places: tuple[Place, ...]) -> Iterator[tuple[int | None, ...]]:
        choices = []
        for place in places:
            number = self.names.number(place.fid)
            found = number if self.names.alive(number) else None
            walked = self.names.resolve(place.path)
            choices.append([found] if walked == found else [found, walked])
        if len(choices) == 1:
            for one in choices[0]:
                yield (one,)
        else:
            for one in choices[0]:
                for other in choices[1]:
                    yield (one, other)

    def _outcome(self, directories: tuple[int | None, ...]) -> bool | None:
        """Make the change if the call may have had its outcome; None when it may not."""
        if None in directories:
            return self._is(*_GONE)
        return getattr(self, "_" + self.op.kind)(*directories)  # type: ignore[no-any-return]

    def _is(self, *errors: int) -> bool | None:
        """Whether the call has failed with one of *errors*."""
        return True if not self.unanswered and self.op.error in errors else None

    def _sees(self, number: int, found: int) -> bool:
        """Whether *number* is what the call said it had found."""
        names = self.names
        if names.number(found) == number or not found:  # a listing gives no numbers of directories
            return True
        if number < 0 and found not in self.known and found not in names.aliases:
            if number in names.aliases.values():
                return False
            names.alias(found, number)
            return True
        return False

    def _lookup(self, directory: int) -> bool | None:
        place = (directory, self.op.names[0])
        ghost = self.names.ghost(place, self.op.begun)
        if ghost is not None and not self.op.error and self.names.number(self.op.found) in (ghost, 0):
            return True
        number = self.names.entries.get(place)
        if number is None:
            return self._is(errno.ENOENT) or self._is_leaving(place)
        if not self.op.error and self._sees(number, self.op.found):
            return True
        return self._is_leaving(place)  # another node has made something there

    def _is_leaving(self, place: tuple[int, bytes]) -> bool | None:
        """Whether the node's own kernel had it in memory, while another call there was taking its name."""
        op = self.op
        number, client, ended = self.names.leaving.get(place, (0, "", 0.0))
        is_known = not op.error and op.begun == op.ended and self.names.number(op.found) == number
        return True if is_known and client == op.client and ended > op.begun else None

    def _create(self, directory: int) -> bool | None:
        names, op = self.names, self.op
        number = names.entries.get((directory, op.names[0]))
        if number is not None:
            if not op.flags:
                return self._is(errno.EEXIST)
            if number in names.directories:
                return self._is(errno.ESTALE)
            return True if not op.error and not self.unanswered and self._sees(number, op.found) else None
        if op.error:
            seen = names.ghost((directory, op.names[0]), op.begun) is not None
            return self._is(errno.EEXIST) if seen else None
        made = -1 - self.index if self.unanswered else op.found
        names.put(directory, op.names[0], made)
        if op.kind == "mkdir":
            names.made_directory(made)
        return True

    _mkdir = _create

    def _unlink(self, directory: int) -> bool | None:
        names, op = self.names, self.op
        number = names.entries.get((directory, op.names[0]))
        if number is None:
            return self._is(errno.ENOENT)
        if number in names.directories:
            return self._is(errno.EISDIR)
        if op.error:
            return None
        names.put(directory, op.names[0], None, op.ended)
        return True

    def _rmdir(self, directory: int) -> bool | None:
        names, op = self.names, self.op
        number = names.entries.get((directory, op.names[0]))
        if number is None:
            return self._is(errno.ENOENT)
        if number not in names.directories:
            return self._is(errno.ENOTDIR)
        if not names.is_empty(number):
            return self._is(errno.ENOTEMPTY)
        if op.error:
            return self._is(errno.ENOTEMPTY) if names.has_ghost(number, op.begun) else None
        names.leaving[directory, op.names[0]] = number, op.client, op.ended
        names.put(directory, op.names[0], None)
        return True

    def _link(self, directory: int) -> bool | None:
        names, op = self.names, self.op
        if op.error == errno.ESTALE:  # the file may be where a daemon that was started anew does not know
            return self._is(errno.ESTALE)
        number = names.number(op.fid)
        is_taken = (directory, op.names[0]) in names.entries
        if number not in names.entries.values():
            # The count of names grows first: one that loses its last name before it gets the next one may stay.
            is_just_gone = names.gone.get(number, NEVER) >= op.begun
            if op.error or not is_just_gone:
                return self._is(*_GONE, *([errno.EEXIST] if is_taken and is_just_gone else []))
        if is_taken:
            return self._is(errno.EEXIST)
        if op.error:
            return None
        names.put(directory, op.names[0], number)
        return True

    def _rename(self, old: int, new: int) -> bool | None:
        names, op = self.names, self.op
        source, target = (old, op.names[0]), (new, op.names[1])
        moved, replaced = names.entries.get(source), names.entries.get(target)
        errors = set(self._rename_errors(source, target, moved, replaced))
        if errors:
            return self._is(*errors)
        if op.error:
            return None
        assert moved is not None
        if moved == replaced:
            if source != target:
                names.put(*target, moved)  # nothing changes now, but it would have a moment earlier or later
            return True
        for place, number in (source, moved), (target, replaced):
            if number in names.directories:
                names.leaving[place] = number, op.client, op.ended
        names.put(*source, replaced if op.flags & RENAME_EXCHANGE else None)
        if not op.flags & RENAME_EXCHANGE:
            names.ghosts[source] = (moved, op.ended)
        names.put(*target, moved)
        return True

    def _rename_errors(
        self, source: tuple[int, bytes], target: tuple[int, bytes], moved: int | None, replaced: int | None
    ) -> Iterator[int]:
        names, flags = self.names, self.op.flags
        if moved is None:
            yield errno.ENOENT
            ghost = names.ghost(source, self.op.begun)
            if ghost is not None and names.is_within(target[0], ghost):
                yield errno.EINVAL  # under its old name, which may still be seen, into itself
            return
        is_tree = moved in names.directories
        if is_tree and names.is_within(target[0], moved):
            yield errno.EINVAL
        if flags & RENAME_NOREPLACE and replaced is not None:
            yield errno.EEXIST
        if flags & RENAME_EXCHANGE:
            if replaced is None:
                yield errno.ENOENT
            elif replaced in names.directories and names.is_within(source[0], replaced):
                yield errno.EINVAL
            return
        if replaced is None or replaced == moved:
            return
        if names.is_within(source[0], replaced):
            yield errno.ENOTEMPTY
        if replaced in names.directories:
            if not is_tree:
                yield errno.EISDIR
            elif not names.is_empty(replaced):
                yield errno.ENOTEMPTY
        elif is_tree:
            yield errno.ENOTDIR


def _is_into_itself(op: NameOp) -> bool:
    """Whether a rename has one path below the other."""
    old, new = ((*place.path, name) for place, name in zip(op.places, op.names, strict=True))
    return len(old) != len(new) and old[: len(new)] == new[: len(old)]


class Verdict:
    """What the search has found. *stuck*: when it failed, the call that fits nowhere in the longest order."""

    def __init__(self) -> None:
        self.ok = False
        self.undecided = False
        self.steps = 0
        self.longest: list[NameOp] = []
        self.stuck: NameOp | None = None
        self.entries: dict[tuple[int, bytes], int] = {}


def check(ops: list[NameOp]) -> Verdict:
    """Whether there is an order."""
    return _Search(ops).run()


class _Search:
    def __init__(self, ops: list[NameOp]) -> None:
        self._ops = sorted((op for op in ops if op.kind != "lookup" or op.ended != NEVER), key=lambda op: op.begun)
        self._wanted = sum(op.ended != NEVER for op in self._ops)
        made = [op for op in ops if op.kind in ("create", "mkdir") and op.ended != NEVER and not op.error]
        known = {op.found for op in made if not op.flags}
        self._names = Names()
        self._steps = [_Step(self._names, op, index, known) for index, op in enumerate(self._ops)]
        self._done = bytearray(len(self._ops))
        self._order: list[NameOp] = []
        self._seen: set[tuple[int, int]] = set()
        self._mask = 0
        self._answered = 0
        self._first = 0
        self._verdict = Verdict()

    def run(self) -> Verdict:
        """Depth first, without recursion: a stack of what is left to try."""
        stack = [self._choices()]
        marks: list[tuple[int, int]] = []
        verdict = self._verdict
        while stack:
            verdict.steps += 1
            if verdict.steps > _STEPS_MAX:
                verdict.undecided = verdict.ok = True
                return verdict
            index = next(stack[-1], None)
            if index is None:
                stack.pop()
                if marks:
                    self._undo(marks.pop()[0])
                continue
            self._do(index)
            if self._answered == self._wanted:
                verdict.ok = True
                verdict.entries = dict(self._names.entries)
                return verdict
            state = (self._mask, self._names.digest)
            if state in self._seen:
                self._undo(index)
                continue
            self._seen.add(state)
            marks.append((index, 0))
            stack.append(self._choices())
        return verdict

    def _do(self, index: int) -> None:
        self._done[index] = 1
        self._mask |= 1 << index
        self._order.append(self._ops[index])
        self._answered += self._ops[index].ended != NEVER

    def _undo(self, index: int) -> None:
        self._done[index] = 0
        self._mask &= ~(1 << index)
        self._order.pop()
        self._answered -= self._ops[index].ended != NEVER

    def _candidates(self) -> list[int]:
        """What may come next: begun before any other that is left has ended."""
        first = 0
        while first < len(self._ops) and self._done[first]:
            first += 1
        found, end = [], NEVER
        for index in range(first, len(self._ops)):
            if self._ops[index].begun > end:
                break
            if not self._done[index]:
                found.append(index)
                end = min(end, self._ops[index].ended)
        found.sort(key=lambda index: self._ops[index].ended)
        return found

    def _choices(self) -> Iterator[int]:
        """Calls to be next, each with its change made; takes it back when asked for another one."""
        candidates = self._candidates()
        if len(self._order) >= len(self._verdict.longest):
            self._verdict.longest = list(self._order)
            self._verdict.stuck = self._ops[candidates[0]] if candidates else None
            self._verdict.entries = dict(self._names.entries)
        mark = self._names.mark()
        changing = []
        for index in candidates:
            ways = self._steps[index].ways()
            for changes in ways:
                if not changes and not self._steps[index].unanswered:
                    yield index  # it changes nothing: no order is worse with it here
                    ways.close()
                    self._names.back(mark)
                    return
                changing.append(index)
                break
            ways.close()
            self._names.back(mark)
        for index in changing:
            for changes in self._steps[index].ways():
                if changes:
                    yield index
                    self._names.back(mark)
