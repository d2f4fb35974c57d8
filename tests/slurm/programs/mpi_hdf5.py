"""Parallel HDF5: all ranks write one file, by the system's mpi4py and h5py; `check` reads it without MPI.

mpi_hdf5.py independent|collective|check PATH
"""

import contextlib
import sys
from typing import Any

import h5py
import numpy as np

RANKS = 6
COLUMNS = 7
ROWS = 100
ROW = 20_011


def row_of(rank: int) -> Any:
    """What a rank has in `rows`."""
    return np.arange(ROW, dtype="i4") * (rank + 1)


def columns_of(rank: int) -> Any:
    """What a rank has in `columns`."""
    return np.arange(ROWS * COLUMNS, dtype="i2").reshape(ROWS, COLUMNS) + rank


def write(path: str, collective: bool) -> None:
    """One row each, some columns each in pieces of 14 bytes, in chunks and not; groups by all together."""
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.rank
    assert MPI.COMM_WORLD.size == RANKS
    with h5py.File(path, "w", driver="mpio", comm=MPI.COMM_WORLD) as file:
        rows = file.create_dataset("rows", (RANKS, ROW), "i4")
        for name, chunks in (("columns", None), ("chunked", (10, COLUMNS * RANKS))):
            columns = file.create_dataset(name, (ROWS, COLUMNS * RANKS), "i2", chunks=chunks)
            with columns.collective if collective else contextlib.nullcontext():
                columns[:, COLUMNS * rank : COLUMNS * (rank + 1)] = columns_of(rank)
        with rows.collective if collective else contextlib.nullcontext():
            rows[rank] = row_of(rank)
        for number in range(RANKS):
            file.create_group(f"group {number}").attrs["number"] = number


def check(path: str) -> None:
    """Everything is in it, once."""
    with h5py.File(path, "r") as file:
        assert len(file) == 3 + RANKS, list(file)
        for rank in range(RANKS):
            assert (file["rows"][rank] == row_of(rank)).all(), f"rows of rank {rank}"
            for name in ("columns", "chunked"):
                own = file[name][:, COLUMNS * rank : COLUMNS * (rank + 1)]
                assert (own == columns_of(rank)).all(), f"{name} of rank {rank}"
            assert file[f"group {rank}"].attrs["number"] == rank


if __name__ == "__main__":
    for kind in ("independent", "collective"):
        path = f"{sys.argv[2]}.{kind}"
        if sys.argv[1] == "check":
            check(path)
            print(kind, "HDF5 is right")
        else:
            write(path, kind == "collective")
