#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=2 --time=10
# Parallel HDF5, here by h5py of Debian; then the file is looked at on one node, without MPI.
set -e
eval "$(gkfs start)"
export H5PY_ALWAYS_USE_MPI=1
srun --mpi=pmix --input=all /usr/bin/python3 - "$GKFS_MOUNTDIR/field.h5" <<'P'
import sys

import h5py
from mpi4py import MPI

comm = MPI.COMM_WORLD
with h5py.File(sys.argv[1], "w", driver="mpio", comm=comm) as file:
    field = file.create_dataset("field", (comm.size, 100_000), "f8")
    with field.collective:
        field[comm.rank] = comm.rank
P
unset H5PY_ALWAYS_USE_MPI
/usr/bin/python3 - "$GKFS_MOUNTDIR/field.h5" <<'P'
import sys

import h5py

with h5py.File(sys.argv[1]) as file:
    print("sum", int(file["field"][:].sum()))
P
gkfs stage-out field.h5 "$PWD"
gkfs stop
