"""MPI programs in a job use one file together: Open MPI's two implementations of MPI-IO, and HDF5 (docs/mpi.md).

Programs that write run with two ranks on each of three nodes. Those that check are steps of their own, with ranks
placed otherwise, so that nobody checks only what its own node wrote.
"""

import pytest

from tests.slurm.slurm_cluster import Result, SlurmCluster

_PROGRAMS = "/mnt/software/src/tests/slurm/programs"

# -m cyclic: ranks 0 and 3 on the first node, 1 and 4 on the second...; else 0 and 1, 2 and 3...
_SHELL = f"""
set -e
export H5PY_ALWAYS_USE_MPI=1
programs={_PROGRAMS}
mpi="srun --overlap --mpi=pmix -N3 -n6"
io() {{ $mpi /usr/bin/python3 $programs/mpi_io.py $GKFS_MOUNTDIR/file "$@"; }}
check() {{ $mpi -m cyclic /usr/bin/python3 $programs/mpi_io.py $GKFS_MOUNTDIR/file "${{@/#/check-}}"; }}
"""


def in_a_job(cluster: SlurmCluster, script: str, options: str = "") -> Result:
    """Run the script in a job with a file system; it must succeed."""
    text = f"""{_SHELL}
eval "$(gkfs start {options})"
set +e
(set -e; {script})
status=$?
gkfs stop || status=9
exit $status"""
    done = cluster.sbatch(text, "-N3", "--ntasks-per-node=2")
    assert (done.state, done.status) == ("COMPLETED", 0), done.output
    return done


def write_and_check(cluster: SlurmCluster, settings: str, *kinds: str) -> None:
    """Both as steps of one job."""
    done = in_a_job(cluster, f"{settings}\nio {' '.join(kinds)}\ncheck {' '.join(kinds)}")
    assert [line for line in done.output.splitlines() if line.endswith(" is right")] == [
        *(f"{kind} is right" for kind in kinds),
        *(f"check-{kind} is right" for kind in kinds),
    ]


def test_a_file_per_process_is_read_by_all_others(cluster: SlurmCluster) -> None:
    write_and_check(cluster, "", "file-per-process")


# What docs/mpi.md says to set; OMPIO needs nothing.
_SETTINGS = {
    "ompio": "export OMPI_MCA_io=ompio",
    "romio321": 'export OMPI_MCA_io=romio321 ROMIO_HINTS=$PWD/hints; echo romio_ds_write disable >"$ROMIO_HINTS"',
}


@pytest.mark.parametrize("io", _SETTINGS)
def test_many_write_one_file_by_mpi_io(cluster: SlurmCluster, io: str) -> None:
    write_and_check(cluster, _SETTINGS[io], "blocks", "blocks-collective", "pieces", "pieces-collective")


@pytest.mark.parametrize("io", _SETTINGS)
def test_nobody_reads_what_is_older_than_a_sync_on_a_mount_with_direct_io(cluster: SlurmCluster, io: str) -> None:
    done = in_a_job(cluster, f"{_SETTINGS[io]}\nio rounds", "--direct-io")
    assert "rounds is right" in done.output


def test_a_shared_file_pointer_works_with_the_setting_for_it(cluster: SlurmCluster) -> None:
    setting = "export OMPI_MCA_io=ompio OMPI_MCA_sharedfp=individual"
    write_and_check(cluster, setting, "shared-pointer-ordered", "shared-pointer")


@pytest.mark.parametrize("io", _SETTINGS)
def test_parallel_hdf5(cluster: SlurmCluster, io: str) -> None:
    script = f"""{_SETTINGS[io]}
$mpi /usr/bin/python3 $programs/mpi_hdf5.py write $GKFS_MOUNTDIR/file
srun --overlap -N1 -n1 -w node2 /usr/bin/python3 $programs/mpi_hdf5.py check $GKFS_MOUNTDIR/file"""
    done = in_a_job(cluster, script)
    assert "independent HDF5 is right\ncollective HDF5 is right\n" in done.output


@pytest.mark.parametrize(
    ("options", "run"),
    [("", "(cd /; $mpi env -C $GKFS_MOUNTDIR ./program data)"), ("--allow-other", "$mpi ./program data")],
    ids=["as is", "with --allow-other the working directory of srun may be there, too"],
)
def test_a_program_compiled_on_the_mount_runs_from_it_on_all_nodes(
    cluster: SlurmCluster, options: str, run: str
) -> None:
    script = f"""
cd $GKFS_MOUNTDIR
mpicc -O2 -Wall -Werror -o program $programs/mpi_io.c
{run}
cmp data <(/usr/bin/python3 -c 'import sys, array; sys.stdout.buffer.write(array.array("i", range(6 * 50021)))')
echo the file is right"""
    done = in_a_job(cluster, script, options)
    assert "6 ranks, 0 numbers wrong\n" in done.output
    assert "the file is right\n" in done.output
