"""The key file: made once, private, read only where nobody else could have read it."""

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from gkfs import hostfile, keyfile
from gkfs.commands import hostfiles
from gkfs.errors import ExitStatus, GkfsError
from gkfs.keyfile import Access, Key
from tests.users import OTHER_USER, as_other_user

FSID = "0123456789abcdef" * 2
OTHER = "f" * 32
SECRET = bytes(range(32))


def refusal(hosts: Path) -> str:
    with pytest.raises(GkfsError) as caught:
        keyfile.read(hosts, FSID)
    assert caught.value.status == ExitStatus.ACCESS
    assert f"no key for file system {FSID}: {keyfile.path_of(hosts, FSID)}" in str(caught.value)
    return str(caught.value)


def proves_the_same(one: Key, other: Key) -> bool:
    return one.proof(b"text") == other.proof(b"text")


def test_what_is_made_is_read_and_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert keyfile.make(tmp_path / "hosts", FSID, Key(SECRET))
    finally:
        os.umask(before)
    assert proves_the_same(keyfile.read(tmp_path / "hosts", FSID), Key(SECRET))
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keyfile.remove(tmp_path / "hosts", FSID)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_shown_by_nothing(tmp_path: Path) -> None:
    key = Key(SECRET)
    hosts = hostfile.Hostfile(FSID, 1, {}, key)
    for shown in (f"{key} {key!r}", repr(hosts), str(hosts.access), str(Access(FSID, key))):
        assert SECRET.hex() not in shown
        assert repr(SECRET)[2:12] not in shown
    with pytest.raises(ValueError, match="32 bytes, not 0"):
        Key(b"")


def test_a_derived_key_is_another_for_each_purpose() -> None:
    key = Key(SECRET)
    proofs = {
        one.proof(b"") for one in (key, key.derived(b"a"), key.derived(b"b"), Key(SECRET[::-1]).derived(b"a"))
    }
    assert len(proofs) == 4
    assert proves_the_same(key.derived(b"a"), Key(SECRET).derived(b"a"))


def test_a_hostfile_behind_a_symbolic_link_has_its_key(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    hostfiles.create(tmp_path / "real" / "hosts", FSID, 1, Key(SECRET))
    (tmp_path / "link").symlink_to(tmp_path / "real" / "hosts")
    assert proves_the_same(hostfile.read(tmp_path / "link").access.key, Key(SECRET))


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644, 0o777])
def test_a_key_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    keyfile.make(tmp_path / "hosts", FSID)
    keyfile.path_of(tmp_path / "hosts", FSID).chmod(mode)
    assert f"may be read by others (mode {mode:04o})" in refusal(tmp_path / "hosts")


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    path = keyfile.path_of(hosts, FSID)
    assert "No such file" in refusal(hosts)
    for text in (b"", b"gkfs-key 1 \n", b"gkfs-key 1 " + b"0" * 63 + b"\n", b"gkfs-key 2 " + b"0" * 64 + b"\n"):
        path.write_bytes(text)
        path.chmod(0o600)
        assert "is not a key file" in refusal(hosts)
    path.write_bytes(b"gkfs-key 1 " + b"0" * 64 + b"\n" + bytes(1 << 20))
    assert "is not a key file" in refusal(hosts)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "symbolic links" in refusal(hosts)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "is not a key file" in refusal(hosts)
    path.unlink()
    path.mkdir(0o700)
    assert "is not a key file" in refusal(hosts)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
def test_the_key_of_another_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:  # every user can get there, unlike to those of pytest
        Path(folder).chmod(0o755)
        hosts = Path(folder, "hosts")
        keyfile.make(hosts, FSID)
        path = keyfile.path_of(hosts, FSID)

        assert as_other_user(lambda: "Permission denied" in refusal(hosts)) == 1
        os.chown(path, OTHER_USER + 1, OTHER_USER + 1)
        keyfile.read(hosts, FSID)  # root may
        path.chmod(0o604)
        assert as_other_user(lambda: f"is another user's (uid {OTHER_USER + 1})" in refusal(hosts)) == 1


def _make(number: int, hosts: Path, barrier: threading.Barrier, keys: list[Key]) -> None:
    fsid = FSID if number % 2 else f"{number:032x}"  # daemons that start again know theirs
    barrier.wait()
    hostfiles.create(hosts, fsid, 8)
    keys.append(hostfile.read(hosts).access.key)


def test_of_many_that_make_one_hostfile_all_have_the_key_of_the_winner(tmp_path: Path) -> None:
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        hosts = folder / "hosts"
        barrier = threading.Barrier(8)
        keys: list[Key] = []

        threads = [threading.Thread(target=_make, args=(number, hosts, barrier, keys)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 8
        assert len({key.proof(b"") for key in keys}) == 1
        fsid = hostfile.read_addresses(hosts).fsid
        assert sorted(path.name for path in folder.iterdir()) == ["hosts", f"hosts.{fsid}.key"]


def test_replacing_a_hostfile_makes_another_key_and_removing_it_removes_both(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hostfiles.create(hosts, FSID, 1, Key(SECRET))
    hostfiles.replace(hosts, FSID, 1)
    assert not proves_the_same(hostfile.read(hosts).access.key, Key(SECRET))
    keyfile.make(hosts, OTHER)  # of another file system in the same folder
    hostfiles.remove(hosts)
    assert [path.name for path in tmp_path.iterdir()] == [f"hosts.{OTHER}.key"]


def test_a_hostfile_that_cannot_be_made_leaves_no_key(tmp_path: Path) -> None:
    with pytest.raises(GkfsError) as caught:
        hostfiles.create(tmp_path / ("x" * 256), FSID, 1, Key(SECRET))
    assert caught.value.status == ExitStatus.HOSTFILE
    assert list(tmp_path.iterdir()) == []
