"""What the options about nodes mean, and where a node looks for its disk."""

from pathlib import Path

import pytest

from gkfs.commands import scratch
from gkfs.commands.launchers import Launcher, Places, chosen, expand, find_places, own_name, own_rank
from gkfs.commands.mounts import Mount
from gkfs.commands.wishes import parse_cores
from gkfs.errors import ExitStatus, GkfsError


def test_hosts_come_from_a_list_or_a_file_each_once(tmp_path: Path) -> None:
    file = tmp_path / "nodes"
    file.write_text("a\n\nb # the second\na\n")
    assert expand(str(file), Launcher.SSH) == ["a", "b"]
    assert expand("c, b,c", Launcher.SSH) == ["c", "b"]


@pytest.mark.parametrize(
    ("hosts", "reason"),
    [
        (",", "no host named"),
        ("-oProxyCommand=x", "is no host name"),
        ("a b", "is no host name"),
        ("/none", "No such"),
    ],
)
def test_what_is_no_host_is_refused(hosts: str, reason: str) -> None:
    with pytest.raises(GkfsError, match=reason) as caught:
        expand(hosts, Launcher.SSH)
    assert caught.value.status == ExitStatus.USAGE


def test_some_of_the_nodes_are_chosen_in_their_order() -> None:
    places = Places(Launcher.SSH, ("a", "b", "c"))
    assert chosen("c,a", places, "mount-on") == ("a", "c")
    with pytest.raises(GkfsError, match="--mount-on: d is none of the 3 nodes, a, b, c"):
        chosen("d", places, "mount-on")


def test_without_a_job_it_is_this_machine_or_the_hosts_named() -> None:
    assert find_places("auto", None, {}).launcher is Launcher.LOCAL
    assert find_places("auto", "a,b", {}) == Places(Launcher.SSH, ("a", "b"))
    for launcher in ("ssh", "mpi"):
        with pytest.raises(GkfsError, match="needs --hosts"):
            find_places(launcher, None, {})
    with pytest.raises(GkfsError, match="no Slurm job here"):
        find_places("slurm", None, {})


def test_rank_and_name_are_what_the_launcher_gave() -> None:
    assert own_rank({"SLURM_PROCID": "3"}) == 3
    assert own_rank({"GKFS_RANK": "2", "SLURM_PROCID": "0"}) == 2
    assert own_name({"SLURMD_NODENAME": "node7"}) == "node7"
    with pytest.raises(GkfsError, match="no rank"):
        own_rank({})


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1,,2", "1-99999"])
def test_lists_of_cores_that_are_none(text: str) -> None:
    with pytest.raises(GkfsError, match="expected a list as 0-3,8"):
        parse_cores(text)


def test_cores_may_be_ranges() -> None:
    assert parse_cores("8,0-2,1") == [0, 1, 2, 8]


def table(monkeypatch: pytest.MonkeyPatch, fs_types: dict[str, str]) -> None:
    mounts = [Mount(Path(path), fs_type) for path, fs_type in fs_types.items()]
    monkeypatch.setattr("gkfs.commands.mounts.table", lambda: iter(mounts))


def test_the_sites_variable_comes_first_and_tmpdir_counts_only_if_it_says_something(tmp_path: Path) -> None:
    assert scratch.find({"LOCAL_SCRATCH": str(tmp_path), "TMPDIR": "/tmp"}) == tmp_path
    assert scratch.find({"TMPDIR": f"{tmp_path}/"}) == tmp_path


def test_a_network_file_system_is_never_taken_memory_only_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, memory, disk = (tmp_path / name for name in ("remote", "memory", "disk"))
    for folder in (remote, memory, disk):
        folder.mkdir()
    monkeypatch.setattr(scratch, "FOLDERS", (str(memory), str(disk)))
    fs_types = {"/": "ext4", str(remote): "lustre", str(memory): "tmpfs"}
    table(monkeypatch, fs_types)
    assert scratch.find({"LOCAL_SCRATCH": str(remote)}) == disk
    table(monkeypatch, fs_types | {str(disk): "fuse.sshfs"})
    assert scratch.find({"LOCAL_SCRATCH": str(remote)}) == memory
    table(monkeypatch, {"/": "nfs4"})
    with pytest.raises(GkfsError, match="no folder on a disk of this node") as caught:
        scratch.find({})
    assert caught.value.status == ExitStatus.ROOTDIR


def test_the_users_own_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "FOLDERS", (str(tmp_path),))
    own = tmp_path / "root"
    own.mkdir()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert scratch.find({}) == own
