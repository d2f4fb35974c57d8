"""HDF5 on a mount: the same files, readers on all nodes, a reader that follows a writer (SWMR).

The library locks the files it opens. Locks hold within a node, which is all these tests need: where several nodes
work, they only read, or one works after the other. Who has locks that reach further in mind sets
HDF5_USE_FILE_LOCKING=FALSE and keeps the order in another way.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount import trees
from tests.mount.conftest import Both, Place
from tests.mount.programs import PROGRAM_LIMIT_S, python

pytest.importorskip("h5py")

_HDF5 = """
import h5py, numpy as np
values = np.arange(600_000, dtype="f8").reshape(600, 1000)
with h5py.File("data.h5", "w") as file:
    file["contiguous"] = values
    options = {"chunks": (64, 128), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    file.create_dataset("chunked", data=values, **options)
    growing = file.create_dataset("group/growing", shape=(0, 10), maxshape=(None, 10), chunks=(16, 10), dtype="i4")
    for step in range(1, 51):
        growing.resize(step * 7, axis=0)
        growing[-7:] = step
        file.flush()
    file["group"].attrs["unit"] = "m/s"
with h5py.File("data.h5", "r+") as file:
    file["chunked"][100:200, 300:310] = -1.0
    del file["contiguous"]
with h5py.File("data.h5", "r") as file:
    assert (file["chunked"][100:200, 300:310] == -1.0).all()
    assert (file["chunked"][200:, :] == values[200:, :]).all()
    assert (file["group/growing"][:, 0] == np.repeat(np.arange(1, 51), 7)).all()
    assert file["group"].attrs["unit"] == "m/s"
    print(float(file["chunked"][...].sum()))
"""


def test_h5py_writes_the_same_file(both: Both) -> None:
    printed = [python(_HDF5, cwd=folder) for folder in both]
    assert printed[0] == printed[1]
    assert trees.digest(both.mounted / "data.h5") == trees.digest(both.local / "data.h5")


_WRITE = """
import h5py, numpy as np
values = np.random.default_rng(1).standard_normal((400, 1000))
with h5py.File("data.h5", "w") as file:
    file["contiguous"] = values
    file.create_dataset("chunked", data=values, chunks=(50, 100), compression="gzip", compression_opts=1)
    file.create_dataset("sums", data=values.sum(axis=1))
"""

_READ = """
import h5py, numpy as np, sys
first = int(sys.argv[1])
with h5py.File("data.h5", "r") as file:
    for start in list(range(first, 400, 40)) + list(range(0, first, 40)):
        rows = slice(start, start + 40)
        for name in ("contiguous", "chunked"):
            assert np.allclose(file[name][rows].sum(axis=1), file["sums"][rows]), (name, start)
    assert (file["chunked"][:, first : first + 7] == file["contiguous"][:, first : first + 7]).all()
    print(float(file["contiguous"][...].sum()))
"""


def test_h5py_readers_on_all_nodes_see_what_one_wrote(anywhere: Place) -> None:
    python(_WRITE, cwd=anywhere.here)
    views = [anywhere.here, anywhere.there] * 3
    readers = [_started(_READ, f"{40 * number}", cwd=view) for number, view in enumerate(views)]
    assert len(set(_finished(readers))) == 1
    python('import h5py\nwith h5py.File("data.h5", "r+") as file: file["contiguous"][7] += 1', cwd=anywhere.there)
    changed = 'import h5py\nwith h5py.File("data.h5") as f: print((f["contiguous"][7] - f["chunked"][7]).sum())'
    assert float(python(changed, cwd=anywhere.here)) == pytest.approx(1000)


_GROW = """
import h5py, sys
with h5py.File("grows.h5", "w", libver="latest") as file:
    rows = file.create_dataset("rows", shape=(0, 100), maxshape=(None, 100), chunks=(8, 100), dtype="i8")
    file.swmr_mode = True
    print("begun", flush=True)
    sys.stdin.readline()
    for step in range(300):
        rows.resize(step + 1, axis=0)
        rows[step] = step
        rows.flush()
"""

_FOLLOW = """
import h5py, sys, time
with h5py.File("grows.h5", "r", libver="latest", swmr=True) as file:
    rows = file["rows"]
    print("follows", flush=True)
    seen, looks = 0, 0
    while seen < 300:
        rows.refresh()
        now = rows.shape[0]
        assert now >= seen
        looks += now > seen
        for number, row in enumerate(rows[seen:now], start=seen):
            assert (row == number).all(), (number, row)
        seen = now
    print(looks)
"""


def test_h5py_readers_follow_a_writer_on_the_same_node(anywhere: Place) -> None:
    writer = _started(_GROW, cwd=anywhere.here)
    assert writer.stdout is not None
    assert writer.stdin is not None
    readers = []
    try:
        assert writer.stdout.readline() == "begun\n", writer.communicate()
        readers = [_started(_FOLLOW, cwd=anywhere.here) for _ in range(2)]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "follows\n", reader.communicate()
        _finished([writer], "go\n")
        assert all(int(looks) > 2 for looks in _finished(readers)), "the readers hardly looked"
    finally:
        for process in (writer, *readers):
            process.kill()
            process.communicate()
    python(_FOLLOW, cwd=anywhere.there)


def _started(script: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finished(processes: list[subprocess.Popen[str]], text: str | None = None) -> list[str]:
    """Wait until all have ended well; what they printed."""
    printed = []
    for process in processes:
        output, errors = process.communicate(text, timeout=PROGRAM_LIMIT_S)
        assert process.returncode == 0, errors
        printed.append(output)
    return printed
