"""Daemons are killed at random, and come back, while programs work on two mounts: is all there that was promised?

python -m tests.mount.soak --kills 200 --seed 1 --folder /local/empty
"""

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from tests.mount.file_system import FileSystem
from tests.mount.soak_writer import SHARED, Told, work

DAEMONS: Final = 3
WRITERS: Final = 4
_LOAD_S: Final = (0.02, 0.6)  # between a daemon that is back and the next kill
_GONE_S: Final = (0.0, 0.3)  # between a kill and the start
_PAUSE_LIMIT_S: Final = 120


class Soak:
    """The writers, and what they were told. *longest_s*: of all calls, *longest_call* which it was."""

    def __init__(self, file_system: FileSystem, seed: int) -> None:
        self._file_system = file_system
        self._dice = random.Random(seed)
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        mounts = file_system.mounts
        for number in range(WRITERS):
            mine, its = spawn.Pipe()
            arguments = (mounts[number % len(mounts)], number, seed * 1000 + number, its)
            self._processes.append(spawn.Process(target=work, args=arguments))
            self._pipes.append(mine)
        for process in self._processes:
            process.start()
        self.kills = self.calls = 0
        self.longest_s = 0.0
        self.longest_call = ""

    def kill_one(self) -> None:
        """Kill a daemon under load, and start it again."""
        time.sleep(self._dice.uniform(*_LOAD_S))
        victim = self._dice.randrange(DAEMONS)
        self._file_system.kill_daemon(victim)
        time.sleep(self._dice.uniform(*_GONE_S))
        self._file_system.restart_daemon(victim)
        self.kills += 1

    def check(self) -> None:
        """Pause all writers; AssertionError unless all is there that they were told, without a fault."""
        for pipe in self._pipes:
            pipe.send("what do you know?")
        told: list[Told] = []
        for number, pipe in enumerate(self._pipes):
            assert pipe.poll(_PAUSE_LIMIT_S), f"writer {number} says nothing for {_PAUSE_LIMIT_S} s"
            told.append(pipe.recv())
            assert not told[-1].failure, f"writer {number}: {told[-1].failure}"
        self.calls = sum(one.calls for one in told)
        self.longest_s, self.longest_call = max((one.longest_s, one.longest_call) for one in told)
        for number, one in enumerate(told):
            mounts = self._file_system.mounts
            _assert_same(mounts[(number + 1) % len(mounts)] / f"writer-{number}", one)
        _assert_lines(self._file_system.mounts[0] / SHARED, told)
        problems = self._file_system.problems()
        assert not problems, "\n".join(problems)
        for pipe in self._pipes:
            pipe.send("go on")

    def end(self) -> None:
        """End the writers."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(_PAUSE_LIMIT_S)


def _assert_same(folder: Path, told: Told) -> None:
    found: set[str] = set()
    for top, _, names in os.walk(folder):
        found |= {os.path.relpath(os.path.join(top, name), folder) for name in names}
    assert found == told.files.keys(), f"{folder.name}: {found ^ told.files.keys()}"
    assert set(os.listdir(folder)) == told.folders, folder.name
    for name, data in told.files.items():
        assert (folder / name).read_bytes() == data, f"{folder.name}/{name} is not what was written"


def _assert_lines(path: Path, told: list[Told]) -> None:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, one in enumerate(told):
        mine = [line for line in lines if line.startswith(b"%d " % number)]
        assert mine == one.lines, f"writer {number}: lines lost, doubled or out of order"
    assert len(lines) == sum(len(one.lines) for one in told)


def soak(file_system: FileSystem, kills: int, every: int, seed: int, say: Callable[[str], None] = print) -> Soak:
    """Kill *kills* daemons and check after *every* so many. AssertionError says what was lost, and the seed."""
    one = Soak(file_system, seed)
    try:
        while one.kills < kills:
            one.kill_one()
            if one.kills % every == 0 or one.kills == kills:
                one.check()
                say(f"{one.kills} kills, {one.calls} calls, longest {one.longest_s:.2f} s ({one.longest_call})")
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, after {one.kills} kills: {error}") from error
    finally:
        one.end()
    return one


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--every", type=int, default=1, help="check after so many kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for the file system; kept when something is wrong")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=chosen.folder)) / "gkfs"
    file_system = FileSystem(folder, DAEMONS)
    begun_s = time.monotonic()
    try:
        file_system.start()
        for _ in range(2):
            file_system.mount()
        soak(file_system, chosen.kills, chosen.every, chosen.seed, lambda text: print(text, flush=True))
    finally:
        problems = file_system.close()
        print("\n".join(problems) or f"nothing lost, no fault, {time.monotonic() - begun_s:.0f} s")


if __name__ == "__main__":
    main()
