"""Start, stop, restart, crash: what was acknowledged is there afterwards, and what has ended leaves nothing."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gkfs.distributor import Distributor
from gkfs.limits import HOLDER_GONE_S
from gkfs.paths import ROOT
from tests.mount import sample_tree, trees
from tests.mount.calls import MIB, errno_of, fails, noise, opened
from tests.mount.conftest import Cluster, close_file_system, open_file_system
from tests.mount.file_system import FileSystem, is_alive, mountpoints_below, wait_until
from tests.mount.programs import run
from tests.mount.trees import assert_same

# Starts what the last test looks at a minute later.
pytestmark = pytest.mark.usefixtures("without_a_client")


@pytest.mark.parametrize("daemons", [1, 3])
def test_a_restart_brings_everything_back(daemons: int, cluster: Cluster, tmp_path: Path) -> None:
    file_system = cluster(daemons)
    sample_tree.make(tmp_path / "sample", links=True, attributes=True)
    run("cp", "-a", tmp_path / "sample", file_system.mounts[0] / "copy")
    ids = {path.name: path.lstat().st_ino for path in (file_system.mounts[0] / "copy" / "contents").iterdir()}
    for _ in range(2):
        file_system.umount(file_system.mounts[0])
        file_system.stop()
        file_system.start()
        mountdir = file_system.mount()
        assert_same(tmp_path / "sample", mountdir / "copy")
        assert {path.name: path.lstat().st_ino for path in (mountdir / "copy" / "contents").iterdir()} == ids
    (mountdir / "copy" / "new").write_text("new")
    assert (mountdir / "copy" / "new").stat().st_ino not in ids.values()


def test_a_mount_survives_a_restart_of_all_daemons(cluster: Cluster) -> None:
    file_system = cluster(2)
    mountdir = file_system.mounts[0]
    (mountdir / "closed").write_bytes(noise(2 * MIB))
    with opened(mountdir / "open", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"before ")
        os.fsync(file)
        file_system.stop()
        file_system.start()
        os.write(file, b"after")
        assert os.pread(file, 100, 0) == b"before after"
    assert (mountdir / "open").read_bytes() == b"before after"
    assert (mountdir / "closed").read_bytes() == noise(2 * MIB)
    assert sorted(os.listdir(mountdir)) == ["closed", "open"]


def _write_on(folder: Path, written: Any, ended: Any) -> None:
    """Write files until *ended*; *written* is how many there are. A process of its own."""
    folder.mkdir()
    while not ended.is_set():
        step = written.value
        (folder / f"{step}.tmp").write_bytes(noise(20_000 + step, step))
        os.rename(folder / f"{step}.tmp", folder / f"{step}")
        written.value = step + 1


@pytest.mark.parametrize("victim", [0, 1])
def test_nothing_acknowledged_is_lost_when_a_daemon_is_killed(victim: int, cluster: Cluster) -> None:
    """Writers work all the time; a daemon is killed and started again; they notice a pause and nothing else."""
    file_system = cluster(2, mounts=2)
    # Not threads: what is forked here to start the daemon would have their files open, and closing them, it would
    # wait for the daemon.
    spawn = multiprocessing.get_context("spawn")
    ended, written = spawn.Event(), [spawn.Value("q", 0) for _ in range(2)]
    writers = [
        spawn.Process(target=_write_on, args=(file_system.mounts[number] / f"writer-{number}", steps, ended))
        for number, steps in enumerate(written)
    ]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: all(steps.value for steps in written), "both write")
        for _ in range(2):
            time.sleep(0.5)
            file_system.kill_daemon(victim)
            time.sleep(0.3)
            before = [steps.value for steps in written]
            file_system.restart_daemon(victim)
            wait_until(
                lambda before=before: (
                    not all(writer.is_alive() for writer in writers)  # type: ignore[misc]
                    or all(steps.value > count + 3 for steps, count in zip(written, before, strict=True))
                ),
                "both writers go on after the restart",
            )
    finally:
        ended.set()
        for writer in writers:
            writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    for number, steps in enumerate(written):
        folder = file_system.mounts[1 - number] / f"writer-{number}"
        assert sorted(map(int, os.listdir(folder))) == list(range(steps.value))
        for step in range(steps.value):
            assert (folder / f"{step}").read_bytes() == noise(20_000 + step, step)


def test_renames_are_whole_when_a_daemon_is_killed(cluster: Cluster) -> None:
    """Each of many directories is under its old or its new name with everything in it, never both or half."""
    file_system = cluster(3)
    mountdir = file_system.mounts[0]
    for number in range(40):
        (mountdir / f"old-{number}").mkdir()
        for file in range(8):
            (mountdir / f"old-{number}" / f"{file}").write_text(f"{number} {file}")
    failures: list[str] = []

    def rename() -> None:
        try:
            for number in range(40):
                os.rename(mountdir / f"old-{number}", mountdir / f"new-{number}")
        except OSError as error:
            failures.append(str(error))

    renamer = threading.Thread(target=rename)
    renamer.start()
    for victim in (0, 1, 2):
        time.sleep(0.05)
        file_system.kill_daemon(victim)
        file_system.restart_daemon(victim)
    renamer.join()
    assert failures == []
    assert sorted(os.listdir(mountdir)) == sorted(f"new-{number}" for number in range(40))
    for number in range(40):
        files = {path.name: path.read_text() for path in (mountdir / f"new-{number}").iterdir()}
        assert files == {f"{file}": f"{number} {file}" for file in range(8)}


def test_a_dead_daemon_is_an_error_that_names_it(cluster: Cluster) -> None:
    """Its files fail within the request's time limit, those of the others can be used."""
    file_system = cluster(2, mounts=0)
    mountdir = file_system.mount("--request-timeout", "1")
    distributor = Distributor(2)
    victim = 1 - distributor.path_owner(ROOT)  # without that of the root directory nothing can be used
    owners = {f"{number}": distributor.path_owner(b"/%d" % number) for number in range(5)}
    assert set(owners.values()) == {0, 1}
    for name in owners:
        (mountdir / name).touch()
    file_system.kill_daemon(victim)
    for name, owner in owners.items():
        start_s = time.monotonic()
        assert errno_of((mountdir / name).stat) == (errno.ETIMEDOUT if owner == victim else 0)
        assert (
            time.monotonic() - start_s < 20
        )  # instead of 60; and the kernel asks twice when it held the name before
    assert f"daemon {victim}" in file_system.log_of(mountdir).read_text()
    answer = file_system.gkfs("status", "-H", file_system.hostfile, check=False)
    assert answer.returncode != 0
    assert f"daemon {victim}" in answer.stdout + answer.stderr
    file_system.restart_daemon(victim)
    assert sorted(os.listdir(mountdir)) == sorted(owners)


def test_what_a_dead_daemon_has_lost_is_not_told_again_to_who_writes_when_it_is_back(cluster: Cluster) -> None:
    """Data and size could not be sent, close said so; nobody has anything to learn later."""
    file_system = cluster(1, mounts=0)
    mountdir = file_system.mount("--request-timeout", "1")
    file = os.open(mountdir / "file", os.O_WRONLY | os.O_CREAT)

    def write() -> None:
        os.pwrite(file, bytes(MIB), 0)  # from here on, writes are not waited for
        os.pwrite(file, noise(5000), MIB)

    file_system.kill_daemon(0, write)
    with fails(errno.ETIMEDOUT):
        os.close(file)
    file_system.restart_daemon(0)
    (mountdir / "file").write_bytes(noise(MIB, 2))
    assert (mountdir / "file").read_bytes() == noise(MIB, 2)


def test_two_file_systems_do_not_disturb_each_other(cluster: Cluster) -> None:
    one, other = cluster(2), cluster(2)
    (one.mounts[0] / "name").write_text("one")
    (other.mounts[0] / "name").write_text("other")
    assert (one.mounts[0] / "name").read_text() == "one"
    one.umount(one.mounts[0])
    one.stop()
    (other.mounts[0] / "more").write_bytes(noise(MIB))
    assert (other.mounts[0] / "more").read_bytes() == noise(MIB)
    assert sorted(os.listdir(other.mounts[0])) == ["more", "name"]
    one.start()
    assert (one.mount() / "name").read_text() == "one"


def test_the_end_leaves_nothing(cluster: Cluster) -> None:
    file_system = cluster(2, mounts=2)
    (file_system.mounts[0] / "file").write_bytes(noise(MIB))
    mountdirs = list(file_system.mounts)
    for mountdir in mountdirs:
        file_system.umount(mountdir)
    file_system.gkfs("stop", "-H", file_system.hostfile, "--purge")
    file_system._running.clear()
    wait_until(lambda: not file_system.processes(), "all processes have ended")
    assert mountpoints_below(file_system.folder) == []
    assert not file_system.hostfile.exists()
    assert list(file_system.rootdir.iterdir()) == []
    assert [os.listdir(mountdir) for mountdir in mountdirs] == [[], []]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_loses_nothing(number: signal.Signals, cluster: Cluster) -> None:
    file_system = cluster(2, mounts=2)
    mountdir, other = file_system.mounts
    client = file_system.client_pid(mountdir)
    file = os.open(mountdir / "file", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"x" * 123_456)
    os.kill(client, number)
    wait_until(lambda: not is_alive(client), "the client has ended")
    assert not os.path.ismount(mountdir)
    errno_of(lambda: os.close(file))
    file_system.mounts.remove(mountdir)
    assert (other / "file").read_bytes() == b"x" * 123_456


def test_umount_of_a_busy_mount_is_refused_and_harms_nothing(cluster: Cluster) -> None:
    file_system = cluster(1)
    mountdir = file_system.mounts[0]
    with opened(mountdir / "file", os.O_RDWR | os.O_CREAT) as file:
        answer = file_system.gkfs("umount", mountdir, check=False)
        assert answer.returncode != 0
        assert "in use" in answer.stderr
        os.write(file, b"still here")
    assert (mountdir / "file").read_text() == "still here"


def test_removed_files_give_their_space_back(cluster: Cluster) -> None:
    file_system = cluster(2)
    mountdir = file_system.mounts[0]
    for number in range(10):
        (mountdir / f"{number}").write_bytes(noise(2 * MIB, number))
    assert file_system.status()["used_bytes"] >= 20 * MIB
    os.truncate(mountdir / "0", MIB)
    os.rename(mountdir / "1", mountdir / "2")
    for number in (0, *range(2, 10)):
        (mountdir / f"{number}").unlink()
    wait_until(lambda: file_system.status()["used_bytes"] == 0, "all chunks are removed")
    assert file_system.status()["files"] == 0


def test_statfs_sums_the_local_disks(cluster: Cluster) -> None:
    """Daemons of one local file system share its space, which is counted once."""
    file_system = cluster(3)
    local = os.statvfs(file_system.rootdir)
    found = os.statvfs(file_system.mounts[0])
    assert found.f_blocks * found.f_frsize == pytest.approx(local.f_blocks * local.f_frsize, rel=0.01)
    assert found.f_bavail * found.f_frsize == pytest.approx(local.f_bavail * local.f_frsize, rel=0.05)
    assert found.f_namemax == 255
    document = file_system.status()
    assert document["total_bytes"] == pytest.approx(found.f_blocks * found.f_frsize, rel=0.01)
    answer = run("df", "--output=source,fstype", file_system.mounts[0])
    assert answer.split()[-2:] == ["gkfs", "fuse.gkfs"]


@pytest.mark.parametrize("option", ["--direct-io", "--allow-other", "--attr-timeout=0.5"])
def test_a_mount_works_with(option: str, cluster: Cluster) -> None:
    file_system = cluster(2, mounts=0)
    mountdir = file_system.mount(option)
    data = noise(3 * MIB + 1)
    (mountdir / "file").write_bytes(data)
    assert (mountdir / "file").read_bytes() == data
    with opened(mountdir / "file", os.O_RDWR) as file:
        os.ftruncate(file, 10)
        assert os.fstat(file).st_size == 10
        os.pwrite(file, b"!", 20)
        assert os.pread(file, 100, 0) == data[:10] + bytes(10) + b"!"
    assert trees.facts(mountdir).keys() == {b".", b"file"}


_AS_SOMEBODY = """
import os, sys
os.setgroups([]); os.setgid(4321); os.setuid(4321)
os.chdir(sys.argv[1])
def refused(call):
    try: call()
    except PermissionError: return
    sys.exit("was permitted")
refused(lambda: open("private"))
refused(lambda: os.mkdir("closed/x"))
refused(lambda: os.unlink("sticky/roots"))
refused(lambda: os.chown("sticky", 4321, 4321))
with open("sticky/mine", "w") as file: file.write("mine")
assert (os.stat("sticky/mine").st_uid, os.stat("sticky/mine").st_gid) == (4321, 4321)
with open("program", "ab") as file: file.write(b"#")
open("truncated", "wb").close()
for name in ("program", "truncated"):
    assert oct(os.stat(name).st_mode)[-4:] == "0777", (name, oct(os.stat(name).st_mode))
os.unlink("sticky/mine")
"""


def test_other_users_have_their_own_rights(open_folder: Path) -> None:
    """Permissions are the kernel's; a write or O_TRUNC by somebody without privilege takes set-id bits away."""
    file_system = open_file_system(open_folder / "gkfs", 2, 1, "--allow-other")
    try:
        _let_somebody_try(file_system.mounts[0])
    finally:
        problems = close_file_system(file_system)
    assert problems == []


def _let_somebody_try(mountdir: Path) -> None:
    mountdir.chmod(0o755)
    for name, mode in (("closed", 0o755), ("sticky", 0o1777)):
        (mountdir / name).mkdir()
        (mountdir / name).chmod(mode)
    for name, mode in (("private", 0o600), ("sticky/roots", 0o666), ("program", 0o6777), ("truncated", 0o6777)):
        (mountdir / name).write_text("roots")
        (mountdir / name).chmod(mode)
    done = subprocess.run(["/usr/bin/python3", "-c", _AS_SOMEBODY, mountdir], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.listdir(mountdir / "sticky") == ["roots"]
    assert sys.executable  # the interpreter of a virtual environment may be out of that user's reach


def test_what_a_killed_client_held_is_given_back(without_a_client: FileSystem) -> None:
    """The last of this file, so that most of the minute of grace has passed."""
    limit_s = HOLDER_GONE_S + 60
    wait_until(
        lambda: without_a_client.status()["used_bytes"] == 0, "the chunks are removed", limit_s, every_s=1.0
    )
    assert os.listdir(without_a_client.mounts[0]) == []
