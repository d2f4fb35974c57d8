"""Starting all daemons of a file system on this machine, for `gkfs start` and `gkfs run`."""

import time
from pathlib import Path
from typing import NamedTuple

from gkfs.commands import children, hostfiles, rootdirs
from gkfs.commands.children import Child
from gkfs.commands.features import Wanted
from gkfs.commands.signals import Signals, pause_until
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features, Hostfile
from gkfs.limits import POLL_INTERVAL_S, START_TIMEOUT_S
from gkfs.messages import StatusReply

LOCAL_LISTEN = "tcp://127.0.0.1:0"  # what is started on one machine is for that machine unless told otherwise


class Launch(NamedTuple):
    """What to start: *daemon_count* daemons below *rootdir*; the hostfile has its header already."""

    rootdir: Path
    hostfile: Path
    daemon_count: int
    listen: str
    advertise: str | None
    die_with_us: bool
    features: Features
    capacity: int | None = None  # bytes, of each
    logs: Path | None = None  # folder for their messages; None: each daemon's own folder


class Launched(NamedTuple):
    """Daemons that answer; *daemons* by index."""

    hosts: Hostfile
    daemons: list[Child]
    statuses: dict[int, StatusReply]


def launch(plan: Launch, signals: Signals) -> Launched:
    """Start the daemons and return when all answer.

    Raises GkfsError with the reason of the first that cannot start, or UNREACHABLE after START_TIMEOUT_S;
    Interrupted on a signal. Then none of them is left, nor a folder that was made for them.
    """
    daemons: list[Child] = []
    made: list[Path] = []
    try:
        for index in range(plan.daemon_count):
            folder = rootdirs.daemon_folder(plan.rootdir, index)
            if _make(folder):
                made.append(folder)
            daemons.append(_spawn(plan, index, folder))
        hosts, statuses = _wait_until_ready(plan.hostfile, daemons, signals, has_copies=plan.features.replicas > 1)
    except BaseException:
        children.end(daemons)
        for folder in made:
            rootdirs.remove_contents(folder)
        raise
    return Launched(hosts, daemons, statuses)


def listen_of(listen: str, index: int) -> str:
    """The address for daemon *index*: each takes the next port, unless the system is to choose one.

    >>> listen_of("tcp://node1:7000", 2), listen_of("tcp://node1:0", 2)
    ('tcp://node1:7002', 'tcp://node1:0')
    """
    head, _, port = listen.rpartition(":")
    number = int(port) if port.isdecimal() else 0
    return f"{head}:{number + index}" if number else listen


def wait_for_daemons(hostfile: Path, wait_s: float) -> None:
    """Wait at most *wait_s* until *hostfile* is there and names all its daemons; no error when it does not."""
    deadline_s = time.monotonic() + wait_s
    while pause_until(deadline_s):
        try:
            hosts = hostfiles.read_if_there(hostfile)
        except GkfsError:
            continue  # half written, or wrong: whoever needs it will say so
        if hosts is not None and hosts.complete:
            return


def _make(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    except OSError as error:
        raise GkfsError(f"rootdir {folder}: {error.strerror}", ExitStatus.ROOTDIR) from None
    return True


def _spawn(plan: Launch, index: int, folder: Path) -> Child:
    arguments = ["daemon", "--rootdir", str(plan.rootdir), "--hostfile", str(plan.hostfile)]
    arguments += ["--index", str(index), "--listen", listen_of(plan.listen, index)]
    arguments += Wanted.of(plan.features).arguments()
    if plan.advertise:
        arguments += ["--advertise", plan.advertise]
    if plan.capacity:
        arguments += ["--capacity", str(plan.capacity)]
    log = plan.logs / f"daemon-{index}.log" if plan.logs else folder / rootdirs.LOG_NAME
    return children.spawn(f"daemon {index}", arguments, log, die_with_us=plan.die_with_us)


def _wait_until_ready(
    hostfile: Path, daemons: list[Child], signals: Signals, *, has_copies: bool
) -> tuple[Hostfile, dict[int, StatusReply]]:
    from gkfs.commands import control  # imports trio, while the daemons do the same

    deadline_s = time.monotonic() + START_TIMEOUT_S
    silent: dict[int, str] = {}
    while time.monotonic() < deadline_s:
        signals.pause(POLL_INTERVAL_S)
        for daemon in daemons:
            if daemon.ended and not (has_copies and daemon.process.returncode == 0):  # then it was replaced
                raise daemon.failure()
        hosts = hostfiles.read(hostfile)
        silent = {index: f"daemon {index} has not written its line" for index in hosts.missing}
        if hosts.complete:
            outcomes = control.statuses(hosts)
            answers = {index: answer for index, answer in outcomes.items() if not isinstance(answer, GkfsError)}
            if len(answers) == hosts.daemon_count:
                return hosts, answers
            silent = {index: str(answer) for index, answer in outcomes.items() if isinstance(answer, GkfsError)}
    index, reason = min(silent.items())
    raise GkfsError(
        f"not ready after {START_TIMEOUT_S:.0f} s: {reason}, see {daemons[index].log}", ExitStatus.UNREACHABLE
    )
