"""Every call of a list, on a mount and on the local disk: the same result or errno, and the same effect."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tests.mount import twin_calls
from tests.mount.conftest import Both
from tests.mount.matrix_tree import Facts, Tree, near
from tests.mount.twin_calls import ROOT, USUAL_UMASK, Call, Failure, User

_SHOWN: Final = 30
# Of calls that should change nothing: after so many it is looked whether they did.
_UNCHECKED_MAX: Final = 200


class Matrix:
    """Two trees that are the same before each call. What differs is collected."""

    def __init__(self, both: Both) -> None:
        self.calls = 0
        self.assertions = 0
        self._differences: list[str] = []
        self._unchecked: list[str] = []
        self._descriptors = [_directory(root) for root in both]
        self._mounted, self._local = (Tree(descriptor) for descriptor in self._descriptors)
        self._compare("nothing at all")

    def call(
        self,
        function: str | Callable[..., Any],
        *arguments: Any,
        user: User = ROOT,
        umask: int = USUAL_UMASK,
        looks: bool = False,
        **options: Any,
    ) -> None:
        """One call, of `os`, of `twin_calls` or of the test's own, in both trees. *looks*: it changes nothing."""
        made: Callable[..., Any]
        if isinstance(function, str):
            name, made = function, twin_calls.FUNCTIONS.get(function) or getattr(os, function)
        else:
            name, made = function.__name__, function
        answers = []
        for tree in (self._mounted, self._local):
            os.fchdir(tree.top)
            with twin_calls.made_by(user, umask):
                answers.append(twin_calls.made(made, list(arguments), options))
            os.fchdir(tree.top)
        self.calls += 1
        self.assertions += 1
        line = twin_calls.line(Call(name, arguments, options, 0, user, umask, None))
        if answers[0] != answers[1]:
            shown = [twin_calls.shown_result(answer) for answer in _only_different(*answers)]
            self._differences.append(f"{line}: the mount answers {shown[0]}, a local disk {shown[1]}")
        if looks or all(isinstance(answer, Failure) for answer in answers):
            self._unchecked.append(line)
            if len(self._unchecked) > _UNCHECKED_MAX:
                self._check_unchecked()
        else:
            self._compare(line, [path for path in arguments if isinstance(path, str)])

    def _check_unchecked(self) -> None:
        if self._unchecked:
            self._compare(
                f"one of {len(self._unchecked)} calls, from {self._unchecked[0]} to {self._unchecked[-1]}"
            )
            self._unchecked.clear()

    def _compare(self, what: str, concerned: Sequence[str] = ()) -> None:
        """The trees are still, or again, the same; then they are mended.

        With *concerned* the mounted tree is looked at there and where the local one has changed. What else may
        have changed is seen later, when all is compared.
        """
        paths = self._local.paths()
        local = self._local.facts(paths)
        changed = self._local.changed(local)
        looked_at = changed.union(*(near(path, paths) for path in concerned)) if concerned else paths
        mounted = self._mounted.facts(looked_at)
        self.assertions += len(mounted)
        lines = [_difference(path, found, local[path]) for path, found in mounted.items() if found != local[path]]
        if lines:
            self._differences.append(f"{what}: {'; '.join(lines)}")
        changed |= self._mounted.changed(mounted)
        for tree in (self._mounted, self._local):
            tree.mend(changed)

    def end(self) -> None:
        """Both trees hold the same names; AssertionError with what differed all along."""
        self._check_unchecked()
        if self._mounted.paths() != self._local.paths():
            self._differences.append(f"the names differ: {self._mounted.paths() ^ self._local.paths()}")
        shown = [line[:600] for line in self._differences[:_SHOWN]]
        if len(self._differences) > _SHOWN:
            shown.append(f"and {len(self._differences) - _SHOWN} more")
        assert not shown, "\n".join([f"{len(self._differences)} differences in {self.calls} calls:", *shown])

    def close(self) -> None:
        """Let go of the trees."""
        for descriptor in self._descriptors:
            os.close(descriptor)


def _only_different(mounted: Any, local: Any) -> tuple[Any, Any]:
    """Of answers with several parts those that differ."""
    if not isinstance(mounted, dict) or not isinstance(local, dict):
        return mounted, local
    parts = [part for part in mounted if mounted[part] != local[part]]
    return {part: mounted[part] for part in parts}, {part: local[part] for part in parts}


def _difference(path: str, mounted: Facts, local: Facts) -> str:
    if not mounted or not local:
        return f"{path!r} is {mounted or 'missing'} on the mount, {local or 'missing'} on a local disk"
    facts = [
        f"{what} {mounted.get(what)!r}, on a local disk {local.get(what)!r}"
        for what in {**mounted, **local}
        if mounted.get(what) != local.get(what)
    ]
    return f"{path!r} has {', '.join(facts)}"


def _directory(root: os.PathLike[str]) -> int:
    inner = os.path.join(root, "tree")  # so that a path that leads out of it does no harm
    os.mkdir(inner)
    return os.open(inner, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def matrix_of(both: Both) -> Iterator[Matrix]:
    """A matrix for the block, and its verdict."""
    before = os.getcwd()
    matrix = Matrix(both)
    try:
        yield matrix
        matrix.end()
        print(f"{matrix.calls} calls, {matrix.assertions} assertions")
    finally:
        matrix.close()
        os.chdir(before)
