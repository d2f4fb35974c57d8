"""Several processes and threads at work on the same files.

On the local disk too, which shows that the expectation is Linux's own.
"""

import base64
import fcntl
import os
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.mount.calls import opened
from tests.mount.conftest import Place
from tests.mount.file_system import wait_until
from tests.mount.programs import at_once, python

_WRITERS: Final = 8


def records(writer: int, count: int) -> Iterator[bytes]:
    """What *writer* appends: lines of 20 to 200 bytes that say whose they are, how long, and their checksum."""
    source = random.Random(writer)
    for number in range(count):
        length = source.randint(20, 200)
        head = b"%d %d %d " % (writer, number, length)
        body = head + base64.b64encode(source.randbytes(150))[: length - len(head) - 9]
        yield b"%s%08x\n" % (body, zlib.crc32(body))


def append_records(path: Path, writer: int, count: int) -> None:
    with opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
        for record in records(writer, count):
            assert os.write(file, record) == len(record)


def assert_records_whole(data: bytes, count: int) -> None:
    """Every record is there once, unharmed, and those of one writer are in order."""
    expected = [records(writer, count) for writer in range(_WRITERS)]
    for line in data.splitlines(keepends=True):
        body, checksum = line[:-9], line[-9:]
        assert checksum == b"%08x\n" % zlib.crc32(body), f"harmed: {line!r}"
        due = next(expected[int(body.split()[0])], b"")
        assert line == due, f"{line!r} where {due!r} is due"
    missing = {writer: record for writer, rest in enumerate(expected) if (record := next(rest, None)) is not None}
    assert not missing, f"records from these on are missing: {missing}"


@pytest.mark.parametrize("file_system", [2], ids=["2-daemons"], indirect=True)
def test_ten_thousand_appends_of_each_of_eight_processes_are_whole(place: Place) -> None:
    _append_at_once(place, 2, 10_000)


@pytest.mark.parametrize("nodes", [1, 2])
def test_appends_of_several_processes_are_whole(nodes: int, anywhere: Place) -> None:
    _append_at_once(anywhere, nodes, 1000)


def _append_at_once(place: Place, nodes: int, count: int) -> None:
    views = [place.here, place.there]
    at_once(append_records, [(views[writer % nodes] / "log", writer, count) for writer in range(_WRITERS)])
    for view in views:
        assert_records_whole((view / "log").read_bytes(), count)


@pytest.mark.parametrize("nodes", [1, 2])
def test_processes_create_in_one_directory(nodes: int, anywhere: Place) -> None:
    views = [anywhere.here, anywhere.there][:nodes]
    wins = anywhere.here / "wins"

    def create(writer: int) -> None:
        folder = views[writer % nodes]
        won = 0
        for number in range(60):
            (folder / f"own-{writer}-{number}").write_bytes(b"%d" % number)
            try:
                os.close(os.open(folder / f"contended-{number}", os.O_CREAT | os.O_EXCL))
                won += 1
            except FileExistsError:
                pass
        append = os.open(wins, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(append, b"%d\n" % won)
        os.close(append)

    at_once(create, [(writer,) for writer in range(6)])
    assert sum(map(int, wins.read_text().split())) == 60, "each contended name has exactly one creator"
    for view in (anywhere.here, anywhere.there):
        names = os.listdir(view)
        assert len(names) == len(set(names)) == 6 * 60 + 60 + 1


def test_mkdir_has_one_winner(anywhere: Place) -> None:
    views = [anywhere.here, anywhere.there]

    def make(writer: int) -> None:
        for number in range(50):
            try:
                os.mkdir(views[writer % 2] / f"folder-{number}")
                (views[writer % 2] / f"won-{number}-{writer}").touch()
            except FileExistsError:
                pass

    at_once(make, [(writer,) for writer in range(4)])
    won = sorted(int(name.split("-")[1]) for name in os.listdir(anywhere.here) if name.startswith("won-"))
    assert won == list(range(50))
    wait_until(lambda: anywhere.there.stat().st_nlink == 52, "the link count is known on the other node")


def test_children_write_through_an_inherited_descriptor(anywhere: Place) -> None:
    with opened(anywhere.here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"head")

        def write(child: int) -> None:
            os.pwrite(file, bytes([child]) * 5000, 4 + child * 5000)

        at_once(write, [(child,) for child in range(8)])
        expected = b"head" + b"".join(bytes([child]) * 5000 for child in range(8))
        assert os.pread(file, 50_000, 0) == expected
    assert (anywhere.there / "file").read_bytes() == expected


def test_children_share_the_offset(anywhere: Place) -> None:
    with opened(anywhere.here / "file", os.O_RDWR | os.O_CREAT) as file:
        at_once(lambda child: os.write(file, b"%d" % child * 100), [(child,) for child in range(5)])
        assert os.lseek(file, 0, os.SEEK_CUR) == 500
    data = (anywhere.there / "file").read_bytes()
    assert sorted(data[start : start + 100] for start in range(0, 500, 100)) == [b"%d" % n * 100 for n in range(5)]


_THREADS = """
import os, subprocess, sys, threading
failures = []
def work(number):
    try:
        name = f"thread-{number}"
        with open(name, "w+b", buffering=0) as file:
            for step in range(30):
                os.pwrite(file.fileno(), bytes([number]) * 3000, step * 3000)
                assert os.pread(file.fileno(), 3000, step * 3000) == bytes([number]) * 3000
            child = subprocess.run(["cat", name], stdout=subprocess.PIPE, check=True)
            assert child.stdout == bytes([number]) * 90000
        os.rename(name, name + "-done")
    except BaseException as error:
        failures.append(repr(error))
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
if (child := os.fork()) == 0:
    with open("child", "w") as file: file.write("child")
    os._exit(0)
os.waitpid(child, 0)
for thread in threads: thread.join()
sys.exit("\\n".join(failures) or 0)
"""


def test_threads_and_forks_work_together(anywhere: Place) -> None:
    python(_THREADS, cwd=anywhere.here)
    assert sorted(os.listdir(anywhere.there)) == ["child", *(f"thread-{number}-done" for number in range(8))]


def test_locks_hold_between_processes_of_a_node(anywhere: Place) -> None:
    counter = anywhere.here / "counter"
    counter.write_text("0")

    def count(use: Callable[[int, int], object]) -> None:
        for _ in range(30):
            with open(counter, "r+") as file:
                use(file.fileno(), fcntl.LOCK_EX)
                value = int(file.read())
                file.seek(0)
                file.write(str(value + 1))

    at_once(count, [(use,) for use in (fcntl.lockf, fcntl.lockf, fcntl.lockf)])
    assert counter.read_text() == "90"
    at_once(count, [(use,) for use in (fcntl.flock, fcntl.flock, fcntl.flock)])
    assert counter.read_text() == "180"


_WRITE_AND_WAIT = """
import os, time
file = os.open("file", os.O_CREAT | os.O_WRONLY)
os.write(file, b"x" * 70000)
print(flush=True)
time.sleep(60)
"""


def test_a_program_dies_while_it_writes(anywhere: Place) -> None:
    """What it wrote is there, and the file can be used."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE_AND_WAIT], cwd=anywhere.here, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.kill()
    deadline_s = time.monotonic() + 30
    while (anywhere.there / "file").stat().st_size != 70_000:
        assert time.monotonic() < deadline_s, "the size was not published when the descriptor was closed"
    assert (anywhere.there / "file").read_bytes() == b"x" * 70_000
