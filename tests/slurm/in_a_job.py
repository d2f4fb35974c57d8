"""Shell text that gives a batch job its file system on all nodes, and takes it away again.

START sets GKFS_MOUNTDIR and GKFS_HOSTFILE.
"""

from typing import Final

START: Final = """
state=/tmp/gkfs-$UID/$SLURM_JOB_ID
export GKFS_MOUNTDIR=$state/mnt GKFS_HOSTFILE=$PWD/hosts
on_all="srun --overlap -N$SLURM_NNODES --ntasks-per-node=1"
$on_all mkdir -p $state/mnt /mnt/local/gkfs-$SLURM_JOB_ID
$on_all gkfs daemon -r /mnt/local/gkfs-$SLURM_JOB_ID -n $SLURM_NNODES &
$on_all gkfs mount --foreground --wait 60 &
timeout 60 $on_all sh -c 'until mountpoint -q $GKFS_MOUNTDIR; do sleep 0.1; done' || exit 99
"""

STOP: Final = """
$on_all gkfs umount || exit 98
gkfs stop || exit 97
wait
$on_all rm -r ${state%/*} /mnt/local/gkfs-$SLURM_JOB_ID || exit 96
"""
