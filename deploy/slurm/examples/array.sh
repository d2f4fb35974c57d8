#!/bin/bash
#SBATCH --nodes=1 --time=10 --array=0-3
# Each task of an array is a job of its own and has a file system of its own, on the same node, too.
# Usage: sbatch array.sh PROGRAM; it is called with a folder to work in and its number.
set -e
eval "$(gkfs start)"
srun "${1:?the program}" "$GKFS_MOUNTDIR" "$SLURM_ARRAY_TASK_ID"
mkdir -p "$PWD/results/$SLURM_ARRAY_TASK_ID"
gkfs stage-out ./ "$PWD/results/$SLURM_ARRAY_TASK_ID"
gkfs stop
