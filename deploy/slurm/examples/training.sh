#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=1 --time=60
# A data set of many small files, read in random order by all nodes, again and again: it is copied once,
# by all nodes together, or unpacked from a tar file, and then comes from their local disks.
# Usage: sbatch training.sh FOLDER_OR_TAR PROGRAM; the program is called with the folder.
set -e
eval "$(gkfs start)"
case $1 in
*.tar | *.tar.*)
    mkdir "$GKFS_MOUNTDIR/data"
    tar -x -f "$1" -C "$GKFS_MOUNTDIR/data"
    ;;
*) gkfs stage-in "$1/" data ;;
esac
srun "$2" "$GKFS_MOUNTDIR/data"
gkfs stop
