"""mount and umount: real mounts."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import program
from gkfs.commands import mounts
from gkfs.errors import ExitStatus, GkfsError
from tests.cli.workplace import TIMEOUT_S, Workplace, eventually
from tests.users import as_other_user

pytestmark = pytest.mark.usefixtures("fuse")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")


@pytest.fixture
def daemons(workplace: Workplace) -> Iterator[list[dict[str, Any]]]:
    """Two running daemons, stopped at the end."""
    yield workplace.start_daemons(2)["daemons"]
    workplace.gkfs("stop", "-H", workplace.hosts)


def client_of(workplace: Workplace) -> int:
    (record,) = (workplace.runtime / "gkfs").glob("*.json")
    return int(json.loads(record.read_text())["pid"])


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    (caught,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
    )
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def mount(workplace: Workplace, *options: str | Path) -> int:
    """Mount on workplace.mnt; the client's process id."""
    workplace.ok("mount", "-H", workplace.hosts, *options, workplace.mnt)
    return client_of(workplace)


@contextlib.contextmanager
def held_open(path: Path) -> Iterator[None]:
    """*path* is open in this process, whatever becomes of the mount."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


@pytest.mark.usefixtures("daemons")
def test_a_mount_is_usable_when_mount_returns_and_gone_when_umount_does(workplace: Workplace) -> None:
    client = mount(workplace)
    (workplace.mnt / "file").write_text("text")
    assert (workplace.mnt / "file").read_text() == "text"
    assert os.getsid(client) == client
    workplace.ok("umount", workplace.mnt)
    assert not workplace.mounted()
    assert client not in workplace.processes()
    assert list(workplace.runtime.iterdir()) == []


@pytest.mark.usefixtures("daemons")
def test_mountdir_may_be_option_variable_or_relative(workplace: Workplace) -> None:
    workplace.ok("mount", "-H", workplace.hosts, "-m", workplace.mnt)
    assert workplace.gkfs("umount", env={"GKFS_MOUNTDIR": str(workplace.mnt)}).status == 0
    done = workplace.gkfs("mount", "-H", "hosts", "mnt", cwd=workplace.folder)
    assert done.status == 0
    link = workplace.folder / "link"
    link.symlink_to(workplace.mnt)
    workplace.ok("umount", link)
    assert not workplace.mounted()


@pytest.mark.usefixtures("daemons")
def test_two_mounts_of_one_file_system_show_the_same(workplace: Workplace) -> None:
    second = workplace.folder / "mnt-2"
    second.mkdir()
    mount(workplace)
    workplace.ok("mount", "-H", workplace.hosts, second, "--direct-io", "--attr-timeout", "0.5")
    (workplace.mnt / "file").write_text("text")
    assert (second / "file").read_text() == "text"
    workplace.ok("umount", workplace.mnt)
    assert workplace.mounted(second)
    workplace.ok("umount", second)


@pytest.mark.usefixtures("daemons")
def test_a_wrong_mountdir_is_named(workplace: Workplace) -> None:
    file = workplace.folder / "file"
    file.touch()
    wrong = [
        (workplace.folder / "none", "does not exist"),
        (file, "is not a directory"),
        (workplace.folder, "is not empty"),
    ]
    for path, fact in wrong:
        assert fact in workplace.fails(4, "mount", "-H", workplace.hosts, path)
    mount(workplace)
    assert "already mounted" in workplace.fails(4, "mount", "-H", workplace.hosts, workplace.mnt)
    workplace.ok("umount", workplace.mnt)


def test_a_wrong_hostfile_is_named(workplace: Workplace) -> None:
    assert "No such file" in workplace.fails(5, "mount", "-H", workplace.hosts, workplace.mnt)
    assert "line 1" in workplace.fails(5, "mount", "-H", "/etc/passwd", workplace.mnt)
    assert not workplace.mounted()


def test_a_dead_daemon_is_named(workplace: Workplace, daemons: list[dict[str, Any]]) -> None:
    os.kill(daemons[1]["pid"], signal.SIGKILL)
    eventually(lambda: daemons[1]["pid"] not in workplace.processes(), "daemon 1 is gone")
    assert "daemon 1 (" in workplace.fails(6, "mount", "-H", workplace.hosts, workplace.mnt)
    assert not workplace.mounted()
    assert list(workplace.runtime.rglob("mount-*")) == []


@pytest.mark.usefixtures("daemons")
def test_a_dead_mount_is_named_and_healed_by_umount(workplace: Workplace) -> None:
    client = mount(workplace)
    with held_open(workplace.mnt / "held"):
        os.kill(client, signal.SIGKILL)
        eventually(lambda: client not in workplace.processes(), "the client is gone")
        assert "is a dead mount" in workplace.fails(4, "mount", "-H", workplace.hosts, workplace.mnt)
        workplace.ok("umount", workplace.mnt)
    assert not workplace.mounted()
    mount(workplace)
    workplace.ok("umount", workplace.mnt)


@pytest.mark.usefixtures("daemons")
def test_a_busy_mount_names_who_uses_it(workplace: Workplace) -> None:
    client = mount(workplace)
    with subprocess.Popen(["sleep", "60"], cwd=workplace.mnt) as user:
        line = workplace.fails(4, "umount", workplace.mnt)
        assert f"sleep ({user.pid})" in line
        assert workplace.mounted()
        done = workplace.ok("umount", "--lazy", workplace.mnt)
        assert not workplace.mounted()
        assert f"process {client}" in done.out
        user.kill()
    eventually(lambda: client not in workplace.processes(), "the client has ended after the last user")


@pytest.mark.usefixtures("daemons")
def test_force_ends_the_client_of_a_busy_mount(workplace: Workplace) -> None:
    client = mount(workplace)
    with held_open(workplace.mnt / "held"):
        workplace.ok("umount", "--force", workplace.mnt)
        assert not workplace.mounted()
        assert client not in workplace.processes()


def test_umount_refuses_what_is_no_gkfs_mount(workplace: Workplace) -> None:
    assert "is not a gkfs mount" in workplace.fails(4, "umount", workplace.mnt)
    assert "of type proc" in workplace.fails(4, "umount", "/proc")
    assert "does not exist" in workplace.fails(4, "umount", workplace.folder / "none")


@pytest.mark.usefixtures("daemons")
def test_a_foreground_mount_ends_cleanly_on_sigterm(workplace: Workplace) -> None:
    log = workplace.folder / "log"
    process = workplace.start(["mount", "-f", "-H", workplace.hosts, "-m", workplace.mnt, "--log", log])
    eventually(workplace.mounted, "it is mounted")
    eventually(lambda: catches(process.pid, signal.SIGTERM), "it heeds SIGTERM")
    process.terminate()
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (0, "")
    assert not workplace.mounted()
    assert "SIGTERM" in log.read_text()


@pytest.mark.usefixtures("daemons")
def test_the_log_of_a_mount_is_kept_where_it_was_asked_for(workplace: Workplace) -> None:
    log = workplace.folder / "log"
    mount(workplace, "--log", log)
    workplace.ok("umount", workplace.mnt)
    assert log.exists()


def test_mount_waits_for_daemons_as_long_as_told(workplace: Workplace) -> None:
    process = workplace.start(["mount", "-H", workplace.hosts, "--wait", "60", workplace.mnt])
    workplace.start_daemons(2)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err) == (0, "", "")
    workplace.ok("umount", workplace.mnt)
    workplace.ok("stop", "-H", workplace.hosts)


@needs_root
@pytest.mark.usefixtures("daemons")
def test_a_missing_fuse_device_is_named(workplace: Workplace) -> None:
    gkfs = [sys.executable, "-m", "gkfs", "mount", "-H", str(workplace.hosts), str(workplace.mnt)]
    script = 'mount -t tmpfs none /dev && exec "$@"'
    environment = workplace.environment | program.ENVIRONMENT
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *gkfs],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9
    assert done.stderr == "gkfs: /dev/fuse cannot be opened: No such file or directory\n"


@needs_root
def test_where_no_user_could_unmount_none_mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def status() -> int:
        try:
            mounts.check_fuse()
        except GkfsError as error:
            return int(error.status) if str(mtab) in str(error) else 1
        return 0

    mtab = tmp_path / "mtab"
    assert as_other_user(status) == 0
    monkeypatch.setattr(mounts, "_MTAB", str(mtab))
    assert as_other_user(status) == ExitStatus.FUSE
    mounts.check_fuse()  # root needs none


@needs_root
@pytest.mark.usefixtures("daemons")
def test_spaces_and_non_ascii_names_work(workplace: Workplace) -> None:
    odd = workplace.folder / "my mount\tü\\x"
    odd.mkdir()
    workplace.ok("mount", "-H", workplace.hosts, odd)
    assert workplace.mounted(odd)
    workplace.ok("umount", odd)
    assert shutil.disk_usage(odd)
    assert not workplace.mounted(odd)


def test_a_daemon_in_the_process_of_a_mount_needs_rootdir_and_index(workplace: Workplace) -> None:
    workplace.start_daemons()
    mount = ("mount", "-H", workplace.hosts, workplace.mnt)
    assert "--rootdir is for a daemon" in workplace.fails(2, *mount, "-r", workplace.root)
    assert "--index is for a daemon" in workplace.fails(2, *mount, "--index", "0")
    assert "Missing option '--rootdir'" in workplace.fails(2, *mount, "--with-daemon", "--index", "0")
    assert "Missing option '--index'" in workplace.fails(2, *mount, "--with-daemon", "-r", workplace.root)
    own = ("--with-daemon", "-r", workplace.root, "--index")
    assert "the last one has index 0" in workplace.fails(5, *mount, *own, "1")
    assert "not of 2" in workplace.fails(5, *mount, *own, "0", "-n", "2")
    assert "is in use" in workplace.fails(3, *mount, *own, "0")
    assert not workplace.mounted()
    workplace.ok("stop", "-H", workplace.hosts)


def test_a_signal_while_other_daemons_are_waited_for_ends_all(workplace: Workplace) -> None:
    own = ("--with-daemon", "-r", workplace.root, "--index", "0", "-n", "2", "--listen", "tcp://127.0.0.1:0")
    mount = ("mount", "-H", workplace.hosts, workplace.mnt, "--foreground", "--wait", "60", *own)
    process = workplace.start(mount)
    eventually(
        lambda: workplace.hosts.exists() and len(workplace.hosts.read_text().splitlines()) == 2, "it listens"
    )
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "daemon 0 stopped" in err
    assert not workplace.mounted()
