#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=2 --time=10
# All ranks write one file by MPI-IO; other ranks read it; the file goes to the parallel file system.
set -e
eval "$(gkfs start --direct-io)" # ranks read what other nodes write while the file stays open
export OMPI_MCA_sharedfp=individual
srun --mpi=pmix "${1:?the MPI program}" "$GKFS_MOUNTDIR/data"
gkfs stage-out data "$PWD"
gkfs stop
