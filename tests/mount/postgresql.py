"""A PostgreSQL server of a test: its own data directory and socket, not root's, ended in any case.

Not the service of the machine: that one, if there is any, is left alone.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.mount.file_system import is_alive, wait_until
from tests.mount.programs import run

USER: Final = 65534  # nobody: the server refuses to run as root
_START_LIMIT_S: Final = 60
# Small, so that pages and logs come and go; nothing about syncing is left out.
_SETTINGS: Final = {
    "listen_addresses": "",
    "shared_buffers": "4MB",
    "max_wal_size": "8MB",
    "min_wal_size": "2MB",
    "checkpoint_warning": "0",
}


class Run(NamedTuple):
    """What `pgbench` says of a run that may have been broken off."""

    clients: int
    committed: int


def find_programs() -> Path:
    """The folder of the server's programs; the test is skipped when there is none."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    for folder in reversed(folders):
        if (folder / "initdb").exists() and (folder / "pgbench").exists():
            return folder
    found = shutil.which("initdb")
    if found is None or not Path(found).with_name("pgbench").exists():
        pytest.skip("not installed: PostgreSQL's server and pgbench (postgresql)")
    return Path(found).parent


class Server:
    """A server with its data in *data*; sockets and logs are in *local*, on the local disk."""

    def __init__(self, data: Path, local: Path) -> None:
        self.data = data
        self.local = local
        self._programs = find_programs()
        self._process: subprocess.Popen[bytes] | None = None

    def program(self, name: str, *arguments: str | Path) -> str:
        """Run one of PostgreSQL's programs as the server's user; what it printed."""
        return run(self._programs / name, *arguments, cwd=Path("/"), env=self._environment(), user=USER)

    def sql(self, *statements: str) -> str:
        """Execute *statements* one by one; their rows as `psql` prints them."""
        commands = [part for statement in statements for part in ("-c", statement)]
        return self.program("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *commands).strip()

    def _environment(self) -> dict[str, str]:
        return {"HOME": str(self.local), "PGHOST": str(self.local), "PGUSER": "postgres", "PGDATABASE": "postgres"}

    def create(self) -> None:
        """Make the data directory, with checksums, and logs of 1 MiB."""
        options = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-k", "--wal-segsize=1")
        self.program("initdb", *options, "-D", self.data)

    def start(self) -> None:
        """Start the server; it answers when this returns."""
        options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with open(self.local / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.data, "-k", self.local, *options],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=USER,
                group=USER,
                extra_groups=[],
            )
        wait_until(self._answers, "PostgreSQL answers", _START_LIMIT_S, every_s=0.1)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"PostgreSQL has ended:\n{self.log()[-3000:]}"
        command: list[str | Path] = [self._programs / "pg_isready", "-q", "-h", self.local]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self) -> None:
        """End it in the ordinary way: connections are closed, everything is written."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(_START_LIMIT_S) == 0, self.log()[-3000:]
        self._process = None

    def kill(self) -> None:
        """End it and all its processes as the death of a node does: SIGKILL."""
        assert self._process is not None
        pids = [self._process.pid, *_children_of(self._process.pid)]
        segments = set[Path]().union(*map(_segments_of, pids))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        wait_until(lambda: not any(map(is_alive, pids)), "all processes of PostgreSQL are dead")
        for segment in segments:  # which a node loses with its memory
            segment.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave nothing behind, whatever became of the test."""
        if self._process is not None:  # the test has failed
            print(self.log()[-3000:], file=sys.stderr)
            if self._process.poll() is None:
                self.kill()

    def log(self) -> str:
        """What the server has said."""
        return (self.local / "log").read_text(errors="replace")

    def bench(self, clients: int, seconds: float) -> Run:
        """Run the transactions of pgbench for so long."""
        return _run_of(clients, self.program("pgbench", "-n", "-c", f"{clients}", "-T", f"{seconds}"))

    def bench_until_killed(self, clients: int) -> subprocess.Popen[bytes]:
        """Start the transactions of pgbench, to be ended by the death of the server; see `broken_off`."""
        return subprocess.Popen(
            [self._programs / "pgbench", "-n", "-c", f"{clients}", "-T", "60"],
            cwd="/",
            env=os.environ | self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def broken_off(clients: int, bench: subprocess.Popen[bytes]) -> Run:
    """The run that lost its server."""
    output, errors = bench.communicate(timeout=_START_LIMIT_S)
    assert bench.returncode != 0, "pgbench did not notice that the server was killed"
    return _run_of(clients, output.decode() + errors.decode())


def _segments_of(pid: int) -> set[Path]:
    """The shared memory with a name that a process has."""
    try:
        places = [line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return set()
    return {Path(place) for place in places if place.startswith("/dev/shm/PostgreSQL.")}


def _run_of(clients: int, output: str) -> Run:
    found = re.search(r"transactions actually processed: (\d+)", output)
    assert found is not None, output
    return Run(clients, int(found[1]))


def _children_of(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
