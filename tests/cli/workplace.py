"""A folder with everything that one test of the command line needs, and nothing of it left afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import program
from gkfs.commands import mounts

# Far above what anything takes: on a busy machine only what hangs reaches it.
TIMEOUT_S: Final = 100.0


class Done(NamedTuple):
    """A finished `gkfs`."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Workplace:
    """Paths in *folder*, and `gkfs` run with temporary and runtime folders in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.hosts = folder / "hosts"
        self.mnt = folder / "mnt"
        self.temporary = folder / "tmp"
        self.runtime = folder / "run"
        for path in (self.root, self.mnt, self.temporary, self.runtime):
            path.mkdir(mode=0o700)
        self._started: list[subprocess.Popen[str]] = []
        self.environment = os.environ | {"TMPDIR": str(self.temporary), "XDG_RUNTIME_DIR": str(self.runtime)}

    def gkfs(self, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
        """Run `gkfs` to its end."""
        process = self.start(arguments, env=env, cwd=cwd)
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
        return Done(process.returncode, out, err)

    def ok(self, *arguments: str | Path) -> Done:
        """Run `gkfs`, which must succeed and have nothing to complain of."""
        done = self.gkfs(*arguments)
        assert (done.status, done.err) == (0, ""), done
        return done

    def start(
        self, arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> "subprocess.Popen[str]":
        """Start `gkfs` and leave it running."""
        process = subprocess.Popen(
            [sys.executable, "-m", "gkfs", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | dict(env or {}) | program.ENVIRONMENT,
            cwd=cwd,
        )
        self._started.append(process)
        return process

    def fails(self, status: int, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run `gkfs`, which must end with *status* and one line on stderr; that line."""
        done = self.gkfs(*arguments, env=env)
        lines = done.err.splitlines()
        assert done.status == status, done
        assert len(lines) == 1, done
        assert lines[0].startswith("gkfs: "), done
        assert not lines[0].startswith("gkfs: unexpected"), done
        return lines[0]

    def start_daemons(self, count: int = 1) -> Any:
        """`gkfs start` here; what it says as JSON."""
        return self.ok("start", "-r", self.root, "-H", self.hosts, "-n", str(count), "--json").json

    def mounted(self, path: Path | None = None) -> bool:
        """Whether a gkfs is mounted there."""
        return any(
            mount.path == (path or self.mnt) and mount.fs_type == mounts.FS_TYPE for mount in mounts.table()
        )

    def processes(self) -> dict[int, str]:
        """Every process that has this folder in its arguments or environment."""
        mark, found = os.fsencode(self.folder), {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (process / "cmdline").read_bytes()
                if arguments and (mark in arguments or mark in (process / "environ").read_bytes()):
                    found[int(process.name)] = arguments.replace(b"\0", b" ").decode(errors="replace")
        return found

    def leftovers(self) -> list[str]:
        """Mounts, processes and temporary files that should be gone."""
        left = [f"mount {mount.path}" for mount in mounts.table() if self.folder in mount.path.parents]
        left += [f"process {pid} {name}" for pid, name in self.processes().items()]
        return left + [str(path) for path in (*self.temporary.iterdir(), *self.runtime.iterdir())]

    def clear(self) -> None:
        """End and unmount whatever a test left."""
        for mount in list(mounts.table()):
            if self.folder in mount.path.parents:
                mounts.unmount(mount.path, lazy=True)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.kill()
            if process.stdout is not None and not process.stdout.closed:
                process.communicate()


def eventually(holds: Callable[[], object], what: str, within_s: float = TIMEOUT_S) -> None:
    """Wait until *holds*; an AssertionError naming *what* when it does not."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def shown(secret: str, folder: Path) -> list[str]:
    """Where *secret* can be seen: command lines and environments of all processes, files in *folder*."""
    places = [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ"), *folder.rglob("*")]
    found = []
    for place in places:
        try:
            if place.is_file() and secret.encode() in place.read_bytes():
                found.append(str(place))
        except OSError:
            continue
    return found
