"""`--tls` on the command line: what it makes, who follows it, and what is said where it does not fit."""

import json
from pathlib import Path

import pytest

from tests.cli.workplace import Workplace

ON = {"GKFS_TLS": "1"}


def says_tls(workplace: Workplace) -> bool:
    """Whether the hostfile and the superblocks do."""
    header = workplace.hosts.read_text().splitlines()[0].endswith(" tls=1")
    for path in workplace.root.glob("*/superblock.json"):
        assert json.loads(path.read_text())["tls"] is header
    return header


def over_tcp(workplace: Workplace) -> None:
    """From now on nobody calls by Unix socket."""
    for path in workplace.root.glob("*/socket"):
        path.unlink()


def stop(workplace: Workplace) -> None:
    workplace.ok("stop", "-H", workplace.hosts)


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_a_file_system_in_tls_is_used_without_saying_so_again(how: str, workplace: Workplace) -> None:
    start = ["start", "-r", str(workplace.root), "-H", str(workplace.hosts), "-n", "2"]
    configuration = workplace.folder / "gkfs.toml"
    configuration.write_text("tls = true\n")
    options = {"option": ["--tls"], "variable": [], "file": ["--config", str(configuration)]}
    done = workplace.gkfs(*start, *options[how], env=ON if how == "variable" else {})
    assert done.status == 0, done
    assert says_tls(workplace)
    over_tcp(workplace)
    assert workplace.ok("status", "-H", workplace.hosts).out.splitlines()[0].endswith(", in TLS")
    workplace.ok("mount", "-H", workplace.hosts, workplace.mnt)
    (workplace.mnt / "file").write_bytes(b"x" * 3_000_000)
    workplace.ok("fsck", "-H", workplace.hosts)
    workplace.ok("umount", workplace.mnt)
    stop(workplace)


def test_the_option_comes_before_the_environment(workplace: Workplace) -> None:
    start = ["start", "-r", str(workplace.root), "-H", str(workplace.hosts), "--no-tls"]
    assert workplace.gkfs(*start, env=ON).status == 0
    assert not says_tls(workplace)
    stop(workplace)


def test_a_restart_speaks_tls_as_before_and_does_not_change_it(workplace: Workplace) -> None:
    start = ("start", "-r", workplace.root, "-H", workplace.hosts)
    workplace.ok(*start, "--tls")
    stop(workplace)
    line = workplace.fails(3, *start, "--no-tls")
    assert line.endswith("is of a file system with TLS, not without")
    workplace.ok(*start)
    assert says_tls(workplace)
    stop(workplace)
    (workplace.root / "plain").mkdir()
    plain = ("start", "-r", workplace.root / "plain", "-H", workplace.hosts)
    workplace.ok(*plain)
    stop(workplace)
    assert workplace.fails(3, *plain, "--tls").endswith("is of a file system without TLS, not with")


def test_a_daemon_or_mount_that_joins_does_not_change_it(workplace: Workplace) -> None:
    daemon = ("daemon", "-r", workplace.root, "-H", workplace.hosts, "-i", "0")
    mount = ("mount", "-H", workplace.hosts, workplace.mnt, "--with-daemon", "-r", workplace.root, "-i", "0")
    workplace.ok("start", "-r", workplace.root, "-H", workplace.hosts, "--tls")
    for verb in (daemon, mount):
        assert workplace.fails(5, *verb, "--no-tls").endswith("is of a file system with TLS, not without")
    stop(workplace)
    (workplace.root / "plain").mkdir()
    workplace.ok("start", "-r", workplace.root / "plain", "-H", workplace.hosts)
    for verb in (daemon, mount):
        assert workplace.fails(5, *verb, "--tls").endswith("is of a file system without TLS, not with")
    stop(workplace)


def test_tls_is_for_a_mount_with_a_daemon_only(workplace: Workplace) -> None:
    line = workplace.fails(2, "mount", "-H", workplace.hosts, workplace.mnt, "--tls")
    assert "--tls is for a daemon" in line


@pytest.mark.parametrize("daemons_in_tls", [True, False], ids=["daemons", "callers"])
def test_who_has_it_otherwise_in_his_hostfile_is_told_so_in_one_line(
    daemons_in_tls: bool, workplace: Workplace
) -> None:
    option = ["--tls"] if daemons_in_tls else []
    workplace.ok("start", "-r", workplace.root, "-H", workplace.hosts, *option)
    right = workplace.hosts.read_text()
    wrong = right.replace(" tls=1", "") if daemons_in_tls else right.replace("daemons=1", "daemons=1 tls=1")
    workplace.hosts.write_text(wrong)
    sockets = list(workplace.root.glob("*/socket"))
    for path in sockets:
        path.rename(path.with_name("hidden"))
    reason = "speaks TLS only, and our hostfile" if daemons_in_tls else "does not answer in TLS"
    for verb, place in (("status", ()), ("mount", (workplace.mnt,)), ("fsck", ())):
        assert reason in workplace.fails(15, verb, "-H", workplace.hosts, *place)
    workplace.hosts.write_text(right)
    for path in sockets:
        path.with_name("hidden").rename(path)
    stop(workplace)


def test_without_openssl_nothing_is_started_and_one_line_says_why(workplace: Workplace) -> None:
    start = ("start", "-r", workplace.root, "-H", workplace.hosts)
    line = workplace.fails(15, *start, "--tls", env={"PATH": "/nowhere"})
    assert "no certificate for --tls: the program openssl is missing (package openssl)" in line
    assert list(workplace.root.iterdir()) == []
    assert not workplace.hosts.exists()


@pytest.mark.parametrize("separate", [[], ["--separate-daemon"], ["-n", "2"]], ids=["embedded", "separate", "two"])
def test_run_speaks_tls(separate: list[str], workplace: Workplace) -> None:
    command = "head -1 $GKFS_HOSTFILE; echo x > $GKFS_MOUNTDIR/f; cat $GKFS_MOUNTDIR/f"
    done = workplace.ok("run", "-m", workplace.mnt, "--tls", *separate, "--", "sh", "-c", command)
    header, data = done.out.splitlines()
    assert header.endswith(" tls=1")
    assert data == "x"


def test_all_processes_of_a_job_speak_tls(workplace: Workplace, tmp_path: Path) -> None:
    job = {"GKFS_JOB": f"tls-{tmp_path.name[-8:]}", "GKFS_TLS": "1"}
    where = ["--launcher", "local", "-r", str(workplace.root), "-m", str(workplace.mnt)]
    done = workplace.gkfs("start", *where, "--json", env=job)
    assert done.status == 0, done
    hosts = Path(done.json["GKFS_HOSTFILE"])
    assert hosts.read_text().splitlines()[0].endswith(" tls=1")
    members = json.loads((hosts.parent / "job.json").read_text())["gang"]["GKFS_GANG"]
    assert members.split()[1] == "tls"
    (workplace.folder / "in").mkdir()
    (workplace.folder / "in" / "file").write_text("staged")
    for verb in (
        ["stage-in", str(workplace.folder / "in"), "/"],
        ["stage-out", "/in", str(workplace.folder / "out/")],
        ["pack", str(workplace.folder / "pack")],
        ["unpack", str(workplace.folder / "pack"), "/again"],
        ["stop"],
    ):
        done = workplace.gkfs(*verb, env=job)
        assert done.status == 0, (verb, done)
    assert (workplace.folder / "out" / "in" / "file").read_text() == "staged"
