"""The folder of a pack: whose it is, what is removed from it, and how movers share daemons."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkfs import manifest
from gkfs.commands import packfolder
from gkfs.commands.packfolder import PackFolder
from gkfs.commands.packing import shares
from gkfs.errors import ExitStatus, GkfsError
from gkfs.manifest import Container, Manifest


def sample(pack: str) -> Manifest:
    names = [manifest.data_name(pack, 0), manifest.tree_name(pack)]
    containers = [Container(name, 1024, 0, 9, 8, "00") for name in names]
    return Manifest(pack, "1", "now", 0.5, "ab", "/\udcff", {}, containers, {"a\udcff": 2}, {"files": 1}, {})


def read(folder: Path) -> Manifest | ExitStatus:
    try:
        return manifest.read(folder)
    except GkfsError as error:
        return error.status


def files_of(pack: str) -> set[str]:
    names = [manifest.data_name(pack, 0), manifest.tree_name(pack)]
    return {f"{name}.{ending}" for name in names for ending in ("tar", "index")}


def write_files(folder: PackFolder) -> set[str]:
    for name in files_of(folder.pack):
        (folder.folder / name).touch()
    return files_of(folder.pack)


def test_a_manifest_comes_back_and_any_change_of_it_is_found(tmp_path: Path) -> None:
    written = sample(manifest.new_pack())
    manifest.write(tmp_path, written)
    assert manifest.read(tmp_path) == written
    path = tmp_path / manifest.NAME
    text = path.read_bytes()
    for offset in range(0, len(text), 7):
        path.write_bytes(text[:offset] + bytes([text[offset] ^ 1]) + text[offset + 1 :])
        found = read(tmp_path)
        if text[offset : offset + 1].strip():
            assert found is ExitStatus.PACK
        else:
            assert found in (written, ExitStatus.PACK)  # white space may change
    path.write_bytes(text[: len(text) // 2])
    with pytest.raises(GkfsError, match="is damaged"):
        manifest.read(tmp_path)


def test_what_is_not_completed_is_removed_at_the_end(tmp_path: Path) -> None:
    with PackFolder(tmp_path / "new", replace=False) as folder:
        write_files(folder)
    assert not (tmp_path / "new").exists()


def test_a_completed_pack_replaces_the_one_before_and_all_remains(tmp_path: Path) -> None:
    for remains in (set(), {"data-0123abcd-0000.tar", "tree-0123abcd.index", f"{manifest.NAME}.0123abcd"}):
        for name in remains:
            (tmp_path / name).touch()
        with PackFolder(tmp_path, replace=True) as folder:
            ours = write_files(folder)
            assert not set(os.listdir(tmp_path)) & remains
            folder.complete(sample(folder.pack))
        assert set(os.listdir(tmp_path)) == ours | {manifest.NAME}


def test_one_who_packs_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    with PackFolder(tmp_path, replace=False) as folder:
        ours = write_files(folder)
        with pytest.raises(GkfsError, match=f"process {os.getpid()} on .* is packing into it"):
            PackFolder(tmp_path, replace=False)
        assert ours <= set(os.listdir(tmp_path))
    with PackFolder(tmp_path, replace=False):
        pass
    assert os.listdir(tmp_path) == []


def test_one_on_another_node_counts_as_long_as_it_renews_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packfolder, "PACK_LOCK_DEAD_S", 0.5)
    lock = tmp_path / "gkfs-pack.lock"
    lock.write_text("elsewhere 17\n")
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.05):
            os.utime(lock)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(GkfsError, match="process 17 on elsewhere is packing into it"):
            PackFolder(tmp_path, replace=False)
        assert lock.exists()
    finally:
        ended.set()
        thread.join()
    with PackFolder(tmp_path, replace=False):
        assert lock.read_text().split()[0] == socket.gethostname()
        before_ns = lock.stat().st_mtime_ns
    assert time.time_ns() > before_ns
    assert not lock.exists()


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=12),
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=12),
)
def test_every_record_is_one_movers_and_all_movers_have_about_as_much(
    movers: list[str], daemons: list[str]
) -> None:
    parts = shares(movers, daemons)
    for daemon in range(len(daemons)):
        found = sorted((own, of) for share in parts for which, own, of in share if which == daemon)
        assert found == [(own, len(found)) for own in range(len(found))]
    sizes = [len(share) for share in parts]
    assert max(sizes) - min(sizes) <= 1


def test_movers_read_from_the_daemons_of_their_own_host() -> None:
    hosts = ["a", "b", "c"]
    for rank, share in enumerate(shares(hosts, ["c", "a", "b"])):
        assert [["c", "a", "b"][daemon] for daemon, _, _ in share] == [hosts[rank]]
