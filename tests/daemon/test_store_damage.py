"""The metadata store after damage and sudden ends: what is whole comes back, never another value."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gkfs import paths
from gkfs.daemon import keys
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.superblock import Ending
from gkfs.errors import ExitStatus, GkfsError
from tests.rot import flip


def test_damaged_store_is_one_line_that_names_it(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path / "m")
    store.put(b"/a", b"1")
    store.commit()
    store.close()
    (manifest,) = (tmp_path / "m").glob("MANIFEST-*")
    manifest.write_bytes(b"garbage" * 100)
    with pytest.raises(GkfsError, match="metadata store") as caught:
        MetadataStore(tmp_path / "m")
    assert caught.value.status == ExitStatus.ROOTDIR
    assert "\n" not in str(caught.value)


def test_a_damaged_record_does_not_keep_the_others_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = MetadataStore(tmp_path / "m")
    store.put(paths.key(b"/a"), b"not a record")
    store.commit()
    store.close()
    store = MetadataStore(tmp_path / "m")
    assert store.files == 1
    assert "record of /a: not a metadata record" in caplog.text
    store.close()


_COMMIT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from gkfs.daemon.store import MetadataStore
from tests.daemon.test_store import record

store = MetadataStore(Path(sys.argv[1]), keeps_log=sys.argv[4] == "log")
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    store.put(b"/%05d" % number, record(fid=number))
    store.commit()
if sys.argv[5] == "end":
    store.close()
os.kill(os.getpid(), signal.SIGKILL)
"""


def _commit_and_die(folder: Path, first: int, end: int, log: str = "log", how: str = "die") -> None:
    arguments = [sys.executable, "-c", _COMMIT_AND_DIE, str(folder), str(first), str(end), log, how]
    root = Path(__file__).parents[2]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def _killed(folder: Path, count: int) -> Path:
    """A store whose process was killed after *count* commits, and its log."""
    _commit_and_die(folder, 0, count)
    (log,) = [path for path in folder.glob("*.log") if path.stat().st_size]
    return log


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_log_with_a_flipped_bit_is_refused_not_cut(tmp_path: Path, place: float) -> None:
    log = _killed(tmp_path / "m", 500)
    flip(log, int(log.stat().st_size * place))
    for ending in (Ending.KILLED, Ending.CLEAN):
        with pytest.raises(GkfsError, match="cannot be opened: Corruption") as caught:
            MetadataStore(tmp_path / "m", ending=ending)
        assert caught.value.status == ExitStatus.ROOTDIR
    flip(log, int(log.stat().st_size * place))
    again = MetadataStore(tmp_path / "m")
    assert again.files == 500
    again.close()


def test_torn_last_record_is_what_a_kill_may_leave(tmp_path: Path) -> None:
    log = _killed(tmp_path / "m", 500)
    os.truncate(log, log.stat().st_size - 10)
    with pytest.raises(GkfsError, match="Corruption"):
        MetadataStore(tmp_path / "m", ending=Ending.CLEAN)
    again = MetadataStore(tmp_path / "m", ending=Ending.KILLED)
    assert again.files == 499
    again.close()


def test_log_with_a_gap_is_what_a_power_failure_may_leave(tmp_path: Path) -> None:
    log = _killed(tmp_path / "m", 500)
    flip(log, log.stat().st_size // 2)
    again = MetadataStore(tmp_path / "m", ending=Ending.POWER)
    assert 200 < again.files < 300
    again.close()


def test_flipped_bit_in_a_table_is_eio_and_never_another_value(tmp_path: Path) -> None:
    """RocksDB checks each block that it reads from a file: a checksum of ours in the record would find no more."""
    folder = tmp_path / "m"
    expected = {keys.orphan(number): os.urandom(200) for number in range(5000)}
    store = MetadataStore(folder)
    for key, value in expected.items():
        store.put(key, value)
    store.commit()
    store._db.flush()
    store.close()
    (table,) = folder.glob("*.sst")
    size = table.stat().st_size
    refused = failed = 0
    for offset in range(1000, size, size // 12):
        flip(table, offset)
        try:
            store = MetadataStore(folder)
        except GkfsError as error:  # it is in what the counting of records at the start reads
            refused += 1
            assert "Corruption" in str(error)  # noqa: PT017
        else:
            found = [_get(store, key) for key in expected]
            failed += found.count(errno.EIO)
            right = zip(found, expected.values(), strict=True)
            assert all(value in (errno.EIO, known) for value, known in right)
            with pytest.raises(OSError, match="Corruption") as caught:
                store.scan(*keys.table(keys.ORPHANS), 10_000)
            assert caught.value.errno == errno.EIO
            store.close()
        flip(table, offset)
    assert failed > 10
    assert refused


def _get(store: MetadataStore, key: bytes) -> bytes | int | None:
    try:
        return store.get(key)
    except OSError as error:
        return error.errno


def test_without_log_a_kill_loses_what_an_orderly_end_keeps(tmp_path: Path) -> None:
    _commit_and_die(tmp_path / "m", 0, 10, "no log", "end")
    _commit_and_die(tmp_path / "m", 10, 20, "no log", "die")
    again = MetadataStore(tmp_path / "m")
    assert again.files == 10
    again.close()
