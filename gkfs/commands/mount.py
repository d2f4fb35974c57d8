"""`gkfs mount`: the file system appears in a folder of this node, served by a process in the background."""

import contextlib
import json
import os
import select
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from click.core import ParameterSource

from gkfs import config, garbage
from gkfs.commands import children, hostfiles, mounts, records
from gkfs.commands.children import Child
from gkfs.commands.daemon import join, set_up_logging
from gkfs.commands.daemon import settings as daemon_settings
from gkfs.commands.features import Wanted, take_wanted
from gkfs.commands.launch import wait_for_daemons
from gkfs.commands.options import chosen_mountdir, mountdir_argument, verb
from gkfs.commands.signals import Signals
from gkfs.config import DEBUG_VARIABLE
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import START_TIMEOUT_S

_EPILOG = """\b
Examples:
  gkfs mount -H hosts /mnt/job
  gkfs mount -H hosts /mnt/job --wait 60        the daemons may still be starting
  srun --ntasks-per-node=1 gkfs mount -H hosts -m /local/job --foreground &
With this node's daemon in the same process, which then needs no messages:
  srun --ntasks-per-node=1 gkfs mount -H hosts -m /local/job --foreground --wait 60 \\
      --with-daemon -r /local/data -n $SLURM_NNODES &
"""
_ANY_LISTEN: Final = "tcp://0.0.0.0:0"
_OF_DAEMON: Final = ("rootdir", "daemons", "capacity", "index", "listen", "advertise")


class Options(NamedTuple):
    """How to mount; None takes the client's default."""

    allow_other: bool
    direct_io: bool
    xattrs: bool
    awake: bool
    write_through: bool
    placement: str
    max_inodes: int
    attr_timeout: float | None
    request_timeout: float | None

    def arguments(self) -> list[str]:
        """The same as arguments of `gkfs mount`."""
        result = [
            f"--{name.replace('_', '-')}"
            for name in ("allow_other", "direct_io", "write_through")
            if getattr(self, name)
        ]
        result += [f"--no-{name}" for name in ("xattrs", "awake") if not getattr(self, name)]
        result += ["--placement", self.placement, "--max-inodes", str(self.max_inodes)]
        for name in ("attr_timeout", "request_timeout"):
            if (seconds := getattr(self, name)) is not None:
                result += [f"--{name.replace('_', '-')}", repr(seconds)]
        return result


class Own(NamedTuple):
    """The daemon in the process of a mount."""

    rootdir: Path
    daemon_index: int
    listen: str = _ANY_LISTEN
    advertise: str | None = None
    wanted: Wanted = Wanted()
    capacity: int | None = None  # bytes

    def arguments(self) -> list[str]:
        """The same as arguments of `gkfs mount`."""
        result = ["--with-daemon", "--rootdir", str(self.rootdir), "--index", str(self.daemon_index)]
        result += ["--listen", self.listen, *(["--advertise", self.advertise] if self.advertise else [])]
        result += ["--capacity", str(self.capacity)] if self.capacity else []
        return [*result, *self.wanted.arguments()]


@verb(
    "mount",
    _EPILOG,
    hostfile={"required": True},
    rootdir={"help": "With --with-daemon: existing folder, as of `gkfs daemon`."},
    daemons={"help": "With --with-daemon: number of daemons; a missing hostfile is made."},
    index={"envvar": ["GKFS_INDEX", "SLURM_PROCID"], "help": "With --with-daemon: which daemon it is, from 0."},
    listen={"help": f"With --with-daemon: address to listen on.  [default: {_ANY_LISTEN}]"},
    checksums={"default": None, "help": "With --with-daemon: as of `gkfs daemon`."},
    sync={"help": "With --with-daemon: what survives a power failure, in a file system that this makes."},
    advertise={"help": "With --with-daemon: host name or address that others reach it at."},
    tls={"default": None, "help": "With --with-daemon: as of `gkfs daemon`."},
)
@mountdir_argument
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--own-log", type=Path, hidden=True)
@click.option("--die-with", type=int, hidden=True)
@click.option("--job", hidden=True)
def mount(
    hostfile: Path,
    target: Path | None,
    mountdir: Path | None,
    foreground: bool,
    log: Path | None,
    wait: float | None,
    ready_fd: int | None,
    own_log: Path | None,
    die_with: int | None,
    job: str | None,
    **options: Any,
) -> None:
    """Mount the file system of HOSTFILE on the empty folder MOUNTDIR.

    Returns when it is usable, or fails with the reason.
    """
    wanted = take_wanted(options)
    own = _own_daemon(hostfile, {key: options.pop(key) for key in ("with_daemon", *_OF_DAEMON)}, wanted)
    how = Options(**options)
    path = chosen_mountdir(target, mountdir)
    if die_with is not None:
        children.die_with_parent(die_with)
    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)  # its end tells of ours, not of a helper's
        _serve(hostfile, path, how, own_log, ready_fd, job, wait or 0.0, own)
        return
    mounts.check_mountable(path)
    mounts.check_fuse()
    if own is None:
        wait_for_daemons(hostfile, wait or 0.0)
    hostfiles.read(hostfile)
    if foreground:
        set_up_logging(log)
        _serve(hostfile, path, how, None, None, job, wait or 0.0, own)
    else:
        with Signals() as signals:
            mount_in_background(hostfile, path, how, log, signals, patience_s=wait or 0.0, own=own)


def _own_daemon(hostfile: Path, chosen: dict[str, Any], wanted: Wanted) -> Own | None:
    """The daemon that is wanted in the same process; a missing hostfile is made. Raises UsageError, GkfsError."""
    context = click.get_current_context()
    if not chosen["with_daemon"]:
        for key in (*_OF_DAEMON, *Wanted._fields):
            if context.get_parameter_source(key) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{key} is for a daemon: --with-daemon is missing", context)
        return None
    rootdir, index = chosen["rootdir"], chosen["index"]
    for key in ("rootdir", "index"):
        if chosen[key] is None:
            raise click.UsageError(f"Missing option '--{key}', which --with-daemon needs.", context)
    join(hostfile, rootdir, index, chosen["daemons"], wanted)
    listen, advertise, capacity = (chosen[key] for key in ("listen", "advertise", "capacity"))
    return Own(rootdir, index, listen or _ANY_LISTEN, advertise, wanted, capacity)


def mount_in_background(
    hostfile: Path,
    mountdir: Path,
    how: Options,
    log: Path | None,
    signals: Signals,
    die_with_us: bool = False,
    job: str | None = None,
    patience_s: float = 0.0,
    own: Own | None = None,
) -> Child:
    """Start the client and return when the mount is usable. Raises GkfsError with its reason, or Interrupted.

    The mount of a *job* says so in the mount table, for those who clean up after it. Daemons that do not answer
    are tried again for *patience_s*. The daemon *own* runs in the client's process.

    After a failure no client is left and nothing is mounted.
    """
    own_log = None if log else records.log_file(mountdir)
    with contextlib.suppress(OSError):
        if own_log:
            own_log.unlink()
    read_end, write_end = os.pipe()
    arguments = [
        "mount",
        "--foreground",
        "--hostfile",
        str(hostfile),
        "--mountdir",
        str(mountdir),
        *how.arguments(),
        *(own.arguments() if own else ()),
    ]
    arguments += ["--job", job] if job else []
    arguments += ["--wait", repr(patience_s)] if patience_s else []
    arguments += ["--ready-fd", str(write_end), *(["--own-log", str(own_log)] if own_log else [])]
    try:
        chosen = own_log or log
        assert chosen is not None
        try:
            child = children.spawn("mount", arguments, chosen, die_with_us=die_with_us, pass_fds=[write_end])
        finally:
            os.close(write_end)
        try:
            _wait_until_ready(child, read_end, mountdir, signals, START_TIMEOUT_S + patience_s)
        except BaseException as error:
            children.end([child])
            if own_log and not (isinstance(error, GkfsError) and error.status is ExitStatus.FAILURE):
                own_log.unlink(missing_ok=True)  # the reason is known without it
            _clean(mountdir)
            raise
    finally:
        os.close(read_end)
    return child


def _wait_until_ready(child: Child, read_end: int, mountdir: Path, signals: Signals, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        signals.pause(deadline_s - time.monotonic(), read_end)
        if not select.select([read_end], [], [], 0)[0]:
            continue
        line = os.read(read_end, 1 << 16)
        if not line:  # it ended without a word through the pipe
            child.process.wait()
            raise child.failure()
        report = json.loads(line)
        if report:
            raise GkfsError(report["message"], ExitStatus(report["status"]))
        return
    raise GkfsError(f"{mountdir} is not mounted after {timeout_s:.0f} s, see {child.log}", ExitStatus.UNREACHABLE)


def _serve(
    hostfile: Path,
    mountdir: Path,
    how: Options,
    own_log: Path | None,
    ready_fd: int | None,
    job: str | None,
    patience_s: float,
    own: Own | None,
) -> None:
    """Serve the mount in this process until it is unmounted; *own_log* is removed after a clean end."""
    from gkfs.client.mount import MountSettings, run_mount  # imports trio and pyfuse3

    if ready_fd is not None:
        set_up_logging()
    optional: dict[str, Any] = {"attr_timeout_s": how.attr_timeout, "request_timeout_s": how.request_timeout}
    settings = MountSettings(
        hostfile,
        mountdir,
        allow_other=how.allow_other,
        direct_io=how.direct_io,
        patience_s=patience_s,
        source=f"gkfs-{job}" if job else "gkfs",
        debug=bool(os.environ.get(DEBUG_VARIABLE)),
        merge=config.merges(os.environ),
        xattrs=how.xattrs,
        awake=how.awake,
        write_through=how.write_through,
        local_placement=how.placement == "local",
        max_inodes=how.max_inodes,
        **{name: value for name, value in optional.items() if value is not None},
    )

    def on_ready() -> None:
        records.write(mountdir, hostfile, own_log)
        _report(ready_fd, {})

    garbage.look_seldom()
    try:
        if own is None:
            run_mount(settings, on_ready)
        else:
            from gkfs.commands.embedded import run_mount_with_daemon  # imports rocksdict, too

            daemon = daemon_settings(
                own.rootdir, hostfile, own.daemon_index, own.listen, own.advertise, own.capacity
            )
            run_mount_with_daemon(settings, daemon, on_ready)
    except GkfsError as error:
        _report(ready_fd, {"status": int(error.status), "message": str(error)})
        raise
    finally:
        record = records.find(mountdir)
        if record is not None and record.pid == os.getpid():
            records.remove(mountdir)
    if own_log is not None:
        own_log.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            own_log.parent.rmdir()


def _report(ready_fd: int | None, report: dict[str, object]) -> None:
    if ready_fd is not None:
        with contextlib.suppress(OSError):  # whoever started us has given up
            os.write(ready_fd, json.dumps(report).encode())


def _clean(mountdir: Path) -> None:
    """After a client that failed: whatever it left in the mount table and among the records."""
    with contextlib.suppress(GkfsError, mounts.Busy):
        found = mounts.locate(mountdir)
        if found is not None and found.fs_type == mounts.FS_TYPE:
            mounts.unmount(found.path, lazy=True)
    records.remove(mountdir)
