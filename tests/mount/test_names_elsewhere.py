"""Names that come, go and move on one node, as another node sees them: at once."""

import errno
import mmap
import os
import stat
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mount.calls import errno_of, fails, opened
from tests.mount.conftest import Place
from tests.mount.file_system import wait_until
from tests.mount.programs import at_once
from tests.mount.test_rename import EXCHANGE, NOREPLACE, renameat2


def names(folder: Path) -> list[str]:
    """What is in *folder*."""
    return sorted(os.listdir(folder))


def test_created_entries_are_there_at_once(place: Place) -> None:
    for number in range(100):
        here, there = (place.here, place.there) if number % 2 else (place.there, place.here)
        with fails(errno.ENOENT):
            os.stat(there / f"{number}")
        os.close(os.open(here / f"{number}", os.O_CREAT))
        os.mkdir(here / f"d{number}")
        os.symlink("target", here / f"l{number}")
        assert (there / f"{number}").is_file()
        assert (there / f"d{number}").is_dir()
        assert os.readlink(there / f"l{number}") == "target"
        with fails(errno.EEXIST):
            os.open(there / f"{number}", os.O_CREAT | os.O_EXCL)
    assert names(place.here) == names(place.there)


def test_what_another_node_makes_in_a_directory_that_is_being_filled_is_there_at_once(place: Place) -> None:
    for number in range(30):
        folder, same = place.here / f"{number}", place.there / f"{number}"
        folder.mkdir()
        (place.there / f"file-{number}").touch()
        for name in range(40):  # this node knows then what is there
            (folder / f"here-{name}").touch()
        before_s = time.monotonic()
        if number % 3 == 0:
            (same / "there").touch()
        elif number % 3 == 1:
            (place.there / f"file-{number}").rename(same / "there")
        else:
            os.link(place.there / f"file-{number}", same / "there")
        assert (folder / "there").exists()
        assert time.monotonic() - before_s < 10.0
        with fails(errno.EEXIST):
            os.open(folder / "there", os.O_CREAT | os.O_EXCL)
        assert len(names(folder)) == 41


def test_removed_entries_are_gone_at_once(place: Place) -> None:
    for number in range(50):
        path, same = place.here / f"{number}", place.there / f"{number}"
        path.touch()
        assert same.exists()
        path.unlink()
        with fails(errno.ENOENT):
            os.stat(same)
        with fails(errno.ENOENT):
            os.open(same, os.O_RDONLY)
        path.mkdir()
        assert same.is_dir()
        same.rmdir()
        with fails(errno.ENOENT):
            os.listdir(path)


def test_a_name_becomes_another_kind_of_entry(place: Place) -> None:
    path, same = place.here / "name", place.there / "name"
    for _ in range(5):
        path.write_bytes(b"file")
        assert same.read_bytes() == b"file"
        path.unlink()
        path.mkdir()
        (same / "inner").touch()
        assert names(path) == ["inner"]
        (path / "inner").unlink()
        same.rmdir()
        path.symlink_to("elsewhere")
        assert os.readlink(same) == "elsewhere"
        same.unlink()


def test_renames_show_at_once(place: Place) -> None:
    (place.here / "folder" / "deep").mkdir(parents=True)
    for number in range(30):
        (place.here / "folder" / "deep" / f"{number}").write_text(str(number))
    assert (place.there / "folder" / "deep" / "7").read_text() == "7"
    (place.here / "folder").rename(place.here / "moved")
    with fails(errno.ENOENT):
        os.stat(place.there / "folder" / "deep" / "7")
    assert (place.there / "moved" / "deep" / "7").read_text() == "7"
    (place.there / "moved" / "deep" / "7").rename(place.there / "moved" / "seven")
    assert names(place.here / "moved") == ["deep", "seven"]
    assert len(names(place.here / "moved" / "deep")) == 29
    (place.here / "other").write_text("other")
    (place.here / "other").rename(place.here / "moved" / "seven")
    assert (place.there / "moved" / "seven").read_text() == "other"


def test_work_goes_on_below_a_directory_that_another_node_renamed(place: Place) -> None:
    (place.here / "old").mkdir()
    (place.here / "old" / "file").write_text("before")
    with opened(place.there / "old" / "file", os.O_RDWR) as file:
        (place.here / "old").rename(place.here / "new")
        os.pwrite(file, b"AFTER!", 0)
        os.fsync(file)
    assert (place.here / "new" / "file").read_text() == "AFTER!"
    assert names(place.there) == ["new"]
    assert (place.there / "new" / "file").read_text() == "AFTER!"


def test_both_nodes_list_the_same(place: Place) -> None:
    for number in range(1500):
        folder = place.here if number % 2 else place.there
        os.close(os.open(folder / f"file-{number}", os.O_CREAT))
    expected = sorted(f"file-{number}" for number in range(1500))
    assert names(place.here) == names(place.there) == expected


def test_a_directory_in_use_elsewhere_can_be_removed(place: Place) -> None:
    (place.here / "folder").mkdir()
    with opened(place.there / "folder", os.O_RDONLY | os.O_DIRECTORY) as inside:
        (place.here / "folder").rmdir()
        assert not (place.there / "folder").exists()
        # NFS, too, answers ESTALE to those who are in a directory that another node removed.
        assert errno_of(lambda: os.mkdir("below", dir_fd=inside)) in (errno.ENOENT, errno.ESTALE)
    assert names(place.here) == []


def test_a_directory_that_another_node_keeps_using_moves_at_once(place: Place) -> None:
    """The other node's kernel may keep names of directories for a while; a change waits for that."""
    (place.here / "old").mkdir()
    (place.here / "old" / "file").touch()
    assert (place.there / "old" / "file").exists()
    (place.here / "old").rename(place.here / "new")
    assert not (place.there / "old").exists()
    assert (place.there / "new" / "file").exists()
    (place.here / "new" / "file").unlink()
    (place.here / "new").rmdir()
    assert not (place.there / "new").exists()
    assert errno_of(lambda: os.mkdir(place.there / "new" / "below")) == errno.ENOENT


def test_mkdir_and_rmdir_race_without_orphans(place: Place) -> None:
    """While one node removes a directory, another creates in it: either may fail, nothing may be lost."""

    def remove() -> None:
        for _ in range(150):
            assert errno_of(lambda: os.rmdir(place.here / "folder")) in (0, errno.ENOTEMPTY, errno.ENOENT)

    def create() -> None:
        for number in range(150):
            with suppress(FileExistsError):
                os.mkdir(place.there / "folder")
            try:
                os.close(os.open(place.there / "folder" / f"{number}", os.O_CREAT | os.O_EXCL))
            except FileNotFoundError:
                continue
            os.unlink(place.there / "folder" / f"{number}")

    (place.here / "folder").mkdir()
    at_once(lambda function: function(), [(remove,), (create,)])
    assert names(place.here) == names(place.there)
    if (place.here / "folder").exists():
        assert names(place.there / "folder") == []
        (place.here / "folder").rmdir()


# --- links, exchanges, special files


def test_a_link_is_there_at_once_on_either_node(place: Place) -> None:
    for number in range(20):
        here, there = (place.here, place.there) if number % 2 else (place.there, place.here)
        (here / f"{number}").write_bytes(b"%d" % number)
        with fails(errno.ENOENT):
            os.stat(there / f"link-{number}")
        os.link(here / f"{number}", here / f"link-{number}")
        assert (there / f"link-{number}").stat().st_nlink == (there / f"{number}").stat().st_nlink == 2
        os.link(there / f"link-{number}", there / f"third-{number}")
        (there / f"{number}").unlink()
        assert not (here / f"{number}").exists()
        assert (here / f"third-{number}").stat().st_nlink == (here / f"link-{number}").stat().st_nlink == 2
        (here / f"link-{number}").write_bytes(b"through one name")
        assert (there / f"third-{number}").read_bytes() == b"through one name"
    assert names(place.here) == names(place.there)


def test_exchanges_show_at_once(place: Place) -> None:
    (place.here / "folder").mkdir()
    one, other = "one", "folder/other"
    (place.here / one).write_bytes(b"0")
    (place.here / other).write_bytes(b"1")
    for number in range(1, 20):
        here, there = (place.here, place.there) if number % 2 else (place.there, place.here)
        renameat2(here / one, here / other, EXCHANGE)
        for view in (there, here):
            assert [(view / name).read_bytes() for name in (one, other)] == [
                b"%d" % (number % 2),
                b"%d" % (1 - number % 2),
            ]
    with fails(errno.EEXIST):
        renameat2(place.there / one, place.there / other, NOREPLACE)
    with fails(errno.ENOENT):
        renameat2(place.there / one, place.there / "missing", EXCHANGE)


def test_special_files_are_there_at_once(place: Place) -> None:
    for number, kind in enumerate((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFREG)):
        here, there = (place.here, place.there) if number % 2 else (place.there, place.here)
        assert not (there / f"{number}").exists()
        os.mknod(here / f"{number}", kind | 0o640, os.makedev(7, number))
        found = (there / f"{number}").stat()
        assert (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)) == (kind, 0o640)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            assert found.st_rdev == os.makedev(7, number)


def test_directories_made_on_one_node_and_removed_on_another_are_counted(place: Place) -> None:
    for number in range(30):
        here, there = (place.here, place.there) if number % 2 else (place.there, place.here)
        for name in ("one", "two"):
            (here / name).mkdir()
        for name in ("one", "two"):
            (there / name).rmdir()
    for view in (place.here, place.there):
        wait_until(lambda view=view: view.stat().st_nlink == 2, "nothing is counted", limit_s=30)  # type: ignore[misc]


# --- at every moment


def _rename_onto(view: Path, epochs: mmap.mmap) -> None:
    for number in range(1, 200):
        (view / "new").write_bytes(b"%d" % number)
        os.rename(view / "new", view / "file")
    struct.pack_into("=Q", epochs, 0, 1)


def _read_always(view: Path, epochs: mmap.mmap) -> None:
    latest = seen = 0
    while not struct.unpack_from("=Q", epochs)[0]:
        latest, before = int((view / "file").read_bytes()), latest
        assert latest >= before
        seen += 1
    assert seen > 5
    assert int((view / "file").read_bytes()) == 199


def test_a_file_that_is_replaced_is_there_at_every_moment(place: Place) -> None:
    (place.here / "file").write_bytes(b"0")
    with mmap.mmap(-1, mmap.PAGESIZE) as epochs:
        at_once(lambda work, view: work(view, epochs), [(_rename_onto, place.here), (_read_always, place.there)])


def _exchange_always(view: Path, epochs: mmap.mmap, numbers: list[int]) -> None:
    for number in range(1, 300):
        struct.pack_into("=Q", epochs, 0, number)
        renameat2(view / "one", view / "folder" / "other", EXCHANGE)
    struct.pack_into("=Q", epochs, 8, 1)


def _look_always(view: Path, epochs: mmap.mmap, numbers: list[int]) -> None:
    """Look at one name, then the other: who saw an exchange under the first sees it under the second."""
    paths = [view / "one", view / "folder" / "other"]
    looks = 0
    while not struct.unpack_from("=Q", epochs, 8)[0]:
        (epoch,) = struct.unpack_from("=Q", epochs)
        first, second = looks % 2, 1 - looks % 2
        found = [paths[first].stat().st_ino, paths[second].stat().st_ino]
        assert set(found) <= set(numbers)
        looks += 1
        if (epoch,) == struct.unpack_from("=Q", epochs):
            new = numbers[(first + epoch) % 2]  # what the first name gets with the exchange of this epoch
            assert found[0] != new or found[1] != new, f"exchange {epoch}: one file under both names"
    assert looks > 5


def test_exchanged_files_have_one_name_each_at_every_moment(place: Place) -> None:
    (place.here / "folder").mkdir()
    (place.here / "one").write_bytes(b"one")
    (place.here / "folder" / "other").write_bytes(b"other")
    numbers = [(place.here / name).stat().st_ino for name in ("one", "folder/other")]
    with mmap.mmap(-1, mmap.PAGESIZE) as epochs:
        work = [(_exchange_always, place.here), (_look_always, place.there)]
        at_once(lambda work, view: work(view, epochs, numbers), work)


# --- directories


def test_a_working_directory_that_another_node_renames_stays_usable(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.here / "top" / "sub").mkdir(parents=True)
    (place.here / "top" / "sub" / "file").write_text("content")
    monkeypatch.chdir(place.there / "top" / "sub")
    for old, new, now in (
        ("top/sub", "top/moved", "top/moved"),
        ("top", "upper", "upper/moved"),
        ("upper/moved", "out", "out"),
    ):
        assert Path("file").read_text() == "content"
        (place.here / old).rename(place.here / new)
        wait_until(lambda: "file" in os.listdir(), "the names in it are found", limit_s=30)
        assert Path("file").read_text() == "content"
        Path(new.replace("/", " ")).mkdir()
        assert names(place.here / now) == names(Path())
        (place.here / now / "from here").touch()
        Path("from here").unlink()
    assert names(place.here) == ["out", "upper"]
    assert names(place.here / "out") == ["file", "out", "top moved", "upper"]


@pytest.mark.parametrize(
    ("change", "is_changed"),
    [
        (lambda path: os.chmod(path, 0o700), lambda found: stat.S_IMODE(found.st_mode) == 0o700),
        (lambda path: os.chown(path, 11, 12), lambda found: (found.st_uid, found.st_gid) == (11, 12)),
        (lambda path: os.utime(path, ns=(1, 2)), lambda found: (found.st_atime_ns, found.st_mtime_ns) == (1, 2)),
    ],
    ids=["chmod", "chown", "utimes"],
)
def test_a_directory_in_use_elsewhere_changes_for_all(
    change: Callable[[Path], None], is_changed: Callable[[os.stat_result], bool], place: Place
) -> None:
    (place.here / "folder").mkdir()
    for _ in range(3):
        (place.here / "folder").chmod(0o755)
        os.chown(place.here / "folder", 1, 1)
        os.utime(place.here / "folder")
        assert not is_changed((place.there / "folder").stat())
        assert not (place.there / "folder" / "missing").exists()  # the other node's kernel keeps it for a while
        change(place.here / "folder")
        assert is_changed((place.there / "folder").stat())
        assert is_changed((place.here / "folder").stat())
