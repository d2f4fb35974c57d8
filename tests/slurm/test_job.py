"""The whole of it, as an ordinary user has it: stage in, an MPI program in two steps, stage out, nothing left."""

import os
import shutil

import pytest

from tests.slurm.slurm_cluster import SHARED, SlurmCluster

_PROGRAM = """
import sys
from mpi4py import MPI
rank, size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
source, target = sys.argv[1:]
data = open(f"{source}/part-{(rank + 1) % size}", "rb").read()  # in the second step another node has written it
open(f"{target}/part-{rank}", "wb").write(bytes(byte ^ 0xFF for byte in data))
"""
# Twice inverted, and each time taken from the next rank: the same bytes, two places further on.
_SCRIPT = """#!/bin/bash
#SBATCH -N3 --ntasks-per-node=1
set -e
eval "$(gkfs start)"
gkfs stage-in input .
mkdir "$GKFS_MOUNTDIR/middle" "$GKFS_MOUNTDIR/output"
srun --mpi=pmix /usr/bin/python3 program.py "$GKFS_MOUNTDIR/input" "$GKFS_MOUNTDIR/middle"
srun --mpi=pmix /usr/bin/python3 program.py "$GKFS_MOUNTDIR/middle" "$GKFS_MOUNTDIR/output"
gkfs stage-out output .
gkfs stop
"""


@pytest.mark.parametrize("in_tls", [False, True], ids=["plain", "tls"])
def test_a_script_of_ten_lines(in_tls: bool, cluster: SlurmCluster) -> None:
    assert len(_SCRIPT.splitlines()) <= 10
    folder = cluster.new_folder()
    source = folder / "input"
    source.mkdir()
    for rank in range(3):
        (source / f"part-{rank}").write_bytes(os.urandom(3_000_007))
    (folder / "program.py").write_text(_PROGRAM)
    script = _SCRIPT
    if in_tls:
        script = script.replace('start)"', 'start --tls)" && grep "tls=1$" "$GKFS_HOSTFILE"')
    done = cluster.sbatch(script, f"--chdir={SHARED / folder.name}")
    assert (done.state, done.status) == ("COMPLETED", 0), done.output
    for rank in range(3):
        expected = (source / f"part-{(rank + 2) % 3}").read_bytes()
        assert (folder / "output" / f"part-{rank}").read_bytes() == expected
    assert cluster.leftovers() == []
    shutil.rmtree(folder)
