"""All names of a file system at one moment, as the model has them."""

from typing import Final

_ROOT: Final = 1


class Names:
    """All names at one moment: what is in each directory, by number. Changes can be taken back."""

    def __init__(self) -> None:
        self.entries: dict[tuple[int, bytes], int] = {}
        self.directories: set[int] = {_ROOT}
        self.files: set[int] = set()  # numbers seen as those of files
        self.aliases: dict[int, int] = {}  # of what an unanswered call has made: its number, once somebody saw it
        self.gone: dict[int, float] = {}  # files without name: when the call that took the last one had ended
        # Names that renames have taken: what had them, and when the rename had ended. Until then they may still be
        # seen; only of an exchange nobody sees one of both under two names.
        self.ghosts: dict[tuple[int, bytes], tuple[int, float]] = {}
        # Directories that lost this name, by which node, and when the call had ended: its kernel has them so long.
        self.leaving: dict[tuple[int, bytes], tuple[int, str, float]] = {}
        self.digest = 0
        self._log: list[tuple[object, ...]] = []

    # --- changes, and back

    def mark(self) -> int:
        return len(self._log)

    def back(self, mark: int) -> None:
        """Take back all changes since *mark*."""
        while len(self._log) > mark:
            what, *rest = self._log.pop()
            if what == "entry":
                place, before = rest
                self._set(place, before)  # type: ignore[arg-type]
            elif what == "alias":
                del self.aliases[rest[0]]  # type: ignore[arg-type]
                self.digest ^= hash(("alias", *rest))
            else:
                self.directories.discard(rest[0])

    def put(self, directory: int, name: bytes, number: int | None, ended: float = 0.0) -> None:
        """Give *name* to *number*, or take it, by a call that ends at *ended*."""
        place = (directory, name)
        before = self.entries.get(place)
        if before is not None and number is None:
            self.gone[before] = ended  # stays when taken back: only asked for what has no name
        self._log.append(("entry", place, self.entries.get(place)))
        self._set(place, number)

    def made_directory(self, number: int) -> None:
        if number not in self.directories:
            self.directories.add(number)
            self._log.append(("directory", number))

    def alias(self, number: int, made: int) -> None:
        self.aliases[number] = made
        self.digest ^= hash(("alias", number, made))
        self._log.append(("alias", number, made))

    def _set(self, place: tuple[int, bytes], number: int | None) -> None:
        before = self.entries.get(place)
        if before is not None:
            self.digest ^= hash((place, before))
            del self.entries[place]
        if number is not None:
            self.digest ^= hash((place, number))
            self.entries[place] = number

    # --- questions

    def number(self, fid: int) -> int:
        return self.aliases.get(fid, fid)

    def alive(self, number: int) -> bool:
        """Whether a directory has a name."""
        return number == _ROOT or number in self.entries.values()

    def resolve(self, path: tuple[bytes, ...]) -> int | None:
        found: int | None = _ROOT
        for name in path:
            if found is None or found not in self.directories:
                return None
            found = self.entries.get((found, name))
        return found if found in self.directories else None

    def is_empty(self, directory: int) -> bool:
        return not any(parent == directory for parent, _ in self.entries)

    def ghost(self, place: tuple[int, bytes], begun: int) -> int | None:
        """What a call that began at *begun* may still see there, though it has gone."""
        number, ended = self.ghosts.get(place, (None, 0.0))
        return number if ended > begun else None

    def has_ghost(self, directory: int, begun: int) -> bool:
        """Whether there is such a thing in *directory*."""
        return any(parent == directory and ended > begun for (parent, _), (_, ended) in self.ghosts.items())

    def is_within(self, directory: int, top: int) -> bool:
        """Whether *directory* is *top* or below it."""
        parents = {number: parent for (parent, _), number in self.entries.items() if number in self.directories}
        while directory != top:
            if directory not in parents:
                return False
            directory = parents[directory]
        return True
