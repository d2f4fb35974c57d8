"""run: COMMAND's own exit status, and nothing left however it ends."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gkfs.limits import RUN_GRACE_S
from tests.cli.workplace import TIMEOUT_S, Workplace, eventually

pytestmark = pytest.mark.usefixtures("fuse")


def all_gone(workplace: Workplace) -> bool:
    return workplace.leftovers() == []


def running(workplace: Workplace, command: str, *options: str, trap: str = ":") -> "subprocess.Popen[str]":
    """`gkfs run` whose COMMAND has begun: the shell script *command*, after *trap* and making the file `begun`."""
    begun = workplace.folder / "begun"
    script = f"{trap}; >{begun}; {command}"
    process = workplace.start(["run", "-m", workplace.mnt, *options, "--", "sh", "-c", script])
    eventually(begun.exists, "COMMAND runs")
    return process


def test_command_finds_mount_and_hostfile(workplace: Workplace) -> None:
    script = 'echo text >"$GKFS_MOUNTDIR/file"; cat "$GKFS_MOUNTDIR/file"; head -n 1 "$GKFS_HOSTFILE"; pwd'
    done = workplace.ok("run", "-m", workplace.mnt, "-n", "2", "sh", "-c", script)
    lines = done.out.splitlines()
    assert lines[0] == "text"
    assert lines[1].endswith("daemons=2")
    assert lines[2] == os.getcwd()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -SEGV $$"], 139),
    ],
)
def test_status_is_that_of_command(workplace: Workplace, command: list[str], status: int) -> None:
    done = workplace.gkfs("run", "-m", workplace.mnt, "--", *command)
    assert (done.status, done.out, done.err) == (status, "", "")


def test_a_command_that_cannot_run_is_126_or_127(workplace: Workplace) -> None:
    assert "not found" in workplace.fails(127, "run", "-m", workplace.mnt, "--", "no-such-command")
    assert "/no/such: command not found" in workplace.fails(127, "run", "-m", workplace.mnt, "--", "/no/such")
    assert "Permission denied" in workplace.fails(126, "run", "-m", workplace.mnt, "--", "/etc/passwd")


def test_failures_of_gkfs_are_125(workplace: Workplace) -> None:
    mount = ("run", "-m", workplace.mnt)
    assert "COMMAND" in workplace.fails(125, *mount)
    assert "COMMAND" in workplace.fails(125, *mount, "--", "")
    assert "-n" in workplace.fails(125, *mount, "-n", "0", "--", "true")
    assert "--mountdir" in workplace.fails(125, "run", "--", "true")
    assert "is not empty" in workplace.fails(125, "run", "-m", workplace.folder, "--", "true")
    assert "cannot be made" in workplace.fails(125, "run", "-m", "/none/mnt", "--", "true")
    assert "does not exist" in workplace.fails(125, *mount, "-r", "/none", "--", "true")
    assert "cannot listen on" in workplace.fails(125, *mount, "-l", "tcp://192.0.2.1:0", "--", "true")
    assert "unknown key" in workplace.fails(125, *mount, "--config", config(workplace, "x = 1"), "--", "true")


def config(workplace: Workplace, text: str) -> Path:
    path = workplace.folder / "gkfs.toml"
    path.write_text(text)
    return path


def test_a_given_rootdir_holds_the_data_meanwhile(workplace: Workplace) -> None:
    (workplace.root / "mine").touch()
    arguments = ("run", "-m", workplace.mnt, "-r", workplace.root, "-n", "2", "--", "ls", workplace.root)
    assert workplace.ok(*arguments).out.split() == ["daemon-0", "daemon-1", "mine"]
    assert os.listdir(workplace.root) == ["mine"]


def test_a_rootdir_with_a_file_system_is_left_alone(workplace: Workplace) -> None:
    workplace.start_daemons()
    workplace.ok("stop", "-H", workplace.hosts)
    line = workplace.fails(125, "run", "-m", workplace.mnt, "-r", workplace.root, "--", "true")
    assert "holds a file system already" in line
    assert (workplace.root / "daemon-0" / "superblock.json").exists()


def test_a_missing_mountdir_is_made_and_removed(workplace: Workplace) -> None:
    mnt = workplace.folder / "new"
    assert workplace.ok("run", "-m", mnt, "--", "stat", "-c", "%F", mnt).out == "directory\n"
    assert not mnt.exists()
    workplace.ok("run", "-m", workplace.mnt, "--", "true")
    assert workplace.mnt.exists()


def test_standard_input_is_that_of_command(workplace: Workplace) -> None:
    assert workplace.ok("run", "-m", workplace.mnt, "--", "readlink", "/proc/self/fd/0").out == "/dev/null\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signals_reach_the_whole_group_of_command(workplace: Workplace, number: signal.Signals) -> None:
    process = running(workplace, "sh -c 'sleep 60; true'; true")
    # A shell that is just starting a program may miss SIGINT.
    eventually(lambda: "sleep 60 " in workplace.processes().values(), "sleep runs")
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (128 + number, "")
    assert all_gone(workplace)


def test_command_may_end_as_it_likes_after_a_signal(workplace: Workplace) -> None:
    trap = "trap 'echo text >$GKFS_MOUNTDIR/f; cat $GKFS_MOUNTDIR/f; exit 3' TERM"
    process = running(workplace, "while :; do sleep 0.1; done", trap=trap)
    process.terminate()
    out, _ = process.communicate(timeout=TIMEOUT_S)  # the shell itself tells of its sleep
    assert (process.returncode, out) == (3, "text\n")
    assert all_gone(workplace)


def test_usr1_is_passed_on_and_ends_nothing(workplace: Workplace) -> None:
    command = 'while [ -z "$n" ]; do sleep 0.05; done; sleep 0.3; exit 4'
    process = running(workplace, command, "--grace", "0", trap="trap n=1 USR1")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 4


def test_a_command_that_ignores_signals_is_killed_after_the_grace(workplace: Workplace) -> None:
    process = running(workplace, "while :; do sleep 0.1; done", "--grace", "0.5", trap="trap '' TERM INT")
    begun_s = time.monotonic()
    process.terminate()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 137
    assert 0.4 < time.monotonic() - begun_s < RUN_GRACE_S  # what it is unless told otherwise
    assert all_gone(workplace)


def test_a_signal_while_starting_leaves_nothing(workplace: Workplace) -> None:
    process = workplace.start(["run", "-m", workplace.mnt, "-n", "4", "--", "sleep", "60"])
    eventually(lambda: list(workplace.temporary.glob("*/hosts")), "the hostfile is made")
    process.terminate()
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (143, "")
    assert all_gone(workplace)


def test_what_command_leaves_running_on_the_mount_is_ended(workplace: Workplace) -> None:
    script = f"cd {workplace.mnt}; sleep 60 >/dev/null 2>&1 &"
    workplace.ok("run", "-m", workplace.mnt, "--", "sh", "-c", script)
    assert all_gone(workplace)


def test_a_program_outside_of_the_group_does_not_keep_the_mount(workplace: Workplace) -> None:
    process = running(workplace, f"until [ -e {workplace.folder}/go ]; do sleep 0.05; done")
    with subprocess.Popen(["sleep", "60"], cwd=workplace.mnt) as user:
        (workplace.folder / "go").touch()
        _, err = process.communicate(timeout=TIMEOUT_S)
        user.kill()
    assert process.returncode == 0
    assert f"sleep ({user.pid})" in err
    assert all_gone(workplace)


def test_killed_with_9_it_takes_daemons_and_client_along(workplace: Workplace) -> None:
    process = running(workplace, "exec sleep 60", "-n", "2")

    def sleepers() -> list[int]:
        return [pid for pid, name in workplace.processes().items() if name.startswith("sleep 60")]

    eventually(sleepers, "the shell has become sleep")
    sleeper = sleepers()[0]
    process.kill()
    process.wait(timeout=TIMEOUT_S)  # the sleeper has its stdout still
    eventually(lambda: list(workplace.processes()) == [sleeper], "daemons and client are gone")
    os.kill(sleeper, signal.SIGKILL)
    assert not workplace.mounted()
    # The next run removes what it could not: its temporary folder.
    assert len(list(workplace.temporary.iterdir())) == 1
    workplace.ok("run", "-m", workplace.mnt, "--", "true")
    assert all_gone(workplace)


def test_a_dead_mount_of_a_killed_run_is_healed(workplace: Workplace) -> None:
    process = running(workplace, "exec sleep 60")
    victims = [pid for pid, name in workplace.processes().items() if "gkfs mount" in name or pid == process.pid]
    for pid in sorted(victims, key=lambda pid: pid == process.pid):  # the mount first: else it is told to unmount
        os.kill(pid, signal.SIGKILL)
    process.wait(timeout=TIMEOUT_S)
    eventually(lambda: len(workplace.processes()) == 1, "all but COMMAND are gone")
    assert workplace.mounted()
    workplace.ok("umount", workplace.mnt)
    for pid in workplace.processes():
        os.kill(pid, signal.SIGKILL)
    workplace.ok("run", "-m", workplace.mnt, "--", "true")


def test_a_daemon_that_dies_is_named_while_command_goes_on(workplace: Workplace) -> None:
    script = f"until [ -e {workplace.folder}/go ]; do sleep 0.05; done; exit 5"
    process = running(workplace, script, "--separate-daemon")
    (daemon,) = (pid for pid, name in workplace.processes().items() if "gkfs daemon" in name)
    os.kill(daemon, signal.SIGKILL)
    eventually(lambda: daemon not in workplace.processes(), "the daemon is dead")
    (workplace.folder / "go").touch()
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 5
    assert err.startswith("gkfs: daemon 0 was killed by SIGKILL")


def test_one_daemon_runs_in_the_process_of_the_mount(workplace: Workplace) -> None:
    process = running(workplace, "sleep 0.5; exit 5")
    ours = [pid for pid, name in workplace.processes().items() if "-m gkfs" in name and pid != process.pid]
    (client,) = (pid for pid, name in workplace.processes().items() if "gkfs mount" in name)
    assert ours == [client]
    os.kill(client, signal.SIGKILL)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 5
    assert err.startswith("gkfs: mount was killed by SIGKILL")
    assert workplace.leftovers() == []


def test_command_may_unmount_by_itself(workplace: Workplace) -> None:
    done = workplace.gkfs("run", "-m", workplace.mnt, "--", "umount", workplace.mnt)
    assert done.status == 0
    assert all_gone(workplace)


def test_two_runs_side_by_side_are_independent(workplace: Workplace) -> None:
    first = running(workplace, "sleep 60")
    second = workplace.ok("run", "-m", workplace.folder / "mnt-2", "--", "ls", workplace.folder / "mnt-2")
    assert second.out == ""
    assert workplace.mounted()
    first.terminate()
    first.communicate(timeout=TIMEOUT_S)


def test_verbs_inside_of_command_find_its_file_system(workplace: Workplace) -> None:
    import sys

    script = f"{sys.executable} -m gkfs status --json"
    assert '"alive": true' in workplace.ok("run", "-m", workplace.mnt, "--", "sh", "-c", script).out


def test_log_keeps_what_daemons_and_mount_said(workplace: Workplace) -> None:
    log = workplace.folder / "log"
    workplace.ok("run", "-m", workplace.mnt, "--log", log, "--", "true")
    assert "serves file system" in log.read_text()
