"""MPI programs that write, and readers that check; run by srun with the system's Python, mpi4py and numpy.

    mpi_io.py PATH WHAT...

WHAT uses the file PATH.WHAT, and so does check-WHAT.

What belongs at each offset of a file is a function of the offset alone: who checks need not know who wrote.
The exit status is 1 when anything is not as it must be, and a line says what.
"""

import os
import sys

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

COMM = MPI.COMM_WORLD
RANK: int = COMM.rank
SIZE: int = COMM.size
BLOCK = 300_007  # bytes; no multiple of a page or of a chunk
PIECE = 7
PIECES = 500
ROUNDS = 20

Bytes = NDArray[np.uint8]


def content(offsets: NDArray[np.int64]) -> Bytes:
    """What is at these offsets; neighbouring pieces, pages and chunks all differ."""
    return ((offsets * 131 + offsets // 251 + offsets // (1 << 20)) % 251 + 1).astype(np.uint8)


def span(start: int, size: int) -> Bytes:
    """What is in *size* bytes from *start*."""
    return content(np.arange(start, start + size, dtype=np.int64))


def must(holds: bool, what: str) -> None:
    """Complain and end the program, all its ranks, unless it holds."""
    if not holds:
        print(f"rank {RANK} on {MPI.Get_processor_name()}: {what}", flush=True)
        COMM.Abort(1)


def opened(path: str) -> MPI.File:
    """The file, by all ranks together."""
    return MPI.File.Open(COMM, path, MPI.MODE_RDWR | MPI.MODE_CREATE)


def blocks(path: str, collective: bool) -> None:
    """Each rank writes one block."""
    file = opened(path)
    (file.Write_at_all if collective else file.Write_at)(RANK * BLOCK, span(RANK * BLOCK, BLOCK))
    file.Close()


def pieces(path: str, collective: bool) -> None:
    """The pieces of all ranks lie between one another, through a file view."""
    file = opened(path)
    vector = MPI.BYTE.Create_vector(PIECES, PIECE, PIECE * SIZE)
    view = vector.Create_resized(0, PIECES * PIECE * SIZE)
    view.Commit()
    file.Set_view(RANK * PIECE, MPI.BYTE, view)
    number, within = np.divmod(np.arange(PIECES * PIECE, dtype=np.int64), PIECE)
    data = content((number * SIZE + RANK) * PIECE + within)
    (file.Write_all if collective else file.Write)(data)
    file.Close()


def by_shared_pointer(path: str, ordered: bool) -> None:
    """Each rank appends a block of its own number by the file pointer that all share."""
    file = opened(path)
    (file.Write_ordered if ordered else file.Write_shared)(np.full(BLOCK, RANK + 1, np.uint8))
    file.Close()


def check_shared_pointer(path: str, ordered: bool) -> None:
    """Every block is there once and in one piece; in the order of ranks, if that was asked for."""
    got = np.fromfile(path, np.uint8)
    must(len(got) == SIZE * BLOCK, f"{len(got)} bytes instead of {SIZE * BLOCK}")
    ranks = got.reshape(SIZE, BLOCK)[:, 0]
    must(bool((got == np.repeat(ranks, BLOCK)).all()), "blocks are mixed")
    expected = np.arange(1, SIZE + 1)
    must(bool(((ranks if ordered else np.sort(ranks)) == expected).all()), f"order {ranks}")


def check(path: str, size: int) -> None:
    """The whole file is what it must be, read without MPI-IO, by each rank."""
    got = np.fromfile(path, np.uint8)
    must(len(got) == size, f"{len(got)} bytes instead of {size}")
    wrong = np.flatnonzero(got != span(0, size))
    must(not len(wrong), f"{len(wrong)} bytes are wrong, the first at {wrong[:1]}")


def file_per_process(path: str) -> None:
    """Each rank writes a file of its own."""
    with open(f"{path}.{RANK}", "wb") as file:
        file.write(span(RANK * BLOCK, BLOCK).tobytes())
        os.fsync(file.fileno())


def check_file_per_process(path: str) -> None:
    """Each rank reads the files of all others."""
    for other in range(SIZE):
        got = np.fromfile(f"{path}.{other}", np.uint8)
        must(np.array_equal(got, span(other * BLOCK, BLOCK)), f"the file of rank {other} is wrong")


def rounds(path: str) -> None:
    """All write, sync, wait for the others, sync, and read everything, again and again in one open file."""
    file = opened(path)
    got = np.zeros(BLOCK * SIZE, np.uint8)
    for number in range(ROUNDS):
        file.Write_at(RANK * BLOCK, np.full(BLOCK, (RANK + number) % 251, np.uint8))
        file.Sync()
        COMM.Barrier()
        file.Sync()
        file.Read_at(0, got)
        expected = np.repeat((np.arange(SIZE) + number) % 251, BLOCK)
        must(np.array_equal(got, expected), f"round {number}: {int((got != expected).sum())} bytes are old")
        COMM.Barrier()
    file.Close()


PROGRAMS = {
    "blocks": lambda path: blocks(path, collective=False),
    "blocks-collective": lambda path: blocks(path, collective=True),
    "pieces": lambda path: pieces(path, collective=False),
    "pieces-collective": lambda path: pieces(path, collective=True),
    "shared-pointer": lambda path: by_shared_pointer(path, ordered=False),
    "shared-pointer-ordered": lambda path: by_shared_pointer(path, ordered=True),
    "file-per-process": file_per_process,
    "rounds": rounds,
}
CHECKS = {
    "blocks": lambda path: check(path, BLOCK * SIZE),
    "blocks-collective": lambda path: check(path, BLOCK * SIZE),
    "pieces": lambda path: check(path, PIECE * PIECES * SIZE),
    "pieces-collective": lambda path: check(path, PIECE * PIECES * SIZE),
    "shared-pointer": lambda path: check_shared_pointer(path, ordered=False),
    "shared-pointer-ordered": lambda path: check_shared_pointer(path, ordered=True),
    "file-per-process": check_file_per_process,
}

if __name__ == "__main__":
    for what in sys.argv[2:]:
        name = what.removeprefix("check-")
        (PROGRAMS if name == what else CHECKS)[name](f"{sys.argv[1]}.{name}")
        COMM.Barrier()
        if RANK == 0:
            print(what, "is right", flush=True)
