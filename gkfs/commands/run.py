"""`gkfs run`: a file system for one command, gone when the command ends."""

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from gkfs.commands import children, hostfiles, mounts, rootdirs, terminal
from gkfs.commands.children import Child
from gkfs.commands.features import Wanted, take_wanted
from gkfs.commands.foreground import PASSED_ON, Command
from gkfs.commands.launch import LOCAL_LISTEN, Launch, launch
from gkfs.commands.launchers import Launcher
from gkfs.commands.leader import Leader, Wishes
from gkfs.commands.mount import Options, Own, mount_in_background
from gkfs.commands.options import verb
from gkfs.commands.signals import Signals
from gkfs.commands.wishes import take_spread
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features
from gkfs.keyfile import Key
from gkfs.limits import RUN_GRACE_S

_FOLDER_PREFIX: Final = "gkfs-run-"
_EPILOG = """\b
Examples:
  gkfs run -m /tmp/fast -- make -C /tmp/fast
  gkfs run -m /mnt/job -n 2 -r /local/ssd -- sh -c 'cp input/* "$GKFS_MOUNTDIR" && ./solve'
In a Slurm job, a file system of all its nodes while COMMAND runs on this one:
  gkfs run -- sh -c 'cd "$GKFS_MOUNTDIR" && srun ./solve'
Exit status: that of COMMAND, 128+N when signal N killed it; 125 when gkfs itself
failed, 126 when COMMAND cannot be executed, 127 when it is not found.
"""


@verb(
    "run",
    _EPILOG,
    rootdir={"help": "Existing folder for the data.  [default: a temporary one in $TMPDIR; in a job: searched]"},
    mountdir={
        "help": "Folder the file system appears in; made and removed if missing.  "
        "[default in a job: /tmp/gkfs-UID/JOB/mnt]",
    },
    listen={"help": "Address of the first daemon; the others take the next ports.  [default: any port]"},
    log={"help": "File for what daemons and mount have to say; kept."},
    grace={"default": RUN_GRACE_S},
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    rootdir: Path | None,
    mountdir: Path | None,
    daemons: int | None,
    listen: str | None,
    capacity: int | None,
    log: Path | None,
    grace: float,
    separate_daemon: bool,
    command: tuple[str, ...],
    **options: Any,
) -> None:
    """Start daemons, mount, run COMMAND, and clean up.

    COMMAND finds the mount in $GKFS_MOUNTDIR and the hostfile in $GKFS_HOSTFILE. Signals are passed on to it.
    One daemon runs in the process of the mount, several in processes of their own.
    """
    if not command[0]:
        raise click.UsageError("COMMAND is an empty word", click.get_current_context())
    spread = take_spread(options)
    places = spread.places()
    features = take_wanted(options).fresh()
    how = Options(**options)
    with Signals(*PASSED_ON, signal.SIGCHLD) as signals, contextlib.ExitStack() as undo:
        if places.launcher is not Launcher.LOCAL:
            wishes = spread.wishes(places, rootdir, mountdir, daemons, listen, how, log, features, capacity)
            status = _run_in_job(wishes, command, grace, signals)
        elif mountdir is None:
            raise click.UsageError(
                "Missing option '--mountdir' (there is no job here).", click.get_current_context()
            )
        else:
            embedded = daemons in (None, 1) and not separate_daemon
            listen = listen or LOCAL_LISTEN
            plan = _Plan(rootdir, mountdir, daemons or 1, listen, log, how, embedded, features, capacity)
            mounted = _set_up(plan, signals, undo)
            signals.pause(0)
            status = mounted.run(command, grace, signals)
    raise click.exceptions.Exit(status)


def _run_in_job(wishes: Wishes, command: Sequence[str], grace_s: float, signals: Signals) -> int:
    leader = Leader(wishes, signals)
    leader.start()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            for warning in leader.stop():
                terminal.warn(warning)

    def watch() -> None:
        if not stopped and leader.watch():
            stop()  # COMMAND wants it: `gkfs stop`

    try:
        return Command(command, os.environ | leader.job.environment()).wait(
            grace_s, signals, watch, leader.fileno()
        )
    finally:
        stop()
        leader.close()


class _Plan(NamedTuple):
    rootdir: Path | None
    mountdir: Path
    daemons: int
    listen: str
    log: Path | None
    how: Options
    embedded: bool  # the one daemon runs in the mount's process
    features: Features
    capacity: int | None  # bytes, of each daemon


def _set_up(plan: _Plan, signals: Signals, undo: contextlib.ExitStack) -> "_Mounted":
    """Start daemons and mount; *undo* takes what ends and removes it all again, in the opposite order."""
    mounts.check_fuse()
    undo.enter_context(mounts.prepared(plan.mountdir))
    if plan.rootdir is not None:
        _check_empty(plan.rootdir)
    folder = undo.enter_context(_temporary_folder())
    if plan.log is not None:
        undo.callback(_keep_logs, folder, plan.log)
    rootdir, hostfile = plan.rootdir or folder, folder / "hosts"
    hostfiles.create(hostfile, hostfiles.new_fsid(), plan.daemons, Key.fresh(), plan.features)
    undo.callback(_remove_data, rootdir, plan.daemons)
    daemons: list[Child] = []
    own = None
    if plan.embedded:
        own = Own(rootdir, 0, plan.listen, wanted=Wanted.of(plan.features), capacity=plan.capacity)
        rootdirs.daemon_folder(rootdir, 0).mkdir(mode=0o700, exist_ok=True)
    else:
        count, listen, features = plan.daemons, plan.listen, plan.features
        wanted = Launch(rootdir, hostfile, count, listen, None, True, features, plan.capacity, folder)
        launched = launch(wanted, signals)
        daemons = launched.daemons
        undo.callback(children.end, daemons)
    log = folder / "mount.log"
    client = mount_in_background(hostfile, plan.mountdir, plan.how, log, signals, die_with_us=True, own=own)
    mounted = _Mounted(plan.mountdir, hostfile, client, daemons)
    undo.callback(mounted.unmount)
    return mounted


class _Mounted:
    """The file system while COMMAND runs on it, and its end."""

    def __init__(self, mountdir: Path, hostfile: Path, client: Child, daemons: list[Child]) -> None:
        self._mountdir = mountdir
        self._hostfile = hostfile
        self._client = client
        self._daemons = daemons
        self._reported: set[int] = set()
        self._command: Command | None = None

    def run(self, command: Sequence[str], grace_s: float, signals: Signals) -> int:
        """Run *command* to its end; its exit status."""
        places = {"GKFS_MOUNTDIR": str(self._mountdir), "GKFS_HOSTFILE": str(self._hostfile)}
        self._command = Command(command, os.environ | places)
        return self._command.wait(grace_s, signals, self._watch)

    def unmount(self) -> None:
        """Unmount, ending what keeps the mount busy: first what COMMAND left running, then the client."""
        make_room = self._command.end_group if self._command is not None else None
        for warning in mounts.end(self._mountdir, self._client, make_room):
            terminal.warn(warning)

    def _watch(self) -> None:
        """Say once of each daemon and of the client that it ended; COMMAND goes on and gets errors."""
        for child in [self._client, *self._daemons]:
            if child.ended and child.pid not in self._reported:
                self._reported.add(child.pid)
                terminal.warn(f"{child.failure()}; calls on {self._mountdir} fail from now on")


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for hostfile, logs and, without -r, the data; removes those of runs that were killed, too."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
        lock = os.open(folder / "lock.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(folder / "lock.new", folder / "lock")
    except OSError as error:
        raise GkfsError(f"no temporary folder can be made: {error.strerror}") from None
    try:
        _sweep(folder.parent)
        yield folder
    finally:
        os.close(lock)
        _removing(folder, lambda: shutil.rmtree(folder))


def _sweep(parent: Path) -> None:
    """Remove what killed runs of this user left: their lock is free, and no daemon of theirs runs any more."""
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            with (folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not any(rootdirs.holder(daemon) is not None for daemon in rootdirs.existing_daemons(folder)):
                    shutil.rmtree(folder)


def _check_empty(rootdir: Path) -> None:
    rootdirs.check_usable(rootdir)
    found = rootdirs.existing_daemons(rootdir)
    if found:
        raise GkfsError(f"rootdir {rootdir} holds a file system already: {found[0].name}", ExitStatus.ROOTDIR)


def _remove_data(rootdir: Path, daemons: int) -> None:
    for index in range(daemons):
        folder = rootdirs.daemon_folder(rootdir, index)
        try:
            rootdirs.remove_contents(folder)
        except GkfsError as error:
            terminal.warn(str(error))


def _keep_logs(folder: Path, log: Path) -> None:
    try:
        with log.open("ab") as kept:
            for path in sorted(folder.glob("*.log")):
                kept.write(path.read_bytes())
    except OSError as error:
        terminal.warn(f"log {log}: {error.strerror}")


def _removing(path: Path, remove: Callable[[], None]) -> None:
    try:
        remove()
    except OSError as error:
        terminal.warn(f"cannot remove {path}: {error.strerror}")
