"""A daemon is killed at every step of an operation over several daemons, and started again while the call waits.

The caller notices a pause and nothing else; afterwards there is exactly what should be, on all nodes, and nothing
is left over. By default some steps of each operation are taken, about a minute in all. Each, and each with a
second death while the daemon takes up what it finds, in ten minutes:

    KILL_POINTS=all pytest tests/mount/test_kill_points.py
"""

import errno
import os
from collections.abc import Iterator
from typing import Final

import pytest

from gkfs.distributor import Distributor
from tests.mount import conftest
from tests.mount.file_system import wait_until
from tests.mount.kill_points import DAEMONS, MortalFileSystem, Names, Operation, kill_at_steps
from tests.mount.test_rename import EXCHANGE, renameat2

_SHARE: Final = 0 if os.environ.get("KILL_POINTS") == "all" else 2


def _owned(prefix: str, daemon: int) -> str:
    """A name in the folder `work` that starts with *prefix* and is on *daemon*."""
    distributor = Distributor(DAEMONS)
    names = (f"{prefix}{number}" for number in range(100))
    return next(name for name in names if distributor.path_owner(b"/work/" + name.encode()) == daemon)


# Daemon 0 has the source and coordinates, daemon 1 has the target, daemon 2 records of files with several names.
_SOURCE: Final = _owned("source", 0)
_TARGET: Final = _owned("target", 1)
_THIRD: Final = _owned("third", 2)
_CHILD: Final = _owned(f"{_SOURCE}/child", 2)


def _tree(top: str) -> Names:
    inside = {f"{top}/{name}": name for name in ("a", "b", "c", "d")}
    return {top: "/", **inside, f"{top}/sub": "/", f"{top}/sub/x": "x", f"{top}/sub/y": "y"}


_OPERATIONS: Final = {
    "rename": Operation(
        {_SOURCE: "ONE"}, lambda folder: os.rename(folder / _SOURCE, folder / _TARGET), {_TARGET: "ONE"}
    ),
    "replace": Operation(
        {_SOURCE: "ONE", _TARGET: "TWO"},
        lambda folder: os.rename(folder / _SOURCE, folder / _TARGET),
        {_TARGET: "ONE"},
    ),
    "replace a link": Operation(
        {_SOURCE: "ONE", _TARGET: "TWO", _THIRD: "TWO"},
        lambda folder: os.rename(folder / _SOURCE, folder / _TARGET),
        {_TARGET: "ONE", _THIRD: "TWO"},
    ),
    "link": Operation(
        {_SOURCE: "ONE"},
        lambda folder: os.link(folder / _SOURCE, folder / _TARGET),
        {_SOURCE: "ONE", _TARGET: "ONE"},
    ),
    "unlink one of several": Operation(
        {_SOURCE: "ONE", _TARGET: "ONE", _THIRD: "ONE"},
        lambda folder: os.unlink(folder / _SOURCE),
        {_TARGET: "ONE", _THIRD: "ONE"},
    ),
    "unlink the last": Operation({_SOURCE: "ONE"}, lambda folder: os.unlink(folder / _SOURCE), {}),
    "exchange": Operation(
        {_SOURCE: "ONE", _TARGET: "TWO"},
        lambda folder: renameat2(folder / _SOURCE, folder / _TARGET, EXCHANGE),
        {_SOURCE: "TWO", _TARGET: "ONE"},
    ),
    "rename a directory": Operation(
        _tree(_SOURCE), lambda folder: os.rename(folder / _SOURCE, folder / _TARGET), _tree(_TARGET)
    ),
    "replace a directory": Operation(
        {**_tree(_SOURCE), _TARGET: "/"},
        lambda folder: os.rename(folder / _SOURCE, folder / _TARGET),
        _tree(_TARGET),
    ),
    "rmdir": Operation({_SOURCE: "/"}, lambda folder: os.rmdir(folder / _SOURCE), {}),
    "rmdir refused": Operation(
        {_SOURCE: "/", _CHILD: "x"},
        lambda folder: os.rmdir(folder / _SOURCE),
        {_SOURCE: "/", _CHILD: "x"},
        fails_with=errno.ENOTEMPTY,
    ),
}


# Who has nothing to do with it; everybody else has, and if only with its end.
_UNINVOLVED: Final = {
    ("rename", 2),
    ("replace", 2),
    ("exchange", 2),
    ("unlink one of several", 1),
    ("unlink the last", 1),
    ("unlink the last", 2),
    ("rmdir refused", 2),  # it is the one that refuses
}


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalFileSystem]:
    """A file system of three daemons that die when they are told to, with two mounts."""
    file_system = MortalFileSystem(tmp_path_factory.mktemp("mortal") / "gkfs")
    conftest.bring_up(file_system, 2)
    (file_system.mounts[0] / "work").mkdir()
    yield file_system
    wait_until(lambda: file_system.status()["used_bytes"] == 0, "the chunks are gone", every_s=0.3)
    problems = conftest.close_file_system(file_system)
    if problems:
        pytest.fail("\n".join(problems))


@pytest.mark.limit_s(1800)
@pytest.mark.parametrize("victim", range(DAEMONS), ids=["source", "target", "third"])
@pytest.mark.parametrize("name", _OPERATIONS)
def test_a_daemon_may_die_at_every_step(name: str, victim: int, mortal: MortalFileSystem) -> None:
    count, deaths = kill_at_steps(mortal, _OPERATIONS[name], victim, _SHARE)
    print(f"{name}: {count} steps of daemon {victim}, {deaths} deaths")
    if (name, victim) not in _UNINVOLVED:
        assert min(count, deaths) >= 2
