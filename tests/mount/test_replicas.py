"""Two copies, on real mounts: one daemon of three disappears for good, or is frozen, while programs write."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkfs.limits import COPY_SILENCE_S
from tests.mount.conftest import close_file_system, open_file_system
from tests.mount.file_system import FileSystem, is_alive, wait_until

_LONGEST_S = COPY_SILENCE_S + 15  # a call, on a machine that has much else to do
_WRITES_S = 12.0
_LOST_AFTER_S = 3.0

# Makes files, renames every third, and writes down what was acknowledged: path, seed and size, in lines.
_WRITER = """
import hashlib, os, sys, time
folder, log, end = sys.argv[1], open(sys.argv[2], "w"), time.monotonic() + float(sys.argv[3])
os.mkdir(folder)
number, longest = 0, 0.0
while time.monotonic() < end:
    begun = time.monotonic()
    path, seed = f"{folder}/{number}", f"{folder}-{number}".encode()
    repeats = (1, 50, 3000, 60000)[number % 4]
    with open(path, "xb") as file:
        file.write(hashlib.sha256(seed).digest() * repeats)
    if number % 3 == 0:
        os.rename(path, path + "-renamed")
        path += "-renamed"
    longest = max(longest, time.monotonic() - begun)
    print(os.path.basename(path), seed.decode(), repeats, file=log, flush=True)
    number += 1
print("longest", longest, number, file=log, flush=True)
"""


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[FileSystem]:
    opened = open_file_system(tmp_path / "gkfs", 3, 2, embedded=False, replicas=2)
    opened.expected_trouble = ["was replaced"]
    wait_until(lambda: copies(opened) == [2, 2, 2], "everything is on two daemons")
    yield opened
    problems = close_file_system(opened)
    assert not problems, "\n".join(problems)


def copies(file_system: FileSystem) -> list[int]:
    return [int(daemon["copies"]) for daemon in file_system.daemon_status()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_programs_go_on_without_a_daemon(how: signal.Signals, file_system: FileSystem, tmp_path: Path) -> None:
    logs = [tmp_path / f"writer-{number}" for number in range(2)]
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(mountdir / log.name), str(log), str(_WRITES_S)])
        for mountdir, log in zip(file_system.mounts, logs, strict=True)
    ]
    time.sleep(_LOST_AFTER_S)
    pid = file_system.lose_daemon(1, how)
    if how == signal.SIGKILL:
        shutil.rmtree(file_system.rootdir / "daemon-1")
    assert [writer.wait(60) for writer in writers] == [0, 0]
    if how == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not is_alive(pid), "the daemon that was replaced has ended")
    wait_until(lambda: copies(file_system) == [2, 2, 2], "everything is on two daemons again")
    for log, other in zip(logs, reversed(file_system.mounts), strict=True):
        *lines, (_, longest_s, count) = [line.split(" ") for line in log.read_text().splitlines()]
        assert len(lines) == int(count) > 10
        assert float(longest_s) < _LONGEST_S
        assert sorted(os.listdir(other / log.name)) == sorted(name for name, _, _ in lines)
        for name, seed, repeats in lines:
            expected = hashlib.sha256(seed.encode()).digest() * int(repeats)
            assert (other / log.name / name).read_bytes() == expected, name


def test_two_daemons_are_not_enough(tmp_path: Path) -> None:
    file_system = FileSystem(tmp_path / "gkfs", 2, replicas=2)
    done = file_system.gkfs(
        "start", "-r", file_system.rootdir, "-H", file_system.hostfile, "-n", "2", "--replicas", "2", check=False
    )
    assert (done.returncode, done.stderr) == (2, "gkfs: 2 replicas need 3 daemons, not 2\n")
