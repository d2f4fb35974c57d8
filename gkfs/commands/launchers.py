"""Where processes can be started: on this machine, on the nodes of a Slurm job, on a list of hosts.

What starts them differs (srun, ssh, mpirun, nothing); all get the leader's place and key in their environment, and
call it (`gkfs.gang`). Their rank is what their launcher gave them.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from gkfs.commands import children
from gkfs.commands.children import Child
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang import GANG_VARIABLE, Gang
from gkfs.limits import GANG_MEMBERS_MAX

RANK_VARIABLE: Final = "GKFS_RANK"
NODE_VARIABLE: Final = "GKFS_NODE"
RSH_VARIABLE: Final = "GKFS_RSH"  # the command to use for ssh, as RSYNC_RSH is rsync's
# In this order: mpirun may itself be started by srun, and within a batch script, which has a SLURM_PROCID, too.
_RANK_VARIABLES: Final = (RANK_VARIABLE, "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
# Of a job's variables srun takes many for options of its own: what the job script was given is not for our step.
_SLURM_KEPT: Final = frozenset(
    {"SLURM_JOB_ID", "SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CLUSTER_NAME", "SLURM_WORKING_CLUSTER", "SLURM_JWT"}
)
_NOT_FOR_SRUN: Final = ("SLURM", "SRUN", "OMPI_", "PMIX_", "PMI_")
_QUERY_TIMEOUT_S: Final = 30


class Launcher(StrEnum):
    """What starts processes on the nodes."""

    LOCAL = "local"
    SLURM = "slurm"
    SSH = "ssh"
    MPI = "mpi"


class Places(NamedTuple):
    """The nodes of a job; for LOCAL the one host we are on."""

    launcher: Launcher
    hosts: tuple[str, ...]


def find_places(launcher: str, hosts: str | None, environ: Mapping[str, str] = os.environ) -> Places:
    """What *launcher* ("auto" or a Launcher's value) and *hosts* (a list or a file's path) mean here.

    Raises GkfsError (USAGE) when there is no such job or list, FAILURE when Slurm does not say.
    """
    if launcher == "auto":
        in_job = environ.get("SLURM_JOB_ID") and environ.get("SLURM_JOB_NODELIST")
        launcher = Launcher.SLURM if in_job else Launcher.SSH if hosts else Launcher.LOCAL
    kind = Launcher(launcher)
    if kind is Launcher.LOCAL:
        return Places(kind, (socket.gethostname(),))
    if kind is Launcher.SLURM:
        if not environ.get("SLURM_JOB_ID"):
            raise GkfsError("no Slurm job here: SLURM_JOB_ID is not set", ExitStatus.USAGE)
        job = Places(kind, tuple(expand(environ.get("SLURM_JOB_NODELIST", ""), kind)))
        return Places(kind, chosen(hosts, job, "hosts")) if hosts else job
    if not hosts:
        raise GkfsError(
            f"launcher {kind.value} needs --hosts, a list of hosts or a file with one", ExitStatus.USAGE
        )
    return Places(kind, tuple(expand(hosts, kind)))


def expand(hosts: str, launcher: Launcher) -> list[str]:
    """Host names: of ``a,b,c``, of a file with a name on each line, in Slurm also of ``node[1-3]``; each once.

    Raises GkfsError (USAGE).
    """
    if "/" in hosts:
        try:
            names = [line.partition("#")[0].strip() for line in Path(hosts).read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no text"
            raise GkfsError(f"file of hosts {hosts}: {reason}", ExitStatus.USAGE) from None
    elif launcher is Launcher.SLURM:
        names = _ask(["scontrol", "show", "hostnames", hosts]).split()
    else:
        names = [name.strip() for name in hosts.split(",")]
    names = list(dict.fromkeys(name for name in names if name))
    strange = next((name for name in names if name.startswith("-") or set(name) & set(" \t[]*")), None)
    if strange is not None or not names:
        what = f"{strange!r} is no host name" if strange else "no host named"
        raise GkfsError(f"hosts {hosts!r}: {what}", ExitStatus.USAGE)
    if len(names) > GANG_MEMBERS_MAX:
        raise GkfsError(f"{len(names)} hosts, at most {GANG_MEMBERS_MAX} are possible", ExitStatus.USAGE)
    return names


def chosen(hosts: str, places: Places, option: str) -> tuple[str, ...]:
    """Those of *places* that *hosts* names. Raises GkfsError (USAGE) when it names another."""
    names = expand(hosts, places.launcher)
    for name in names:
        if name not in places.hosts:
            raise GkfsError(
                f"--{option}: {name} is none of the {len(places.hosts)} nodes, {_shown(places.hosts)}",
                ExitStatus.USAGE,
            )
    return tuple(name for name in places.hosts if name in names)


def launch_members(
    where: Places, arguments: Sequence[str], gang: Gang, log: Path, per_host: int = 1
) -> list[Child]:
    """Start `gkfs` *arguments*, *per_host* times on every host, as members of *gang*; their messages go to *log*.

    Raises GkfsError when what starts them is missing.
    """
    command = [sys.executable, "-m", "gkfs", *arguments]
    environment = children.environment() | gang.environment
    if where.launcher is Launcher.LOCAL:
        return [
            children.start(f"member {rank}", command, log, environment | {RANK_VARIABLE: str(rank)})
            for rank in range(per_host)
        ]
    if where.launcher is Launcher.SSH:
        ranks = range(len(where.hosts) * per_host)
        return [_ssh(where.hosts[rank // per_host], rank, command, environment, log) for rank in ranks]
    if where.launcher is Launcher.SLURM:
        kept = {key: value for key, value in environment.items() if not key.startswith(_NOT_FOR_SRUN)}
        kept |= {key: value for key, value in os.environ.items() if key in _SLURM_KEPT}
        return [children.start("srun", [*_srun(where, per_host), *command], log, kept)]
    return [children.start("mpirun", [*_mpirun(where, per_host, environment), *command], log, environment)]


def let_members_outlive(launcher: Child) -> None:
    """Keep srun's death from being its members': they notice ours, and clean up before they end.

    srun has a child that kills the whole step, with SIGKILL, when srun dies. At the end of a job that does not
    stop its file system Slurm kills srun and this child one after the other, and sometimes the child is faster.
    """
    if launcher.name != "srun":
        return
    for children_file in Path(f"/proc/{launcher.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended, or the kernel does not tell
            for pid in children_file.read_text().split():
                os.kill(int(pid), signal.SIGKILL)


def own_rank(environ: Mapping[str, str] = os.environ) -> int:
    """The rank of this process in its gang. Raises GkfsError (USAGE) when nothing says so."""
    for variable in _RANK_VARIABLES:
        if environ.get(variable, "").isdecimal():
            return int(environ[variable])
    raise GkfsError(f"no rank: none of {', '.join(_RANK_VARIABLES)} is set", ExitStatus.USAGE)


def own_name(environ: Mapping[str, str] = os.environ) -> str:
    """What the launcher calls this node."""
    return environ.get(NODE_VARIABLE) or environ.get("SLURMD_NODENAME") or socket.gethostname()


def _srun(where: Places, per_host: int) -> list[str]:
    count = len(where.hosts)
    return [
        _program("srun"),
        f"--nodes={count}",
        f"--ntasks={count * per_host}",
        f"--ntasks-per-node={per_host}",
        f"--nodelist={','.join(where.hosts)}",
        "--job-name=gkfs",
        "--overlap",  # beside the steps of the job, taking nothing from them
        "--overcommit",  # a job with one processor on a node may have several of us there
        "--cpu-bind=none",
        "--mem=0",
        "--gres=none",
        "--mpi=none",
        "--export=ALL",
        "--input=none",
        "--kill-on-bad-exit=0",  # one node's fault is ours to report
        "--no-kill",
        "--wait=0",
    ]


def _ssh(host: str, rank: int, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
    """The key goes through standard input: command lines can be read by everybody."""
    exported = {RANK_VARIABLE: str(rank), NODE_VARIABLE: host}
    if "PYTHONPATH" in environment:
        exported["PYTHONPATH"] = environment["PYTHONPATH"]
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in exported.items())
    script = f"read -r {GANG_VARIABLE} && export {GANG_VARIABLE} {assignments} && exec {shlex.join(command)}"
    rsh = shlex.split(os.environ.get(RSH_VARIABLE) or "ssh -o BatchMode=yes -o ConnectTimeout=10")
    remote = [_program(rsh[0]), *rsh[1:], host, f"exec sh -c {shlex.quote(script)}"]
    own = {key: value for key, value in environment.items() if key != GANG_VARIABLE}
    return children.start(f"ssh to {host}", remote, log, own, say=f"{environment[GANG_VARIABLE]}\n".encode())


def _mpirun(where: Places, per_host: int, environment: Mapping[str, str]) -> list[str]:
    program = _program("mpirun")
    count = len(where.hosts) * per_host
    if "Open MPI" not in _ask([program, "--version"]):  # MPICH's and Intel's take these
        return [program, "-hosts", ",".join(where.hosts), "-n", str(count), "-ppn", str(per_host), "-genvall"]
    hosts = ",".join(f"{host}:{per_host}" for host in where.hosts)
    result = [program, "--host", hosts, "-n", str(count), "--map-by", f"ppr:{per_host}:node", "--bind-to", "none"]
    for variable in (GANG_VARIABLE, "PYTHONPATH"):
        if variable in environment:
            result += ["-x", variable]
    return [*result, *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise GkfsError(f"{name} is not in PATH")
    return path


def _ask(command: list[str]) -> str:
    """What *command* prints. Raises GkfsError."""
    try:
        done = subprocess.run(
            [_program(command[0]), *command[1:]],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_QUERY_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GkfsError(f"{' '.join(command[:3])} did not end within {_QUERY_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise GkfsError(f"{' '.join(command[:4])} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _shown(hosts: Sequence[str]) -> str:
    return ", ".join(hosts[:4]) + (", ..." if len(hosts) > 4 else "")
