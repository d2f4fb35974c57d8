"""start, stop, status, daemon: real daemons on this machine."""

import contextlib
import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkfs import hostfile, keyfile
from gkfs.hostfile import DaemonAddress, format_header
from tests.cli.workplace import TIMEOUT_S, Workplace, eventually
from tests.hosts import write_hosts

FSID = "0123456789abcdef" * 2


@contextlib.contextmanager
def listener() -> Iterator[tuple[socket.socket, str]]:
    """A listening TCP socket that answers nothing, and its URI."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, f"tcp://127.0.0.1:{server.getsockname()[1]}"


def kill(pid: int, workplace: Workplace) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in workplace.processes(), f"process {pid} is gone")


def test_start_answers_when_all_daemons_do(workplace: Workplace) -> None:
    said = workplace.start_daemons(3)
    told = workplace.ok("status", "-H", workplace.hosts, "--json").json
    assert said["fsid"] == told["fsid"]
    assert [daemon["pid"] for daemon in said["daemons"]] == [daemon["pid"] for daemon in told["daemons"]]
    assert all(daemon["alive"] for daemon in told["daemons"])
    assert told["free_bytes"] <= told["total_bytes"]
    table = workplace.ok("status", "-H", workplace.hosts).out
    assert all(daemon["tcp"] in table for daemon in said["daemons"])
    stopped = workplace.ok("stop", "-H", workplace.hosts, "--purge", "--json").json
    assert stopped["stopped"] == [0, 1, 2]
    assert (list(workplace.root.iterdir()), workplace.hosts.exists()) == ([], False)
    assert workplace.processes() == {}


def test_daemons_are_detached(workplace: Workplace) -> None:
    (daemon,) = workplace.start_daemons()["daemons"]
    assert os.getsid(daemon["pid"]) == daemon["pid"]
    assert os.readlink(f"/proc/{daemon['pid']}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{daemon['pid']}/cwd") == "/"
    assert Path(daemon["log"]).read_text().count("serves file system") == 1
    workplace.ok("stop", "-H", workplace.hosts)


def test_a_rootdir_brings_its_file_system_back(workplace: Workplace) -> None:
    first = workplace.start_daemons(2)["fsid"]
    workplace.ok("stop", "-H", workplace.hosts)
    arguments = ("start", "-r", workplace.root, "-H", workplace.hosts)
    assert "of 2 daemons, not of 3" in workplace.fails(3, *arguments, "-n", "3")
    again = workplace.ok(*arguments, "--json").json
    assert (again["fsid"], len(again["daemons"])) == (first, 2)
    workplace.ok("stop", "-H", workplace.hosts)


def test_a_hostfile_of_dead_daemons_is_replaced_by_the_same_file_system_only(workplace: Workplace) -> None:
    said = workplace.start_daemons()
    arguments = ("start", "-r", workplace.root, "-H", workplace.hosts)
    assert "running file system" in workplace.fails(5, *arguments)
    assert workplace.ok("status", "-H", workplace.hosts, "--json").json["fsid"] == said["fsid"]
    kill(said["daemons"][0]["pid"], workplace)
    other = workplace.folder / "other"
    other.mkdir()
    line = workplace.fails(5, "start", "-r", other, "-H", workplace.hosts)
    assert "another file system" in line
    assert list(other.iterdir()) == []
    assert workplace.ok(*arguments, "--json").json["fsid"] == said["fsid"]
    workplace.ok("stop", "-H", workplace.hosts)


def test_an_empty_hostfile_is_taken(workplace: Workplace) -> None:
    workplace.hosts.touch()
    workplace.start_daemons()
    workplace.ok("stop", "-H", workplace.hosts)


def test_start_names_a_wrong_rootdir(workplace: Workplace) -> None:
    file = workplace.folder / "file"
    file.touch()
    for root, fact in (
        (workplace.folder / "none", "does not exist"),
        (file, "not a directory"),
        ("/proc", "/proc"),
    ):
        assert fact in workplace.fails(3, "start", "-r", root, "-H", workplace.hosts)
        assert not workplace.hosts.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_start_names_an_unwritable_rootdir(workplace: Workplace) -> None:
    workplace.root.chmod(0o500)
    assert "may not be written to" in workplace.fails(3, "start", "-r", workplace.root, "-H", workplace.hosts)


def test_start_names_a_hostfile_that_cannot_be_made(workplace: Workplace) -> None:
    hosts = workplace.folder / "none" / "hosts"
    assert "No such file" in workplace.fails(5, "start", "-r", workplace.root, "-H", hosts)
    workplace.hosts.write_text("something else\n")
    assert "line 1" in workplace.fails(5, "start", "-r", workplace.root, "-H", workplace.hosts)
    assert workplace.hosts.read_text() == "something else\n"


def test_a_taken_port_is_named_and_nothing_is_left(workplace: Workplace) -> None:
    with listener() as (server, _):
        port = server.getsockname()[1]
        # Daemon 0 can listen, daemon 1 would take the next port.
        arguments = ("start", "-r", workplace.root, "-H", workplace.hosts, "-n", "2", "-l")
        line = workplace.fails(8, *arguments, f"tcp://127.0.0.1:{port - 1}")
    assert f"daemon 1: cannot listen on tcp://127.0.0.1:{port}" in line
    assert (list(workplace.root.iterdir()), workplace.hosts.exists()) == ([], False)
    assert workplace.processes() == {}


def test_an_address_that_is_none_is_named(workplace: Workplace) -> None:
    arguments = ("start", "-r", workplace.root, "-H", workplace.hosts, "-l")
    assert "is not tcp://HOST:PORT" in workplace.fails(8, *arguments, "localhost")


def test_two_starts_on_one_rootdir_do_not_disturb_each_other(workplace: Workplace) -> None:
    workplace.start_daemons()
    second = workplace.folder / "hosts-2"
    line = workplace.fails(3, "start", "-r", workplace.root, "-H", second)
    assert "in use by process" in line
    assert not second.exists()
    workplace.ok("status", "-H", workplace.hosts)
    workplace.ok("stop", "-H", workplace.hosts)


def test_two_file_systems_side_by_side_are_independent(workplace: Workplace) -> None:
    first = workplace.start_daemons(2)["fsid"]
    root, hosts = workplace.folder / "root-2", workplace.folder / "hosts-2"
    root.mkdir()
    second = workplace.ok("start", "-r", root, "-H", hosts, "-n", "2", "--json").json["fsid"]
    assert first != second
    workplace.ok("stop", "-H", workplace.hosts)
    assert workplace.ok("status", "-H", hosts, "--json").json["fsid"] == second
    workplace.ok("stop", "-H", hosts)


def test_a_dead_daemon_is_a_row_and_status_6(workplace: Workplace) -> None:
    daemons = workplace.start_daemons(2)["daemons"]
    kill(daemons[1]["pid"], workplace)
    done = workplace.gkfs("status", "-H", workplace.hosts)
    assert done.status == 6
    assert "no answer" in done.out
    assert done.err.startswith("gkfs: 1 of 2 daemons do not answer: daemon 1 (")
    told = workplace.gkfs("status", "-H", workplace.hosts, "--json").json["daemons"]
    assert [daemon["alive"] for daemon in told] == [True, False]
    assert "cannot be reached" in told[1]["error"]
    stopped = workplace.gkfs("stop", "-H", workplace.hosts, "--purge", "--json")
    assert stopped.status == 0
    assert stopped.err.splitlines() == [line for line in stopped.err.splitlines() if "daemon 1 (" in line]
    assert "was already gone" in stopped.err
    assert (stopped.json["stopped"], stopped.json["already_gone"]) == ([0], [1])
    assert (list(workplace.root.iterdir()), workplace.hosts.exists()) == ([], False)


def test_a_daemon_that_hangs_is_no_gone_one(workplace: Workplace) -> None:
    (daemon,) = workplace.start_daemons()["daemons"]
    only_tcp = workplace.folder / "only-tcp"
    hosts = hostfile.read(workplace.hosts)
    only_tcp.write_text(workplace.hosts.read_text().replace(daemon["unix"], "-"))
    keyfile.make(only_tcp, hosts.fsid, hosts.key)
    os.kill(daemon["pid"], signal.SIGSTOP)
    begun_s = time.monotonic()
    assert "no answer within" in workplace.gkfs("status", "-H", only_tcp).err
    assert time.monotonic() - begun_s < 30  # the limit is CONTROL_TIMEOUT_S, 5 s
    os.kill(daemon["pid"], signal.SIGCONT)
    workplace.ok("stop", "-H", workplace.hosts)


def test_purge_leaves_files_of_others(workplace: Workplace) -> None:
    workplace.start_daemons()
    (workplace.root / "mine").touch()
    (workplace.root / "daemon-0" / "mine").touch()
    workplace.ok("stop", "-H", workplace.hosts, "--purge")
    left = sorted(str(path.relative_to(workplace.root)) for path in workplace.root.rglob("*"))
    assert left == ["daemon-0", "daemon-0/mine", "mine"]


def test_status_and_stop_name_what_is_wrong_with_the_hostfile(workplace: Workplace) -> None:
    for verb in ("status", "stop"):
        assert "No such file" in workplace.fails(5, verb, "-H", workplace.hosts)
        assert "line 1" in workplace.fails(5, verb, "-H", "/etc/passwd")
    workplace.hosts.write_text(format_header(FSID, 1) + "0 node1\n")
    assert "line 2" in workplace.fails(5, "status", "-H", workplace.hosts)


def test_a_daemon_not_yet_in_the_hostfile_is_said_to_be_missing(workplace: Workplace) -> None:
    write_hosts(workplace.hosts, FSID, 1)
    done = workplace.gkfs("status", "-H", workplace.hosts)
    assert (done.status, "not started" in done.out) == (6, True)


def test_another_version_is_named(workplace: Workplace) -> None:
    with listener() as (server, uri):
        write_hosts(workplace.hosts, FSID, 1, DaemonAddress(0, "node1", uri, "-"))

        def answer() -> None:
            for _ in range(2):
                with server.accept()[0] as connection:
                    connection.recv(4096)
                    connection.sendall(struct.pack("<4sHH", b"gkfs", 99, errno.EPROTO))
                    connection.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        done = workplace.gkfs("status", "-H", workplace.hosts)
        stopped = workplace.fails(7, "stop", "-H", workplace.hosts)
        thread.join()
    assert done.status == 7
    assert "speaks protocol 99, this gkfs protocol" in done.err
    assert "speaks protocol 99, this gkfs protocol" in stopped
    assert workplace.hosts.exists()


def test_of_daemons_that_start_at_once_one_makes_the_hostfile(workplace: Workplace) -> None:
    daemons = [
        workplace.start(
            ["daemon", "-r", workplace.root, "-H", workplace.hosts, "-n", "3"], {"SLURM_PROCID": index}
        )
        for index in "012"
    ]
    status = workplace.ok("status", "-H", workplace.hosts, "--wait", "60", "--json").json
    assert len(status["daemons"]) == 3
    assert all(daemon["alive"] for daemon in status["daemons"])
    workplace.ok("stop", "-H", workplace.hosts)
    ends = [(daemon.communicate(timeout=TIMEOUT_S), daemon.returncode) for daemon in daemons]
    assert [status for _, status in ends] == [0, 0, 0]


def test_a_daemon_that_listens_everywhere_is_known_by_its_host_name(workplace: Workplace) -> None:
    daemon = workplace.start(["daemon", "-r", workplace.root, "-H", workplace.hosts, "-n", "1", "-i", "0"])
    eventually(lambda: workplace.hosts.exists() and "\n0 " in workplace.hosts.read_text(), "its line")
    assert f" tcp://{socket.gethostname()}:" in workplace.hosts.read_text()
    daemon.terminate()
    daemon.communicate(timeout=TIMEOUT_S)
    assert daemon.returncode == 0


def test_daemon_names_what_does_not_fit(workplace: Workplace) -> None:
    arguments = ("daemon", "-r", workplace.root, "-H", workplace.hosts, "-i", "0")
    assert "No such file" in workplace.fails(5, *arguments)
    workplace.start_daemons(2)
    workplace.ok("stop", "-H", workplace.hosts)
    write_hosts(workplace.hosts, FSID, 2)
    assert "not of 3" in workplace.fails(5, *arguments, "-n", "3")
    assert "another file system" in workplace.fails(3, *arguments)
    assert "does not exist" in workplace.fails(3, "daemon", "-r", "/none", "-H", workplace.hosts, "-i", "0")


def test_ctrl_c_while_starting_leaves_nothing(workplace: Workplace) -> None:
    process = workplace.start(["start", "-r", workplace.root, "-H", workplace.hosts, "-n", "4"])
    eventually(workplace.hosts.exists, "the hostfile is made")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (130, "")
    assert (list(workplace.root.iterdir()), workplace.hosts.exists()) == ([], False)
