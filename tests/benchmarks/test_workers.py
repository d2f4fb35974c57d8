"""The prototype of several client processes for one mount: what one of them did, all of them know."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import Failed, end, run, start, unmount, wait_until, with_argument

ROOT = Path(__file__).parents[2]
GKFS = (sys.executable, "-m", "gkfs")
LIMIT_S = 90.0
pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0,
    reason="no mounts: /dev/fuse cannot be opened, or not root",
)


class Mounted:
    """A mount with two workers."""

    def __init__(self, mountdir: Path, workers: list[int], log: Path) -> None:
        self.mountdir = mountdir
        self._workers = workers
        self._log = log

    @contextlib.contextmanager
    def through(self, number: int) -> Iterator[None]:
        """Within it only that worker serves: the other one reads no requests."""
        other = self._workers[1 - number]
        self._tell(other, "rests")
        try:
            yield
        finally:
            self._tell(other, "goes on")

    def _tell(self, worker: int, expected: str) -> None:
        def said() -> int:
            return len(re.findall(rf" {worker} INFO .*: {expected}$", self._log.read_text(), re.MULTILINE))

        before = said()
        os.kill(worker, signal.SIGUSR2)
        wait_until(lambda: said() > before, f"worker {worker} {expected}")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """Two daemons and a mount; in the end all is consistent, and nothing left."""
    (tmp_path / "root").mkdir()
    mountdir = tmp_path / "mnt"
    mountdir.mkdir()
    hosts = tmp_path / "hosts"
    client: subprocess.Popen[bytes] | None = None

    def kill() -> None:
        if client is not None:
            os.killpg(client.pid, signal.SIGKILL)

    timer = threading.Timer(LIMIT_S, kill)
    try:
        run([*GKFS, "start", "-r", tmp_path / "root", "-H", hosts, "-n", "2"], cwd=ROOT)
        words = [sys.executable, "-m", "benchmarks.workers.serve", hosts, mountdir, 2]
        client = start(["env", "-C", ROOT, *words], tmp_path / "log")
        timer.start()
        wait_until(lambda: os.path.ismount(mountdir), "a mount")
        os.stat(mountdir)
        children = Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text().split()
        workers = [int(pid) for pid in children]
        wait_until(lambda: (tmp_path / "log").read_text().count("serves") == len(workers), "all workers")
        yield Mounted(mountdir, workers, tmp_path / "log")
        unmount(mountdir)
        assert client.wait(LIMIT_S) == 0, (tmp_path / "log").read_text()
        assert "Traceback" not in (tmp_path / "log").read_text()
        run([*GKFS, "fsck", "-H", hosts], cwd=ROOT)
    finally:
        timer.cancel()
        if client is not None:
            end(client)
        unmount(mountdir)
        with contextlib.suppress(Failed):
            run([*GKFS, "stop", "-H", hosts, "--purge"], cwd=ROOT)
        assert not with_argument(tmp_path)


def test_names_made_through_any_worker_are_seen_through_all(mounted: Mounted) -> None:
    top = mounted.mountdir / "top"
    for maker in (0, 1):
        with mounted.through(maker):
            top.mkdir(exist_ok=True)
            (top / f"by-{maker}").touch()
            (top / f"in-{maker}").mkdir()
    for reader in (0, 1):
        with mounted.through(reader):
            assert sorted(os.listdir(top)) == ["by-0", "by-1", "in-0", "in-1"]
            assert top.stat().st_nlink == 4
    with mounted.through(0):
        (top / "by-1").rename(top / "in-1" / "moved")
    with mounted.through(1):
        assert not (top / "by-1").exists()
        assert (top / "in-1" / "moved").is_file()
        (top / "in-1").rename(top / "elsewhere")
        (top / "by-0").unlink()
    with mounted.through(0):
        assert (top / "elsewhere" / "moved").is_file()
        assert sorted(os.listdir(top)) == ["elsewhere", "in-0"]


def test_what_one_worker_opened_the_other_reads_writes_and_closes(mounted: Mounted) -> None:
    path = mounted.mountdir / "file"
    with mounted.through(0):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.write(file, b"first ")
    with mounted.through(1):
        os.write(file, b"second")
        assert os.fstat(file).st_size == 12
    with mounted.through(0):
        path.unlink()
    with mounted.through(1):
        assert os.pread(file, 20, 0) == b"first second"
        os.close(file)
        assert os.listdir(mounted.mountdir) == []


def test_a_directory_that_one_worker_lists_and_the_other_empties_is_empty_in_the_end(mounted: Mounted) -> None:
    top = mounted.mountdir / "many"
    top.mkdir()
    for number in range(600):
        (top / str(number)).touch()
    seen = []
    with os.scandir(top) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number % 300 == 0:
                with mounted.through(number // 300 % 2):
                    os.unlink(entry.path)
            else:
                os.unlink(entry.path)
    assert sorted(seen) == sorted(map(str, range(600)))
    top.rmdir()
