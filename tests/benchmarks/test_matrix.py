"""The matrix itself, with few and small files, on the local disk and on ours: it measures and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks import runner
from benchmarks.processes import Failed, run, with_argument
from benchmarks.runner import Plan, run_plan
from benchmarks.systems.base import System
from benchmarks.systems.disk import Disk
from benchmarks.workloads import SCALES

ROOT = Path(__file__).parents[2]
needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no mounts: /dev/fuse cannot be opened"
)
LIMIT_S = 90.0


def matrix(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start it, with its output beside *folder*."""
    words = ["--scale", "tiny", "--no-install", "--output", str(folder.with_name("out")), *arguments, str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.matrix", *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def leftovers(folder: Path) -> list[object]:
    """Processes, mounts and files."""
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    return [*with_argument(folder), *mounts, *(folder.iterdir() if folder.exists() else ())]


@needs_fuse
def test_a_run_measures_every_row_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "place"
    process = matrix(folder, "--systems", "disk,gkfs-2", "--workloads", "one-1,tree-2,small-4,file,million")
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    document = json.loads((tmp_path / "out/results.json").read_text())
    assert document["systems"]["gkfs-2"]["available"], document["systems"]
    keys = {row["key"] for row in document["rows"]}
    assert {"one-1/list", "one-1/xattr", "tree-2/create", "small-4/read", "file/random-direct-read"} <= keys
    for key in keys:
        for name in ("disk", "gkfs-2"):
            assert document["medians"][key][name]["rate"] > 0, (key, name)
        ours = document["medians"][key]["gkfs-2"]
        assert ours["cpu_us"]["client"] > 0, key
        assert ours["cpu_us"]["daemon"] > 0 or key == "one-1/xattr", key
    assert document["medians"]["one-1/create"]["gkfs-2"]["requests"] >= 1
    assert document["medians"]["one-1/create"]["disk"]["cpu_us"] == {}
    assert document["medians"]["million/create"]["gkfs-2"]["resident_bytes"]["client"] > 1 << 20
    assert "gkfs, 2 daemons" in out
    assert (tmp_path / "out/results.svg").read_text().startswith("<svg")
    assert leftovers(folder) == []
    assert not folder.exists()


@needs_fuse
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_half_way_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "place"
    process = matrix(folder, "--systems", "disk,gkfs-1", "--workloads", "one-1", "--rounds", "1000")
    assert process.stderr is not None
    try:
        while not process.stderr.readline().startswith("round 1 "):
            assert process.poll() is None
        assert len(with_argument(folder)) >= 2
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == f"benchmarks: ended by {number.name}, everything is removed"
    assert leftovers(folder) == []


class NotPackaged(Disk):
    packages: ClassVar = ("gkfs-no-such-package",)


class Breaks(Disk):
    """Comes up, but no directory can be made in it."""

    def bring_up(self) -> None:
        self.mountpoint.rmdir()
        self.mountpoint.symlink_to("/proc")


def run_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[System]
) -> tuple[dict[str, Any], list[str]]:
    """The document and the messages of a run with the disk and another system."""
    monkeypatch.setattr(runner, "CATALOGUE", {"other": kind, "disk": Disk})
    said: list[str] = []
    plan = Plan(tmp_path, "tiny", SCALES["tiny"], ["other", "disk"], ["one-1"], install=False)
    document = run_plan(plan, said.append)
    assert list(tmp_path.iterdir()) == []
    assert set(document["medians"]["one-1/create"]) == {"disk"}
    return document["systems"]["other"], said


def test_a_system_that_cannot_be_had_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, said = run_with(tmp_path, monkeypatch, NotPackaged)
    reason = "Debian packages are missing: gkfs-no-such-package"
    assert (entry["available"], entry["reason"]) == (False, reason)
    assert f"other: not available: {reason}" in said


def test_a_system_that_fails_half_way_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, _ = run_with(tmp_path, monkeypatch, Breaks)
    assert not entry["available"]
    assert entry["reason"].startswith("failed in round 1, one-1/prepare: ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--systems", "disk,nosuch"], "no system nosuch"),
        (["--workloads", "nosuch"], "no workload nosuch"),
        (["--set", "files=many"], "files=many: not a number"),
        (["--set", "nosuch=1"], "no nosuch"),
        ([], "is not empty"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "mine").touch()
    process = matrix(folder, *arguments)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert complaint in err
    assert (folder / "mine").exists()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """load.c, compiled."""
    program = tmp_path_factory.mktemp("load") / "load"
    run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, runner.LOAD_SOURCE])
    return program


@pytest.mark.parametrize("layout", ["one", "own", "tree"])
def test_the_load_does_what_it_says_and_clears_up(load: Path, tmp_path: Path, layout: str) -> None:
    def phase(name: str) -> dict[str, Any]:
        done: dict[str, Any] = json.loads(run([load, name, tmp_path, layout, "230,230", 100, 0]))
        return done

    phase("prepare")
    assert phase("write")["counts"] == [230, 230]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 460
    assert {path.stat().st_size for path in files} == {100}
    assert len({path.read_bytes() for path in files}) == 460
    for name in ("stat", "read", "open", "remove"):
        done = phase(name)
        assert done["operations"] == 460
        assert done["duration_ns"] > 0
    phase("clear")
    assert list(tmp_path.iterdir()) == []


def test_the_load_notices_a_file_that_holds_anothers_data(load: Path, tmp_path: Path) -> None:
    run([load, "write", tmp_path, "one", 10, 100, 0])
    first, second, *_ = sorted(tmp_path.iterdir())
    second.write_bytes(first.read_bytes())
    with pytest.raises(Failed, match="wrong contents"):
        run([load, "read", tmp_path, "one", 10, 100, 0])


def test_the_load_stops_at_its_limit_and_says_how_far_it_came(load: Path, tmp_path: Path) -> None:
    begun_s = time.monotonic()
    done = json.loads(run([load, "create", tmp_path, "one", "10000000,10000000", 0, 100]))
    assert time.monotonic() - begun_s < 20
    assert sum(done["counts"]) == done["operations"] == len(list(tmp_path.iterdir()))
    assert done["duration_ns"] >= 100e6
