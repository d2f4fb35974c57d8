#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=1 --time=60 --signal=B:USR1@300
# A long computation in several jobs. Each writes its checkpoints to the fast file system, and hands the
# last one on through the parallel file system: five minutes before the time limit, or when it ends.
# Usage, in the folder with this script: sbatch checkpoint.sh SOLVER; it is called with a folder, and goes on with what is in there.
set -e
state=$PWD/state
eval "$(gkfs start)"
mkdir -p "$state"
gkfs stage-in "$state/" state

srun "${1:?the solver}" "$GKFS_MOUNTDIR/state" &
solver=$!
# Slurm signals this script; srun passes USR1 on to the solver, which writes its last checkpoint and ends.
trap 'kill -USR1 $solver; again=1' USR1
status=0
wait $solver || status=$?
[[ -z ${again-} ]] || wait $solver || true # the first wait ended with the signal

gkfs stage-out state/ "$state" # a second call moves only what has changed
gkfs stop
if [[ -n ${again-} ]]; then
    sbatch checkpoint.sh "$1"
    exit 0
fi
exit "$status"
