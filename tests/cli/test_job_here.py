"""A job's file system on one machine (`--launcher local`): the same leader and node as on many."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkfs.commands import jobs
from gkfs.commands.launchers import Launcher, Places
from gkfs.commands.leader import Leader, Wishes
from gkfs.commands.mount import Options
from gkfs.commands.signals import Signals
from gkfs.gang import GANG_VARIABLE
from gkfs.hostfile import Features
from tests.cli.workplace import Workplace, eventually, shown

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def job(workplace: Workplace) -> Iterator[jobs.Job]:
    """What is known of this test's job once it runs; it has a name of its own, the state folder being /tmp's."""
    name = f"test-{os.getpid()}-{workplace.folder.name}"[:60]
    workplace.environment |= {jobs.JOB_VARIABLE: name, "LOCAL_SCRATCH": str(workplace.root)}
    yield jobs.Job(name, "", "local", (), (), (), str(jobs.state_folder(name) / jobs.MOUNT_NAME), {})
    assert not jobs.state_folder(name).exists()
    assert list(workplace.root.iterdir()) == []


def start(workplace: Workplace, *options: str | Path) -> dict[str, str]:
    """Start it; the variables it exports."""
    lines = workplace.ok("start", "--launcher", "local", *options).out.splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def keeper(workplace: Workplace) -> int:
    """The process that leads."""
    (pid,) = [pid for pid, words in workplace.processes().items() if " start --launcher" in words]
    return pid


def test_start_exports_what_programs_need_and_stop_removes_everything(workplace: Workplace, job: jobs.Job) -> None:
    exports = start(workplace)
    folder = jobs.state_folder(job.name)
    assert exports == {
        "GKFS_MOUNTDIR": job.mountdir,
        "GKFS_HOSTFILE": str(folder / "hosts"),
        "GKFS_JOB": job.name,
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "data").readlink() == workplace.root / jobs.data_name(job.name)
    Path(job.mountdir, "file").write_text("content")
    assert workplace.ok("status", "-H", exports["GKFS_HOSTFILE"]).out.count("tcp://127.0.0.1:") == 1
    assert "has ended on 1 node\n" in workplace.ok("stop").out


def test_two_daemons_and_a_place_to_mount_of_ones_own(workplace: Workplace, job: jobs.Job) -> None:
    variables = workplace.folder / "variables"
    done = workplace.ok("start", "-m", workplace.mnt, "-n", "2", "-r", workplace.root, "--env-file", variables)
    assert "2 daemons, 1 x " in done.out
    assert f"export GKFS_MOUNTDIR={workplace.mnt}\n" in variables.read_text()
    assert workplace.mounted()
    stopped = workplace.ok("stop", "--json").json
    assert (stopped["job"], stopped["warnings"], stopped["left"]) == (job.name, [], [])


def test_json_says_what_the_exports_say(workplace: Workplace, job: jobs.Job) -> None:
    done = workplace.ok("start", "--launcher", "local", "--json").json
    assert (done["job"], done["daemons"], done["GKFS_MOUNTDIR"]) == (job.name, 1, job.mountdir)
    workplace.ok("stop", "-H", done["GKFS_HOSTFILE"])


def test_a_second_start_of_a_running_job_is_refused_and_harmless(workplace: Workplace, job: jobs.Job) -> None:
    start(workplace)
    Path(job.mountdir, "file").touch()
    line = workplace.fails(1, "start", "--launcher", "local")
    assert line.endswith(f"a file system of job {job.name} runs here already; `gkfs stop` ends it")
    assert os.listdir(job.mountdir) == ["file"]
    workplace.ok("stop")


def test_stop_without_a_job_says_so(workplace: Workplace, job: jobs.Job) -> None:
    assert f"job {job.name} has no file system here" in workplace.fails(5, "stop")


def test_a_failure_is_one_line_and_leaves_nothing(workplace: Workplace, job: jobs.Job) -> None:
    here = os.uname().nodename
    line = workplace.fails(3, "start", "--launcher", "local", "-r", "/nowhere")
    assert line == f"gkfs: {here}: rootdir /nowhere does not exist"
    assert workplace.gkfs("start", "--launcher", "local", "-r", "/nowhere").out == "(exit 3)\n"  # for eval
    assert workplace.gkfs("start", "--launcher", "local", "-r", "/nowhere", "--json").out == ""
    (workplace.mnt / "full").touch()
    line = workplace.fails(4, "start", "--launcher", "local", "-m", workplace.mnt)
    assert line == f"gkfs: {here}: mountdir {workplace.mnt} is not empty: it holds 'full'"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_when_the_leader_ends_everything_does(workplace: Workplace, job: jobs.Job, number: int) -> None:
    start(workplace)
    os.kill(keeper(workplace), number)
    eventually(lambda: not workplace.processes(), "everything has ended")


def test_stop_after_the_leader_was_killed_waits_for_the_end(workplace: Workplace, job: jobs.Job) -> None:
    start(workplace)
    os.kill(keeper(workplace), signal.SIGKILL)
    done = workplace.gkfs("stop")
    assert done.status in (0, 5), done  # it may be gone by then
    eventually(lambda: not jobs.state_folder(job.name).exists(), "everything has ended")
    eventually(lambda: not workplace.processes(), "no process is left")


def test_what_sigkill_left_is_removed_by_stop(workplace: Workplace, job: jobs.Job) -> None:
    start(workplace)
    Path(job.mountdir, "file").write_text("content")
    for pid in workplace.processes():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not workplace.processes(), "all are dead")
    done = workplace.gkfs("stop")
    assert done.status == 0
    assert "is gone" in done.err


def test_what_sigkill_left_does_not_hinder_the_next_start(workplace: Workplace, job: jobs.Job) -> None:
    start(workplace)
    for pid in workplace.processes():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not workplace.processes(), "all are dead")
    start(workplace)
    assert os.listdir(job.mountdir) == []
    workplace.ok("stop")


def test_a_killed_daemon_is_started_again_and_nothing_is_lost(workplace: Workplace, job: jobs.Job) -> None:
    log = workplace.folder / "log"
    start(workplace, "--log", log)
    Path(job.mountdir, "file").write_text("content")
    (daemon,) = [pid for pid, words in workplace.processes().items() if " daemon --until-killed" in words]
    os.kill(daemon, signal.SIGKILL)
    assert Path(job.mountdir, "file").read_text() == "content"
    workplace.ok("stop")
    assert log.read_text().count("daemon 0 was killed by SIGKILL; it is started again") == 1
    assert f"{os.uname().nodename} daemon-0.log: " in log.read_text()


def test_a_mount_in_use_is_detached_and_its_user_named(workplace: Workplace, job: jobs.Job) -> None:
    start(workplace)
    descriptor = os.open(f"{job.mountdir}/file", os.O_RDWR | os.O_CREAT)
    done = workplace.gkfs("stop")
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    assert done.status == 0
    assert f"{job.mountdir} is unmounted under " in done.err
    assert f"({os.getpid()})" in done.err


def test_output_of_start_can_be_read_to_its_end(workplace: Workplace, job: jobs.Job) -> None:
    """As by `eval "$(gkfs start)"`, also with 2>&1: what stays in the background holds no pipe."""
    start(workplace)  # reads stdout and stderr, pipes both, to their ends
    workplace.ok("stop")


def test_job_file_tells_how_to_reach_the_leader_and_is_private(workplace: Workplace, job: jobs.Job) -> None:
    start(workplace)
    file = jobs.state_folder(job.name) / "job.json"
    assert file.stat().st_mode & 0o777 == 0o600
    known = json.loads(file.read_bytes())
    assert list(known["gang"]) == ["GKFS_GANG"]
    key = known["gang"]["GKFS_GANG"].split()[0]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert key not in process.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    workplace.ok("stop")


def test_every_node_has_the_key_and_nothing_shows_it(workplace: Workplace, job: jobs.Job) -> None:
    start(workplace)
    folder = jobs.state_folder(job.name)
    (path,) = folder.glob("hosts.*.key")
    assert path.stat().st_mode & 0o777 == 0o600
    assert shown(path.read_text().split()[2], folder) == [str(path)]
    workplace.ok("stop")
    assert not folder.exists()


def test_what_the_leader_sends_to_nodes_holds_no_key() -> None:
    """The connection is proved, but anybody in between may read it."""
    here = Places(Launcher.LOCAL, ("here",))
    options = Options(False, False, True, True, False, "hash", 1000, None, None)
    wishes = Wishes(
        "x", here, ("here",), ("here",), None, None, 1, None, "tcp://127.0.0.1:0", [], options, None, Features()
    )
    with Signals() as signals:
        leader = Leader(wishes, signals)
        leader._names[0] = "here"
        secret = leader.job.gang[GANG_VARIABLE].split()[0]
        (plan,) = leader._plans().values()
        leader.close()
    assert len(secret) == 64
    assert secret not in json.dumps(plan._asdict())


def test_node_is_not_started_by_hand(workplace: Workplace) -> None:
    assert "no rank" in workplace.fails(2, "node")
    assert "GKFS_GANG is not set" in workplace.fails(2, "node", env={"GKFS_RANK": "0"})
