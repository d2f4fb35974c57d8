"""A real mount whose daemons lie (`tests.fuzz.lying_daemon`), and programs that work on it.

What must hold: the client lives and says nothing of a fault of its own; each call ends, in time; the client does
not grow; and once nobody lies any more the mount works, and ends as it should.
"""

import contextlib
import errno
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import program
from tests.mount.file_system import GKFS, FileSystem, resident_bytes, wait_until

_REQUEST_TIMEOUT_S: Final = (
    1.0  # of the mount: what is never answered costs a call so long, some of them several times
)
CALL_LIMIT_S: Final = 40.0
GROWTH_MAX_BYTES: Final = 96 << 20
_WORKERS: Final = 3
_DAEMONS: Final = 2
_SHARE: Final = 0.1
_NAMES: Final = ("a", "b", "c", "d1", "d2", "d1/a", "d1/b", "d2/c", "l")
_KIB: Final = 1 << 10


class LyingFileSystem(FileSystem):
    """Its daemons lie to mounts between `lie` and `be_honest`."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, _DAEMONS)
        self._seed = seed
        self._lying = folder / "lying"
        self.expected_faults.append("")  # a client that was lied to asks for anything

    def _start_daemon(self, index: int) -> None:
        lying = ("-m", "tests.fuzz.lying_daemon", str(self._lying), str(self._seed + index), str(_SHARE))
        command = [GKFS[0], *lying, "daemon", "-r", str(self.rootdir), "-H", str(self.hostfile)]
        command += ["-n", str(self.daemons), "--index", str(index), "--listen", "tcp://127.0.0.1:0"]
        with open(self.folder / f"daemon-{index}.log", "wb") as log:
            environment = self._environment() | {"PYTHONPATH": str(program.ROOT)}
            self._own.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def start(self) -> None:
        """Start all daemons, honest ones as yet."""
        for index in range(self.daemons):
            self._start_daemon(index)
        self.gkfs("status", "-H", self.hostfile, "--wait", "60")
        self._running = set(self.daemon_pids())

    def lie(self) -> None:
        """From now on replies to mounts may be anything."""
        self._lying.touch()

    def be_honest(self) -> None:
        """As ever."""
        self._lying.unlink()


class Seen(NamedTuple):
    """What came of it."""

    calls: int
    failed: int
    longest_s: float
    grown_bytes: int
    connections: int  # that the mount made again

    def __str__(self) -> str:
        return (
            f"{self.failed} of {self.calls} calls failed, the longest took {self.longest_s:.1f} s, "
            f"{self.connections} connections made again, memory grown by {self.grown_bytes >> 20} MiB"
        )


def fuzz_mount(folder: Path, calls: int, seed: int, until_s: float = float("inf")) -> Seen:
    """Have *calls* made on a mount that is lied to, in *folder*. Raises AssertionError."""
    file_system = LyingFileSystem(folder, seed)
    try:
        file_system.start()
        mountdir = file_system.mount("--request-timeout", str(_REQUEST_TIMEOUT_S))
        client = file_system.client_pid(mountdir)
        _work(mountdir, 300, seed)  # honest: all that it takes once is taken
        before_bytes = resident_bytes(client)
        file_system.lie()
        done = _at_once(mountdir, calls, seed, until_s)
        file_system.be_honest()
        assert file_system.client_pid(mountdir) == client
        grown_bytes = resident_bytes(client) - before_bytes
        _works_again(mountdir)
        log = file_system.log_of(mountdir).read_text()
        file_system.umount(mountdir)
    finally:
        problems = file_system.close()
    assert not problems, "\n".join(problems)
    longest_s = max(one["longest_s"] for one in done)
    assert longest_s < CALL_LIMIT_S, f"a call took {longest_s:.1f} s: {[one['slowest'] for one in done]}"
    assert grown_bytes < GROWTH_MAX_BYTES, f"the client has grown by {grown_bytes >> 20} MiB"
    counts = Counter({"calls": 0, "failed": 0})
    for one in done:
        counts.update({"calls": one["calls"], "failed": one["failed"]})
    return Seen(counts["calls"], counts["failed"], longest_s, grown_bytes, log.count("connected again"))


def _at_once(mountdir: Path, calls: int, seed: int, until_s: float) -> list[dict[str, Any]]:
    """What some processes saw that shared the *calls*."""
    left_s = min(until_s - time.monotonic(), 1e6)
    arguments = [str(mountdir), str(calls // _WORKERS), str(left_s)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.mount_under_fire", *arguments, str(seed + number)],
            stdout=subprocess.PIPE,
        )
        for number in range(_WORKERS)
    ]
    try:
        return [json.loads(worker.communicate()[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _works_again(mountdir: Path) -> None:
    """Names that nobody has lied about can be used, once what the kernel was told has run out."""

    def works() -> bool:
        try:
            place = mountdir / f"honest-{time.monotonic_ns()}"
            place.mkdir()
            (place / "file").write_bytes(b"honest" * 100_000)
            assert (place / "file").read_bytes() == b"honest" * 100_000
            assert os.listdir(place) == ["file"]
            (place / "file").unlink()
            place.rmdir()
        except OSError:
            return False  # the root's own record was lied about a moment ago
        return True

    wait_until(works, "the mount works again", limit_s=30, every_s=0.2)


# --- in processes of their own: what programs do


def _work(mountdir: Path, calls: int, seed: int, until_s: float = float("inf")) -> dict[str, Any]:
    choose = random.Random(seed)
    longest_s, slowest, done = 0.0, "", 0
    failed: Counter[str] = Counter()
    while done < calls and time.monotonic() < until_s:
        action = choose.choice(_ACTIONS)
        begun_s = time.monotonic()
        try:
            action(choose, mountdir)
        except OSError as error:
            failed[errno.errorcode[error.errno or 0]] += 1  # all that Linux has
        took_s = time.monotonic() - begun_s
        done += 1
        if took_s > longest_s:
            longest_s, slowest = took_s, action.__name__
    return {"calls": done, "failed": failed.total(), "errnos": failed, "longest_s": longest_s, "slowest": slowest}


def _path(choose: random.Random, mountdir: Path) -> Path:
    return mountdir / choose.choice(_NAMES)


def _write(choose: random.Random, mountdir: Path) -> None:
    data = bytes(choose.choice((1, 100, 9 * _KIB, 300 * _KIB, 1100 * _KIB)))
    with _opened(_path(choose, mountdir), os.O_RDWR | os.O_CREAT) as file:
        os.pwrite(file, data, choose.choice((0, 5000, 1 << 20)))
        if choose.random() < 0.3:
            os.fsync(file)


def _read(choose: random.Random, mountdir: Path) -> None:
    with _opened(_path(choose, mountdir), os.O_RDONLY) as file:
        for _ in range(choose.choice((1, 5))):  # of what is claimed to be petabytes
            os.read(file, 1 << 18)
        os.pread(file, 100, choose.choice((1 << 20, 1 << 40)))
        os.fstat(file)


def _list(choose: random.Random, mountdir: Path) -> None:
    with os.scandir(choose.choice((mountdir, _path(choose, mountdir)))) as entries:
        for entry, _ in zip(entries, range(5000), strict=False):
            with contextlib.suppress(OSError):
                entry.stat(follow_symlinks=False)


def _make(choose: random.Random, mountdir: Path) -> None:
    path = _path(choose, mountdir)
    match choose.randrange(4):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to("a")
        case 2:
            path.hardlink_to(_path(choose, mountdir))
        case _:
            os.mkfifo(path)


def _remove(choose: random.Random, mountdir: Path) -> None:
    choose.choice((os.unlink, os.rmdir))(_path(choose, mountdir))


def _rename(choose: random.Random, mountdir: Path) -> None:
    os.rename(_path(choose, mountdir), _path(choose, mountdir))


def _look(choose: random.Random, mountdir: Path) -> None:
    path = _path(choose, mountdir)
    os.lstat(path)
    with contextlib.suppress(OSError):
        os.readlink(path)
    os.statvfs(mountdir)
    os.listxattr(path, follow_symlinks=False)


def _change(choose: random.Random, mountdir: Path) -> None:
    path = _path(choose, mountdir)
    match choose.randrange(4):
        case 0:
            path.chmod(0o700)
        case 1:
            os.utime(path, (1, 1))
        case 2:
            os.truncate(path, choose.choice((0, 10, 2 << 20)))
        case _:
            os.setxattr(path, "user.x", bytes(choose.choice((1, 1000))))


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Any:
    file = os.open(path, flags | os.O_NONBLOCK, 0o644)  # a FIFO may be there
    try:
        yield file
    finally:
        os.close(file)


_ACTIONS: Final[tuple[Callable[[random.Random, Path], None], ...]] = (
    *(_write, _write, _read, _read, _list, _make, _remove, _rename, _look, _look, _change),
)


def _main() -> None:
    mountdir, calls, seconds, seed = sys.argv[1:]
    result = _work(Path(mountdir), int(calls), int(seed), time.monotonic() + float(seconds))
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
