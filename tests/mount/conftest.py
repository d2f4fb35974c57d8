"""File systems for the tests of this folder: one of a test's own, or one that many tests share.

`cluster` starts a file system for one test. `file_system` is shared by all tests with the same number of daemons;
each gets a directory of its own in it. Either is checked when the test ends (see `FileSystem.problems`), and a
shared one that is in trouble is replaced, so that one fault fails one test.
"""

import errno
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.mount import sample_tree
from tests.mount.calls import MIB, errno_of, noise
from tests.mount.file_system import FileSystem, is_alive, wait_until

Cluster = Callable[..., FileSystem]

# Then the clients are killed, so that whatever hangs in a mount comes back with an error.
_TEST_LIMIT_S: Final = 200
_alive: set[FileSystem] = set()
# The suite can be run with daemon 0 of every file system in the process of its first mount.
ALL_EMBEDDED: Final = os.environ.get("GKFS_TEST_EMBEDDED") == "1"
EMBEDDED: Final = "embedded"  # instead of a number of daemons: two, the first in the process of the first mount
# And with TLS, over TCP, every one of them.
ALL_TLS: Final = os.environ.get("GKFS_TEST_TLS") == "1"
TLS: Final = "tls"  # instead of a number of daemons: two, in TLS


class Place(NamedTuple):
    """An empty directory to work in, as seen from two nodes; on a local disk both are the same path."""

    here: Path
    there: Path
    mounted: bool


class Both(NamedTuple):
    """Two empty directories, to do the same in."""

    mounted: Path
    local: Path


def _why_no_mounts() -> str:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if os.geteuid() != 0:
        return "needs root: owners and devices are tested, too"
    return ""


@pytest.fixture(autouse=True, scope="session")
def _mounts_are_possible() -> None:
    if why := _why_no_mounts():
        pytest.skip(f"no mounts: {why}")


def pytest_configure(config: pytest.Config) -> None:
    """The marks of this folder."""
    config.addinivalue_line("markers", f"limit_s(seconds): time for the test instead of {_TEST_LIMIT_S}")


@pytest.fixture(autouse=True)
def _no_test_hangs(request: pytest.FixtureRequest) -> Iterator[None]:
    mark = request.node.get_closest_marker("limit_s")
    limit_s = mark.args[0] if mark else _TEST_LIMIT_S

    def end() -> None:
        print(f"{request.node.name} takes longer than {limit_s} s: killing the clients", file=sys.stderr)
        for file_system in list(_alive):
            file_system.kill_clients()

    timer = threading.Timer(limit_s, end)
    timer.start()
    yield
    timer.cancel()
    timer.join()


def open_file_system(
    folder: Path,
    daemons: int,
    mounts: int,
    *options: str,
    embedded: bool = ALL_EMBEDDED,
    tls: bool = ALL_TLS,
    replicas: int = 1,
) -> FileSystem:
    """Start and mount a file system in *folder*, with *options*; when that fails, nothing of it is left."""
    file_system = FileSystem(folder, daemons, embedded=embedded, tls=tls, replicas=replicas)
    bring_up(file_system, mounts, *options)
    return file_system


def bring_up(file_system: FileSystem, mounts: int, *options: str) -> None:
    """Start and mount a new file system, with *options*; when that fails, nothing of it is left."""
    _alive.add(file_system)
    try:
        file_system.start()
        for _ in range(mounts):
            file_system.mount(*options)
    except BaseException:
        close_file_system(file_system)
        raise


def close_file_system(file_system: FileSystem) -> list[str]:
    """End it; what was wrong with it or was left behind."""
    _alive.discard(file_system)
    return file_system.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Start a file system for this test: `cluster(daemons, mounts=1)`; may be called more than once."""
    opened: list[FileSystem] = []

    def start(daemons: int, mounts: int = 1) -> FileSystem:
        opened.append(open_file_system(tmp_path / f"gkfs-{len(opened)}", daemons, mounts))
        return opened[-1]

    yield start
    problems = [problem for file_system in opened for problem in close_file_system(file_system)]
    if problems:
        pytest.fail("\n".join(problems))


class Shared:
    """File systems with two mounts, for all users, one per number of daemons, one EMBEDDED, and one in TLS."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._running: dict[int | str, FileSystem] = {}

    def get(self, daemons: int | str) -> FileSystem:
        """The running file system of that many daemons, or the one that is EMBEDDED, or in TLS."""
        if daemons not in self._running:
            folder = self._factory.mktemp(f"gkfs-{daemons}")
            count = 2 if isinstance(daemons, str) else daemons
            embedded, tls = ALL_EMBEDDED or daemons == EMBEDDED, ALL_TLS or daemons == TLS
            self._running[daemons] = open_file_system(
                folder, count, 2, "--allow-other", embedded=embedded, tls=tls
            )
        return self._running[daemons]

    def check(self, daemons: int | str) -> list[str]:
        """What is wrong with it; if anything, it is closed, and the next test gets a new one."""
        if daemons not in self._running:
            return []
        problems = self._running[daemons].problems()
        return problems + self._end(daemons) if problems else []

    def end_all(self) -> list[str]:
        """Close everything; what went wrong doing so."""
        return [problem for daemons in list(self._running) for problem in self._end(daemons)]

    def _end(self, daemons: int | str) -> list[str]:
        return close_file_system(self._running.pop(daemons))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The file systems that tests share."""
    running = Shared(tmp_path_factory)
    yield running
    problems = running.end_all()
    if problems:
        pytest.fail("\n".join(problems))


@pytest.fixture(params=[2, 4], ids=["2-daemons", "4-daemons"])
def file_system(request: pytest.FixtureRequest, shared: Shared) -> Iterator[FileSystem]:
    """A shared file system with two mounts, once with 2 and once with 4 daemons."""
    yield shared.get(request.param)
    problems = shared.check(request.param)
    if problems:
        pytest.fail("\n".join(dict.fromkeys(problems)))


def _own_directory(file_system: FileSystem, name: str) -> Place:
    here, there = (mountdir / name[:200] for mountdir in file_system.mounts)
    here.mkdir()
    return Place(here, there, mounted=True)


@pytest.fixture
def place(file_system: FileSystem, request: pytest.FixtureRequest) -> Place:
    """An empty directory of the shared file system, seen through both mounts."""
    return _own_directory(file_system, request.node.name)


@pytest.fixture
def both(place: Place, tmp_path: Path) -> Both:
    """An empty directory on a mount and one on the local disk."""
    local = tmp_path / "local"
    local.mkdir()
    return Both(place.here, local)


@pytest.fixture(params=["disk", 2, 4], ids=["disk", "2-daemons", "4-daemons"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A directory on the local disk, then on mounts: the disk shows that the test expects what Linux does."""
    if request.param == "disk":
        yield Place(tmp_path, tmp_path, mounted=False)
        return
    shared: Shared = request.getfixturevalue("shared")
    yield _own_directory(shared.get(request.param), request.node.name)
    problems = shared.check(request.param)
    if problems:
        pytest.fail("\n".join(dict.fromkeys(problems)))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder of the local disk with a short path that every user can reach, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="gkfs-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of all kinds of entries on the local disk, not to be changed."""
    root = tmp_path_factory.mktemp("sample") / "tree"
    sample_tree.make(root)
    return root


@pytest.fixture(autouse=True)
def _no_heap_of_temporary_files(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path / "local", ignore_errors=True)


@pytest.fixture(scope="session")
def without_a_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileSystem]:
    """A client was killed while it held a file open that had been removed.

    The daemons wait a minute for a lost client to come back; meanwhile other tests run.
    """
    file_system = open_file_system(tmp_path_factory.mktemp("killed") / "gkfs", daemons=2, mounts=2)
    file_system.expected_faults.append("^beyond: file ")  # until it is gone: what was written and never published
    mountdir = file_system.mounts[1]  # the first one may be a daemon, too
    file = os.open(mountdir / "file", os.O_RDWR | os.O_CREAT)
    os.write(file, noise(8 * MIB))
    (mountdir / "file").unlink()
    client = file_system.client_pid(mountdir)
    os.kill(client, signal.SIGKILL)
    wait_until(lambda: not is_alive(client), "the client is dead")
    assert errno_of(lambda: os.pread(file, 1, 0)) == errno.ENOTCONN
    errno_of(lambda: os.close(file))
    file_system.gkfs("umount", mountdir)  # a dead mount, too
    file_system.mounts.remove(mountdir)
    yield file_system
    problems = close_file_system(file_system)
    if problems:
        pytest.fail("\n".join(problems))
