"""The key on the command line's side: where it is, where it is not, and what is said without it."""

import os
import tempfile
from pathlib import Path

import pytest

from gkfs import keyfile
from tests.cli.workplace import Workplace, shown
from tests.users import as_other_user


def test_the_key_is_beside_the_hostfile_and_nowhere_else_and_goes_with_it(workplace: Workplace) -> None:
    fsid = workplace.start_daemons(2)["fsid"]
    path = workplace.hosts.with_name(f"hosts.{fsid}.key")
    assert path.stat().st_mode & 0o777 == 0o600
    assert workplace.gkfs("status", "-H", workplace.hosts, env={"GKFS_DEBUG": "1"}).status == 0
    assert shown(path.read_text().split()[2], workplace.folder) == [str(path)]
    workplace.ok("stop", "-H", workplace.hosts)
    assert not path.exists()
    again = workplace.start_daemons(2)["fsid"]
    assert again == fsid
    workplace.ok("stop", "-H", workplace.hosts)


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("status", ()),
        ("stop", ()),
        ("fsck", ()),
        ("du", ()),
        ("mount", ("mnt",)),
        ("daemon", ("-r", "root", "-i", "0")),
        ("start", ("-r", "root")),
    ],
)
def test_without_the_key_every_verb_says_so(verb: str, options: tuple[str, ...], workplace: Workplace) -> None:
    fsid = workplace.start_daemons()["fsid"]
    path = workplace.hosts.with_name(f"hosts.{fsid}.key")
    kept = path.with_name("kept")
    path.rename(kept)
    (workplace.folder / "mnt").mkdir(exist_ok=True)
    places = {"mnt": workplace.folder / "mnt", "root": workplace.root}
    line = workplace.fails(15, verb, "-H", workplace.hosts, *(places.get(option, option) for option in options))
    assert line.startswith(f"gkfs: no key for file system {fsid}: {path}: No such file or directory")
    kept.rename(path)
    workplace.ok("stop", "-H", workplace.hosts)


def test_with_the_key_of_another_start_status_names_the_daemon(workplace: Workplace) -> None:
    fsid = workplace.start_daemons()["fsid"]
    kept = workplace.folder / "kept"
    path = workplace.hosts.with_name(f"hosts.{fsid}.key")
    path.rename(kept)
    assert keyfile.make(workplace.hosts, fsid)
    for verb in ("status", "stop"):
        line = workplace.fails(15, verb, "-H", workplace.hosts)
        assert "daemon 0 (" in line
        assert f"has another key for file system {fsid} than we have" in line
    kept.rename(path)
    workplace.ok("stop", "-H", workplace.hosts)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
def test_nobody_else_reads_the_key_or_the_data(workplace: Workplace) -> None:
    with tempfile.TemporaryDirectory() as name:  # every user can get there, unlike to those of pytest
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "daemon-0").mkdir()
        (folder / "daemon-0").chmod(0o777)
        fsid = workplace.ok("start", "-r", folder, "-H", folder / "hosts", "--json").json["fsid"]
        closed = [folder / "daemon-0", folder / f"hosts.{fsid}.key", folder / "hosts"]
        assert as_other_user(lambda: sum(path.exists() for path in closed)) == 3
        assert as_other_user(lambda: sum(os.access(path, os.R_OK) for path in closed)) == 0
        workplace.ok("stop", "-H", folder / "hosts", "--purge")
        assert list(folder.iterdir()) == []
