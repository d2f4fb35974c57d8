"""A Slurm cluster on this machine (deploy/cluster), for tests.

Every node has its own host name, address, mounts, processes, `/tmp` and `/mnt/local`, its SSD. What is in
`SlurmCluster.shared` here is `/mnt/shared` on all nodes, the parallel file system. The checkout and this Python's
packages are on all nodes, too, in `/mnt/software`, and `gkfs` is in the PATH: `up` binds them there, so that
folders above them may be private, and copies what ordinary users could not read.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tests.slurm import node_leftovers

SCRIPTS: Final = Path(__file__).parents[2] / "deploy" / "cluster"
SHARED: Final = Path("/mnt/shared")  # on the nodes
LIMIT_S: Final = 150.0  # far above what any job here takes, also on a busy machine
USERS: Final = {"hpc": 20001, "hpc2": 20002}  # as deploy/cluster/lib.sh has them
_ENDED: Final = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
}


class NotHereError(Exception):
    """No cluster can be made on this machine; the message says why."""


class Result(NamedTuple):
    """How a job ended."""

    output: str  # of the batch script and its steps, both streams
    state: str  # Slurm's: COMPLETED, FAILED, CANCELLED, TIMEOUT...
    status: int  # exit status of the batch script
    job: int


class SlurmCluster:
    """A cluster of *nodes* nodes, in a new folder; the caller ends it with `close`."""

    def __init__(self, nodes: int, config: Path | None = None) -> None:
        """*config*: files for the cluster's /etc/slurm, see `up -e`. Raises NotHereError."""
        if not shutil.which("slurmctld"):
            raise NotHereError("Slurm is not installed; deploy/test installs it")
        self.names = [f"node{k}" for k in range(1, nodes + 1)]
        self.folder = Path(tempfile.mkdtemp(prefix="gkfs-slurm-"))
        self.shared = self.folder / "shared"
        self._numbers = itertools.count()
        self._config = config
        try:
            self._up()
        except BaseException:
            self.close()
            raise

    def _up(self) -> None:
        options = ["-o", str(os.getpid()), "-v", sys.prefix]
        if self._config:
            options += ["-e", str(self._config)]
        up: list[str | Path] = [SCRIPTS / "up", *options, str(len(self.names)), self.folder]
        done = subprocess.run(up, capture_output=True, text=True, timeout=300)
        if done.returncode == 4:
            raise NotHereError(done.stderr.strip())
        if done.returncode:
            raise RuntimeError(f"the cluster does not come up: {done.stdout}{done.stderr}")

    def close(self) -> None:
        """End it and remove its folder, with everything that any node has."""
        subprocess.run([SCRIPTS / "down", "-r", self.folder], check=True, timeout=120)
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        """A new cluster in place of this one; its shared folder stays."""
        subprocess.run([SCRIPTS / "down", self.folder], check=True, timeout=120)
        self._up()

    # --- running ---

    def on(
        self, node: int | str, *command: str | Path, user: str = "root", timeout_s: float = LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node (0 or "ctl": where jobs are submitted), in none of its jobs."""
        words: list[str | Path] = [SCRIPTS / "on", "-u", user, "-d", self.folder, str(node)]
        # The time limit is inside: killing what runs here would leave the command running there.
        words += ["timeout", "--kill-after=5", str(timeout_s), *command]
        return subprocess.run(
            words, capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL, timeout=timeout_s + 20
        )

    def run(
        self, script: str, user: str = "hpc", nodes: int | Iterable[str] | None = None, timeout_s: float = LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a bash script in a job, once on each of *nodes* (a number, names; None: all), by srun from ctl."""
        if nodes is None:
            nodes = len(self.names)
        where = [f"-N{nodes}"] if isinstance(nodes, int) else [f"-w{','.join(nodes)}"]
        return self.on(
            0, "srun", *where, "--ntasks-per-node=1", "bash", "-euc", script, user=user, timeout_s=timeout_s
        )

    def new_folder(self, user: str = "hpc") -> Path:
        """An empty folder in `shared`, the user's; on the nodes it is SHARED / its name."""
        folder = self.shared / f"job-{next(self._numbers)}"
        folder.mkdir(mode=0o755)
        os.chown(folder, USERS[user], USERS[user])
        return folder

    def submit(self, text: str, *options: str, user: str = "hpc", arguments: Iterable[str] = ()) -> "Job":
        """Hand a batch script to Slurm; it runs in an empty folder of `shared`, `Job.folder`."""
        folder = self.new_folder(user)
        inside = SHARED / folder.name
        (folder / "job.sh").write_text(text if text.startswith("#!") else f"#!/bin/bash\n{text}")
        words = ["sbatch", "--parsable", f"--chdir={inside}", f"--output={inside}/output", *options]
        done = self.on(0, *words, inside / "job.sh", *arguments, user=user)
        if done.returncode:
            raise RuntimeError(f"sbatch: {done.stderr}")
        return Job(self, int(done.stdout), folder)

    def sbatch(self, text: str, *options: str, user: str = "hpc", timeout_s: float = LIMIT_S) -> Result:
        """Run a batch script to its end."""
        return self.submit(text, *options, user=user).wait(timeout_s)

    # --- looking ---

    def job_field(self, job: int, field: str) -> str:
        """What `scontrol show job` says, for instance of JobState."""
        shown = self.on(0, "scontrol", "show", "job", str(job))
        found = re.search(rf"\b{field}=(\S+)", shown.stdout)
        return found[1] if found else f"unknown: {shown.stderr}"

    def trouble(self) -> list[str]:
        """Nodes that do not become idle within a minute, with Slurm's reason; drained, for instance."""
        until(lambda: not self._busy(), 60)
        return self._busy()

    def _busy(self) -> list[str]:
        lines = self.on(0, "sinfo", "-h", "-N", "-O", "NodeList:12,StateLong:24,Reason:80").stdout.splitlines()
        good = [line for line in lines if re.fullmatch(r"node\d+ +idle +none *", line)]
        return [] if len(good) == len(self.names) else sorted(set(lines) - set(good)) or ["no answer of Slurm's"]

    def leftovers(self) -> list[str]:
        """What of any gkfs is on any node, one line each: processes, mounts, sockets, files."""
        program = Path(node_leftovers.__file__).read_text()
        found = []
        for name in ["ctl", *self.names]:
            done = self.on(name, "/usr/bin/python3", "-c", program)
            if done.returncode:
                raise RuntimeError(f"{name}: {done.stderr}")
            found += [f"{name}: {line}" for line in done.stdout.splitlines()]
        return found


class Job:
    """A batch job that was submitted."""

    def __init__(self, cluster: SlurmCluster, number: int, folder: Path) -> None:
        self.cluster = cluster
        self.number = number
        self.folder = folder  # its working directory, as this machine sees it

    @property
    def state(self) -> str:
        """Slurm's word for what it is doing."""
        return self.cluster.job_field(self.number, "JobState")

    @property
    def output(self) -> str:
        """What it has written so far."""
        file = self.folder / "output"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait(self, timeout_s: float = LIMIT_S) -> Result:
        """Wait until it has ended; raises TimeoutError, after cancelling it."""
        if not until(lambda: self.state in _ENDED, timeout_s):
            self.cancel()
            raise TimeoutError(f"job {self.number} is {self.state} after {timeout_s} s:\n{self.output}")
        status = self.cluster.job_field(self.number, "ExitCode").partition(":")[0]
        return Result(self.output, self.state, int(status), self.number)

    def wait_for(self, text: str, timeout_s: float = LIMIT_S) -> None:
        """Wait until its output has *text*; raises TimeoutError, after cancelling it, also if it ends without."""
        until(lambda: text in self.output or self.state in _ENDED, timeout_s)
        if text not in self.output:
            self.cancel()
            raise TimeoutError(f"job {self.number} is {self.state} and has not said {text!r}:\n{self.output}")

    def cancel(self, *options: str) -> None:
        """Call scancel."""
        self.cluster.on(0, "scancel", *options, str(self.number))


def until(what: Callable[[], object], timeout_s: float) -> bool:
    """Ask until *what* holds; whether it did within the time.

    Between two questions is twice the time that one takes, so that asking does not keep the machine busy.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        asked_s = time.monotonic()
        if what():
            return True
        now_s = time.monotonic()
        if now_s > deadline_s:
            return False
        time.sleep(max(0.1, 2 * (now_s - asked_s)))
