"""File systems with two copies on the command line."""

import json
import os
import shutil
import signal
from functools import partial
from typing import Any

import pytest

from tests.cli.workplace import Workplace
from tests.mount.file_system import is_alive, wait_until


def test_status_says_whose_copy_is_missing(workplace: Workplace) -> None:
    workplace.ok("start", "-r", workplace.root, "-H", workplace.hosts, "-n", "3", "--replicas", "2")

    def daemons() -> list[dict[str, Any]]:
        answer = json.loads(workplace.gkfs("status", "-H", workplace.hosts, "--json").out)
        return [daemon for daemon in answer["daemons"] if daemon.get("pid")]

    def all_have_two() -> bool:
        return [daemon["copies"] for daemon in daemons()] == [2, 2, 2]

    wait_until(all_have_two, "everything is on two daemons")
    lines = workplace.ok("status", "-H", workplace.hosts).out.splitlines()
    assert lines[0].endswith(", 2 replicas")
    assert "copy" not in lines[-1]
    pids = {daemon["daemon"]: int(daemon["pid"]) for daemon in daemons()}
    os.kill(pids[1], signal.SIGKILL)
    wait_until(lambda: pids[1] not in [daemon["pid"] for daemon in daemons()] and all_have_two(), "two again")
    os.kill(pids[2], signal.SIGKILL)  # and what is left cannot know whether that is so
    wait_until(lambda: [daemon["copies"] for daemon in daemons()] in ([1], [1, 1]), "the mirror is silent")
    done = workplace.gkfs("status", "-H", workplace.hosts)
    assert done.out.splitlines()[-1].endswith("no other has a complete copy at the moment")
    workplace.gkfs("stop", "-H", workplace.hosts)


def test_run_and_stop_with_purge_leave_nothing(workplace: Workplace) -> None:
    options = ("-r", workplace.root, "-n", "3", "--replicas", "2")
    assert workplace.ok("run", "-m", workplace.mnt, *options, "--", "echo", "done").out == "done\n"
    assert list(workplace.root.iterdir()) == []
    workplace.ok("start", "-H", workplace.hosts, *options)
    workplace.ok("status", "-H", workplace.hosts, "--wait", "20")
    workplace.ok("stop", "-H", workplace.hosts, "--purge")
    assert list(workplace.root.iterdir()) == []


def test_it_starts_again_with_what_was_written(workplace: Workplace) -> None:
    data = os.urandom(3_000_000)
    workplace.ok("start", "-r", workplace.root, "-H", workplace.hosts, "-n", "3", "--replicas", "2")
    workplace.ok("mount", "-H", workplace.hosts, "-m", workplace.mnt)
    for number in range(9):
        (workplace.mnt / str(number)).write_bytes(data[number:])
    workplace.ok("umount", workplace.mnt)
    for end in (signal.SIGTERM, signal.SIGKILL):
        status = workplace.ok("status", "-H", workplace.hosts, "--json").json
        pids = [daemon["pid"] for daemon in status["daemons"]]
        if end == signal.SIGTERM:
            workplace.ok("stop", "-H", workplace.hosts)
        else:
            for pid in pids:
                os.kill(pid, end)
                wait_until(partial(_is_dead, pid), "all are dead")
        workplace.ok("start", "-r", workplace.root, "-H", workplace.hosts)
        workplace.ok("mount", "-H", workplace.hosts, "-m", workplace.mnt)
        for number in range(9):
            assert (workplace.mnt / str(number)).read_bytes() == data[number:]
        workplace.ok("umount", workplace.mnt)
    workplace.ok("stop", "-H", workplace.hosts)


@pytest.mark.parametrize("is_lost", [False, True], ids=["replaced", "lost"])
def test_it_starts_again_without_a_daemon(is_lost: bool, workplace: Workplace) -> None:
    start = ("start", "-r", workplace.root, "-H", workplace.hosts)
    workplace.ok(*start, "-n", "3", "--replicas", "2")
    workplace.ok("mount", "-H", workplace.hosts, "-m", workplace.mnt)
    for number in range(20):
        (workplace.mnt / str(number)).write_text(str(number))
    workplace.ok("umount", workplace.mnt)

    def daemons() -> list[dict[str, Any]]:
        return list(workplace.gkfs("status", "-H", workplace.hosts, "--json").json["daemons"])

    wait_until(lambda: [daemon.get("copies") for daemon in daemons()] == [2, 2, 2], "everything is on two daemons")
    if not is_lost:
        os.kill(daemons()[1]["pid"], signal.SIGKILL)
        wait_until(lambda: [daemon.get("copies") for daemon in daemons()] == [2, 2, 2], "two again")
    workplace.gkfs("stop", "-H", workplace.hosts)
    if is_lost:
        shutil.rmtree(workplace.root / "daemon-1")
    for _ in range(2):
        workplace.ok(*start)
        workplace.ok("mount", "-H", workplace.hosts, "-m", workplace.mnt)
        for number in range(20):
            assert (workplace.mnt / str(number)).read_text() == str(number)
        workplace.ok("umount", workplace.mnt)
        wait_until(lambda: len({daemon.get("pid") for daemon in daemons()}) == 2, "one daemon answers for two")
        workplace.gkfs("stop", "-H", workplace.hosts)


def _is_dead(pid: int) -> bool:
    return not is_alive(pid)


def test_a_mount_whose_daemon_was_replaced_ends(workplace: Workplace) -> None:
    common = ("-H", workplace.hosts, "-r", workplace.root, "-n", "3", "--replicas", "2")
    for index in (1, 2):
        workplace.start(("daemon", *common, "--index", str(index)))
    log = workplace.folder / "log"
    options = ("--with-daemon", "--index", "0", "--wait", "20", "--listen", "tcp://127.0.0.1:0", "--log", log)
    workplace.ok("mount", *common, *options, workplace.mnt)
    (workplace.mnt / "file").write_text("text")

    def daemons() -> list[dict[str, Any]]:
        return list(workplace.gkfs("status", "-H", workplace.hosts, "--json").json["daemons"])

    wait_until(lambda: [daemon.get("copies") for daemon in daemons()] == [2, 2, 2], "everything is on two daemons")
    pid = daemons()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: daemons()[0].get("pid") not in (None, pid), "another has taken over")
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_alive(pid), "the mount has ended")
    assert not workplace.mounted()
    assert "the daemon of this mount has ended" in log.read_text()
    workplace.ok("mount", "-H", workplace.hosts, workplace.mnt)
    assert (workplace.mnt / "file").read_text() == "text"
    workplace.ok("umount", workplace.mnt)
    workplace.gkfs("stop", "-H", workplace.hosts)
