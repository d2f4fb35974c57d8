"""Files open on one node whose names another node takes away, moves or gives to something else.

Who has a file open goes on with it, however long it was open before; its data goes with the last handle.
"""

import errno
import itertools
import mmap
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.mount.calls import MIB, errno_of, noise, opened
from tests.mount.conftest import Cluster, Place
from tests.mount.file_system import FileSystem, wait_until
from tests.mount.test_rename import EXCHANGE, renameat2

_SIZE: Final = 2 * MIB + 777
_TOLD_S: Final = 1.5  # the daemons know by then that a file is open (limits.HOLD_RENEW_S)
_GRACE_S: Final = 5.0  # nobody may have opened it unnoticed any more (limits.NAMELESS_GRACE_S)
_GONE_S: Final = 60.0

# Each changes the name `sub/file` in a folder of its own; where the file is afterwards, None: nowhere.
Change = Callable[[Path], str | None]


def _unlink(folder: Path) -> None:
    (folder / "sub" / "file").unlink()


def _rename(folder: Path) -> str:
    (folder / "sub" / "file").rename(folder / "sub" / "renamed")
    return "sub/renamed"


def _rename_again_and_again(folder: Path) -> str:
    (folder / "sub" / "file").rename(folder / "one")
    (folder / "one").rename(folder / "sub" / "two")
    (folder / "sub" / "two").rename(folder / "three")
    (folder / "sub").rmdir()
    return "three"


def _rename_and_back(folder: Path) -> str:
    (folder / "sub" / "file").rename(folder / "away")
    (folder / "away").rename(folder / "sub" / "file")
    return "sub/file"


def _rename_and_unlink(folder: Path) -> None:
    (folder / "sub" / "file").rename(folder / "renamed")
    (folder / "renamed").unlink()


def _replace(folder: Path) -> None:
    (folder / "other").write_bytes(b"other")
    (folder / "other").rename(folder / "sub" / "file")


def _unlink_and_make_anew(folder: Path) -> None:
    (folder / "sub" / "file").unlink()
    (folder / "sub" / "file").write_bytes(b"other")


def _link(folder: Path) -> str:
    os.link(folder / "sub" / "file", folder / "second")
    return "second"


def _link_and_unlink(folder: Path) -> str:
    os.link(folder / "sub" / "file", folder / "second")
    (folder / "sub" / "file").unlink()
    return "second"


def _link_and_unlink_both(folder: Path) -> None:
    os.link(folder / "sub" / "file", folder / "second")
    (folder / "sub" / "file").unlink()
    (folder / "second").unlink()


def _exchange(folder: Path) -> str:
    (folder / "other").write_bytes(b"other")
    renameat2(folder / "other", folder / "sub" / "file", EXCHANGE)
    return "other"


def _move_directory(folder: Path) -> str:
    (folder / "sub").rename(folder / "moved")
    return "moved/file"


def _move_directory_above(folder: Path) -> str:
    (folder / "deep").mkdir()
    (folder / "sub").rename(folder / "deep" / "sub")
    (folder / "deep").rename(folder / "moved")
    return "moved/sub/file"


def _move_directory_and_one_above(folder: Path) -> str:
    (folder / "sub").rename(folder / "other-sub")
    folder.rename(folder.with_name("moved-above"))
    folder.with_name("moved-above").rename(folder)
    return "other-sub/file"


def _move_directory_and_unlink(folder: Path) -> None:
    (folder / "sub").rename(folder / "moved")
    (folder / "moved" / "file").unlink()
    (folder / "moved").rmdir()


_CHANGES: Final[tuple[Change, ...]] = (
    _unlink,
    _rename,
    _rename_again_and_again,
    _rename_and_back,
    _rename_and_unlink,
    _replace,
    _unlink_and_make_anew,
    _link,
    _link_and_unlink,
    _link_and_unlink_both,
    _exchange,
    _move_directory,
    _move_directory_above,
    _move_directory_and_one_above,
    _move_directory_and_unlink,
)


class Open:
    """One file that is open in all ways: for reading and writing, for appending, and mapped."""

    def __init__(self, path: Path, content: bytes, until: ExitStack) -> None:
        self.file = until.enter_context(opened(path, os.O_RDWR))
        self.append = until.enter_context(opened(path, os.O_RDWR | os.O_APPEND))
        self.view = until.enter_context(mmap.mmap(self.file, MIB))
        self.content = bytearray(content)

    def use(self) -> None:
        """Every call on it does what it should."""
        self.check()
        os.pwrite(self.file, b"written", 5)
        self.content[5:12] = b"written"
        self.view[8192:8198] = b"stored"
        self.view.flush()
        self.content[8192:8198] = b"stored"
        os.fsync(self.file)
        self.check()
        del self.content[_SIZE - 1000 :]
        os.ftruncate(self.file, len(self.content))
        self.check()
        assert os.write(self.append, b"appended") == 8
        self.content += b"appended"
        self.content += bytes(3000) + b"far"
        os.pwrite(self.file, b"far", len(self.content) - 3)
        os.fchmod(self.file, 0o640)
        os.fsync(self.append)
        self.check()
        assert os.fstat(self.file).st_mode & 0o777 == 0o640

    def check(self) -> None:
        """It is as it was written."""
        for file in (self.file, self.append):
            assert os.fstat(file).st_size == len(self.content)
            assert os.pread(file, len(self.content) + 10, 0) == self.content
        assert self.view[:MIB] == self.content[:MIB]


@pytest.mark.parametrize("open_s", [0.0, _TOLD_S], ids=["just-opened", "long-open"])
def test_an_open_file_stays_the_same_whatever_another_node_does_to_its_names(open_s: float, place: Place) -> None:
    content = noise(_SIZE)
    with ExitStack() as until:
        files = []
        for change in _CHANGES:
            (place.here / change.__name__ / "sub").mkdir(parents=True)
            (place.here / change.__name__ / "sub" / "file").write_bytes(content)
        for change in _CHANGES:
            files.append(Open(place.there / change.__name__ / "sub" / "file", content, until))
            os.pwrite(files[-1].file, b"before", _SIZE)  # at first, it is not published
            files[-1].content += b"before"
            if not open_s:
                use_after(change, files[-1], place)
        if open_s:
            time.sleep(open_s)
            for change, file in zip(_CHANGES, files, strict=True):
                use_after(change, file, place)
        time.sleep(_TOLD_S)
        for file in files:
            os.pwrite(file.file, b"later", 20)
            os.fsync(file.file)
            file.content[20:25] = b"later"
            file.check()


def _unlink_first(directory: Path) -> None:
    (directory / "file").unlink()
    directory.rename(directory.with_name("moved"))


def _rename_then_unlink(directory: Path) -> None:
    """The daemons that had it in between know where it went to, which is not where it is."""
    (directory / "file").rename(directory / "a")
    (directory / "a").rename(directory.parent / "b")
    (directory.parent / "b").rename(directory / "c")
    (directory / "c").unlink()
    directory.rename(directory.with_name("moved"))


def _unlink_between(directory: Path) -> None:
    directory.rename(directory.with_name("first"))
    (directory.with_name("first") / "file").unlink()
    directory.with_name("first").rename(directory.with_name("second"))


@pytest.mark.parametrize("lose", [_unlink_first, _rename_then_unlink, _unlink_between])
@pytest.mark.parametrize("open_s", [0.0, _TOLD_S], ids=["just-opened", "long-open"])
def test_an_open_file_without_name_stays_when_a_directory_above_it_is_renamed(
    open_s: float, lose: Callable[[Path], None], cluster: Cluster
) -> None:
    """It stays with the daemon that had its name, although its directory has another one now."""
    here, there = cluster(3, mounts=2).mounts
    content = noise(_SIZE)
    with ExitStack() as until:
        files = {}
        for number in range(8):  # their paths before and after are not all of one daemon
            directory = there / f"{number}" / "sub"
            directory.mkdir(parents=True)
            (directory / "file").write_bytes(content)
            files[directory] = Open(directory / "file", content, until)
        time.sleep(open_s)
        for directory in files:
            lose(here / directory.relative_to(there))
            directory.parent.rename(directory.parent.with_name(f"moved-{directory.parent.name}"))
        for file in files.values():
            file.use()
            assert os.fstat(file.file).st_nlink == 0


def use_after(change: Change, file: Open, place: Place) -> None:
    """Change the names on one node and use the *file* on the other."""
    name = change(place.here / change.__name__)
    try:
        file.use()
        names = 0 if name is None else 2 if change is _link else 1
        assert os.fstat(file.file).st_nlink == names
        if name is not None:
            for view in (place.here, place.there):
                assert (view / change.__name__ / name).read_bytes() == file.content
                assert (view / change.__name__ / name).stat().st_ino == os.fstat(file.file).st_ino
        for other in ("sub/file", "other"):
            path = place.there / change.__name__ / other
            if other != name and path.exists() and change is not _link:
                assert path.read_bytes() == b"other"
    except (OSError, AssertionError) as error:
        error.add_note(f"after {change.__name__} on another node")
        raise


def used_bytes(file_system: FileSystem) -> int:
    """What all chunks take together."""
    return int(file_system.status()["used_bytes"])


def test_data_goes_with_the_last_handle_on_any_node(cluster: Cluster) -> None:
    """Some are closed at once; others are open on both nodes, and who removes them closes them first."""
    file_system = cluster(3, mounts=2)
    here, there = file_system.mounts
    changes = (_unlink, _replace, _link_and_unlink_both, _move_directory_and_unlink)
    folders = {name: [f"{name}{change.__name__}" for change in changes] for name in ("short", "told", "new")}
    for folder in itertools.chain(*folders.values()):
        (here / folder / "sub").mkdir(parents=True)
        (here / folder / "sub" / "file").write_bytes(noise(_SIZE))

    def open_all(name: str, mountdir: Path, until: ExitStack) -> list[int]:
        paths = [mountdir / folder / "sub" / "file" for folder in folders[name]]
        return [until.enter_context(opened(path, os.O_RDWR)) for path in paths]

    with ExitStack() as kept, ExitStack() as closed_first:
        files = open_all("told", there, kept)
        time.sleep(_TOLD_S)
        files += open_all("new", there, kept)
        open_all("short", there, closed_first)
        for name in ("told", "new"):
            open_all(name, here, closed_first)
        for name in ("new", "told", "short"):
            for change, folder in zip(changes, folders[name], strict=True):
                change(here / folder)
        closed_first.close()
        enough = (len(files) + 1) * _SIZE
        wait_until(lambda: used_bytes(file_system) < enough, "what is closed is gone", _GONE_S, 0.3)
        time.sleep(_GRACE_S)
        for file in files:
            assert os.pread(file, _SIZE + 1, 0) == noise(_SIZE)
            assert os.fstat(file).st_nlink == 0
            os.pwrite(file, b"more", 3 * MIB)
            os.fsync(file)
        assert used_bytes(file_system) >= len(files) * _SIZE
    for folder in itertools.chain(*folders.values()):
        (here / folder / "sub" / "file").unlink(missing_ok=True)
    wait_until(lambda: used_bytes(file_system) == 0, "all data is gone", _GONE_S, 0.3)
    assert file_system.status()["files"] == 0


def test_a_file_renamed_elsewhere_is_the_same_or_stale_after_a_restart(cluster: Cluster) -> None:
    file_system = cluster(2, mounts=2)
    here, there = file_system.mounts
    for number in range(6):
        (here / f"{number}").write_bytes(noise(5000, number))
    with ExitStack() as until:
        files = [until.enter_context(opened(there / f"{number}", os.O_RDWR)) for number in range(6)]
        for number in range(6):
            (here / f"{number}").rename(here / f"new-{number}")
        file_system.stop()
        file_system.start()
        for file in files:
            assert errno_of(lambda file=file: os.pwrite(file, b"!", 0)) in (0, errno.ESTALE)  # type: ignore[misc]
            assert errno_of(lambda file=file: os.fsync(file)) in (0, errno.ESTALE)  # type: ignore[misc]
    for number in range(6):
        for view in (here, there):
            assert (view / f"new-{number}").read_bytes()[1:] == noise(5000, number)[1:]
    assert sorted(os.listdir(there)) == [f"new-{number}" for number in range(6)]
