#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=1 --time=60
# A data set of many small files, read in random order by all nodes, again and again: it is copied once,
# by all nodes together, and then comes from their local disks.
# Usage: sbatch training.sh FOLDER PROGRAM; the program is called with the folder.
set -e
eval "$(gkfs start)"
gkfs stage-in "${1:?the data set}/" data
srun "${2:?the program}" "$GKFS_MOUNTDIR/data"
gkfs stop
