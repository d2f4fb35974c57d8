"""`--checksums` and `--sync` on the command line: what they make, who follows, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.workplace import Workplace


def superblocks(workplace: Workplace) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(workplace.root.glob("*/superblock.json"))]


def stop(workplace: Workplace) -> None:
    workplace.ok("stop", "-H", workplace.hosts)


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_all_daemons_and_restarts_follow_what_was_chosen(how: str, workplace: Workplace) -> None:
    start = ["start", "-r", str(workplace.root), "-H", str(workplace.hosts), "-n", "2"]
    configuration = workplace.folder / "gkfs.toml"
    configuration.write_text('checksums = true\nsync = "commit"\n')
    options = {"option": ["--checksums", "--sync", "commit"], "file": ["--config", str(configuration)]}
    environment = {"GKFS_CHECKSUMS": "1", "GKFS_SYNC": "commit"} if how == "variable" else {}
    done = workplace.gkfs(*start, *options.get(how, []), env=environment)
    assert done.status == 0, done
    for _ in range(2):
        assert "checksums=xxh3 sync=commit" in workplace.hosts.read_text().splitlines()[0]
        assert [(b["checksums"], b["sync"], b["clean"]) for b in superblocks(workplace)] == [
            (True, "commit", False)
        ] * 2
        said = workplace.ok("status", "-H", workplace.hosts)
        assert ", checksums, sync commit" in said.out.splitlines()[0]
        stop(workplace)
        assert [block["clean"] for block in superblocks(workplace)] == [True, True]
        workplace.ok(*start[:-2])
    stop(workplace)


def test_checksums_cannot_be_chosen_later_and_syncing_can(workplace: Workplace) -> None:
    start = ("start", "-r", workplace.root, "-H", workplace.hosts)
    workplace.ok(*start)
    stop(workplace)
    assert "without checksums" in workplace.fails(3, *start, "--checksums")
    workplace.ok(*start, "--sync", "none")
    told = workplace.ok("status", "-H", workplace.hosts, "--json").json
    assert (told["checksums"], told["sync"]) == (False, "none")
    daemon = ("daemon", "-r", workplace.root, "-H", workplace.hosts, "--index", "0")
    assert "--sync none, not commit" in workplace.fails(5, *daemon, "--sync", "commit")
    stop(workplace)


def test_what_is_no_way_to_sync_is_refused(workplace: Workplace, tmp_path: Path) -> None:
    start = ("start", "-r", workplace.root, "-H", workplace.hosts)
    assert "'none', 'fsync', 'commit'" in workplace.fails(2, *start, "--sync", "often")


def test_run_has_checksums_and_synced_commits(workplace: Workplace) -> None:
    status = f'{sys.executable} -m gkfs status -H "$GKFS_HOSTFILE"'
    script = f'{status} | head -1; echo text > "$GKFS_MOUNTDIR/file"; sync "$GKFS_MOUNTDIR/file"'
    done = workplace.gkfs(
        *("run", "-m", str(workplace.mnt), "-n", "2", "--checksums", "--sync", "commit", "--", "sh", "-c", script)
    )
    assert done.status == 0, done
    assert ", checksums, sync commit" in done.out
