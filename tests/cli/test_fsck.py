"""fsck: the command on real daemons, its output and its exit statuses."""

import os
import re
import signal
from pathlib import Path

from gkfs.daemon.chunk_files import file_name
from tests.cli.workplace import Workplace, eventually
from tests.hosts import write_hosts

FSID = "0123456789abcdef" * 2
FID = 0x7_0001_0000_0001  # of no file


def plant(workplace: Workplace, daemon: int = 0) -> Path:
    """A chunk file that no index knows."""
    path = workplace.root / f"daemon-{daemon}" / "chunks" / file_name(FID, 2)
    path.write_bytes(b"x" * 50)
    return path


def test_a_sound_file_system_is_status_0_and_a_summary(workplace: Workplace) -> None:
    workplace.start_daemons(2)
    done = workplace.ok("fsck", "-H", workplace.hosts)
    assert re.fullmatch(
        r"1 records: 0 files, 1 directories, 0 links, 0 open without a name; 0 chunks, 0 B; "
        r"0 faults, 0 repaired; \d+\.\d s\n",
        done.out,
    )
    told = workplace.ok("fsck", "-H", workplace.hosts, "--json").json
    assert (told["records"], told["directories"], told["faults"]) == (1, 1, [])
    assert told["fsid"] in workplace.hosts.read_text()
    workplace.ok("stop", "-H", workplace.hosts)


def test_faults_are_named_and_status_11_until_they_are_repaired(workplace: Workplace) -> None:
    workplace.start_daemons(2)
    planted = plant(workplace, daemon=1)
    found = workplace.gkfs("fsck", "-H", workplace.hosts)
    assert found.status == 11
    facts = "a file of 50 bytes that the index does not know, of no record"
    line = f"unindexed: chunk 2 of file {FID:x}, daemon 1: {facts}"
    assert found.out.splitlines()[0] == line
    assert found.out.splitlines()[1].split("; ")[-2] == "1 faults, 0 repaired"
    assert found.err == "gkfs: 1 fault in the file system\n"
    repaired = workplace.gkfs("fsck", "-H", workplace.hosts, "--repair")
    assert (repaired.status, repaired.err) == (10, "gkfs: 1 fault repaired\n")
    assert repaired.out.splitlines()[0] == line + "; repaired"
    assert not planted.exists()
    workplace.ok("fsck", "-H", workplace.hosts)
    workplace.ok("stop", "-H", workplace.hosts)


def test_faults_in_json(workplace: Workplace) -> None:
    workplace.start_daemons()
    plant(workplace)
    (workplace.root / "daemon-0" / "chunks" / "mine").touch()
    done = workplace.gkfs("fsck", "-H", workplace.hosts, "--repair", "--json")
    assert (done.status, done.err) == (11, "gkfs: 1 fault in the file system\n")
    faults = {fault["kind"]: fault for fault in done.json["faults"]}
    assert faults["unindexed"]["repaired"]
    assert faults["foreign"] == {
        "kind": "foreign",
        "where": "chunks/mine",
        "daemon": 0,
        "facts": "0 bytes, not a chunk",
        "repaired": False,
    }
    workplace.ok("stop", "-H", workplace.hosts)


def test_a_missing_daemon_is_named_and_nothing_is_repaired(workplace: Workplace) -> None:
    daemons = workplace.start_daemons(2)["daemons"]
    planted = plant(workplace)
    os.kill(daemons[1]["pid"], signal.SIGKILL)
    eventually(lambda: daemons[1]["pid"] not in workplace.processes(), "the daemon is gone")
    line = workplace.fails(6, "fsck", "-H", workplace.hosts, "--repair")
    assert line.startswith("gkfs: daemon 1 (")
    assert "cannot be reached" in line
    assert planted.exists()
    workplace.gkfs("stop", "-H", workplace.hosts)


def test_a_hostfile_that_is_wrong_or_incomplete_is_named(workplace: Workplace) -> None:
    assert "No such file" in workplace.fails(5, "fsck", "-H", workplace.hosts)
    assert "line 1" in workplace.fails(5, "fsck", "-H", "/etc/passwd")
    write_hosts(workplace.hosts, FSID, 1)
    assert "daemon 0 is not in the hostfile" in workplace.fails(6, "fsck", "-H", workplace.hosts)
