"""`gkfs stage-in` and `stage-out` killed, interrupted, or left by a daemon: a second call completes them."""

import contextlib
import os
import signal
import subprocess

import pytest

from tests.cli.staged import make_tree, stage
from tests.cli.workplace import TIMEOUT_S, Workplace, eventually
from tests.mount.trees import assert_same


def chunks_there(site: Workplace) -> int:
    return sum(len(files) for _, _, files in os.walk(site.root))


def kill_all(site: Workplace, process: "subprocess.Popen[str]") -> None:
    """End a running stage-in or stage-out, movers and all, without a chance to clean up."""
    running = site.processes().items()
    victims = [pid for pid, arguments in running if " mover" in arguments or " stage-" in arguments]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):  # a mover ends with the leader
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    eventually(lambda: not set(victims) & site.processes().keys(), "the movers are gone")


def test_a_killed_stage_in_is_finished_by_a_second_call(pair: Workplace) -> None:
    source, out = make_tree(pair.folder / "source", 3000), pair.folder / "out"
    before = chunks_there(pair)
    process = pair.start(("stage-in", "-H", pair.hosts, source, "/"))
    eventually(lambda: chunks_there(pair) > before + 200, "some files are there")
    kill_all(pair, process)
    stage(pair, "in", source, "/")
    stage(pair, "out", "/source", out)
    assert_same(source, out / "source")


def test_a_killed_stage_out_is_finished_by_a_second_call(pair: Workplace) -> None:
    source, out = make_tree(pair.folder / "source", 3000), pair.folder / "out"
    stage(pair, "in", source, "/")
    process = pair.start(("stage-out", "-H", pair.hosts, "/source", out))
    eventually(lambda: sum(len(files) for _, _, files in os.walk(out)) > 200, "some files are there")
    kill_all(pair, process)
    stage(pair, "out", "/source", out)
    assert_same(source, out / "source")


def test_a_killed_mover_leaves_its_work_to_the_others(pair: Workplace) -> None:
    source, out = make_tree(pair.folder / "source", 3000), pair.folder / "out"
    before = chunks_there(pair)
    process = pair.start(("stage-in", "-H", pair.hosts, "--movers", "3", source, "/"))
    eventually(lambda: chunks_there(pair) > before + 100, "some files are there")
    movers = [pid for pid, arguments in pair.processes().items() if " mover" in arguments]
    os.kill(movers[0], signal.SIGKILL)
    out_text, err = process.communicate()
    assert (process.returncode, "others do what it was at" in err) == (0, True), (out_text, err)
    stage(pair, "in", source, "/")
    stage(pair, "out", "/source", out)
    assert_same(source, out / "source")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_summary_of_what_was_done(pair: Workplace, number: signal.Signals) -> None:
    source = make_tree(pair.folder / "source", 3000)
    before = chunks_there(pair)
    process = pair.start(("stage-in", "-H", pair.hosts, source, "/"))
    eventually(lambda: chunks_there(pair) > before + 100, "some files are there")
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (128 + number, "")
    assert 0 < int(out.split()[1]) < 3001
    assert stage(pair, "in", source, "/")["skipped"] > 0


def test_a_daemon_that_stays_away_ends_it_and_a_second_call_completes_it(workplace: Workplace) -> None:
    daemons = workplace.start_daemons(2)["daemons"]
    source, out = make_tree(workplace.folder / "source", 3000), workplace.folder / "out"
    os.kill(daemons[1]["pid"], signal.SIGKILL)
    line = workplace.fails(6, "stage-in", "-H", workplace.hosts, source, "/")
    assert "daemon 1" in line
    # Anew: daemons that have restarted ask each other whether directories are there, and any of them may be late.
    workplace.gkfs("stop", "-H", workplace.hosts, "--purge")
    pid = workplace.start_daemons(2)["daemons"][1]["pid"]
    before = chunks_there(workplace)
    process = workplace.start(("stage-in", "-H", workplace.hosts, "--request-timeout", "1.5", source, "/"))
    eventually(lambda: chunks_there(workplace) > before + 30, "some files are there")
    os.kill(pid, signal.SIGSTOP)
    _, err = process.communicate(timeout=TIMEOUT_S)
    os.kill(pid, signal.SIGCONT)
    assert (process.returncode, "daemon 1" in err) == (6, True), err
    stage(workplace, "in", source, "/")
    stage(workplace, "out", "/source", out)
    assert_same(source, out / "source")
    workplace.ok("fsck", "-H", workplace.hosts)
    workplace.ok("stop", "-H", workplace.hosts, "--purge")
