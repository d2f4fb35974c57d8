"""The scripts of deploy/slurm/examples do what they say."""

import os
import shutil
from pathlib import Path

from tests.slurm.slurm_cluster import LIMIT_S, SHARED, USERS, Job, SlurmCluster, until

_EXAMPLES = Path(__file__).parents[2] / "deploy" / "slurm" / "examples"
_PROGRAMS = "/mnt/software/src/tests/slurm/programs"


def example(cluster: SlurmCluster, name: str, *arguments: str, options: tuple[str, ...] = ()) -> Job:
    """Submit it as a user would: a copy in a folder of theirs, with its own #SBATCH lines."""
    return cluster.submit((_EXAMPLES / name).read_text(), *options, arguments=arguments)


def script(job_folder: Path, name: str, text: str) -> str:
    """A program for the jobs; its path on the nodes."""
    file = job_folder / name
    file.write_text(f"#!/bin/sh\n{text}")
    file.chmod(0o755)
    return str(SHARED / job_folder.name / name)


def test_mpi_io(cluster: SlurmCluster) -> None:
    folder = cluster.new_folder()
    program = SHARED / folder.name / "program"
    built = cluster.on("node1", "mpicc", "-o", program, f"{_PROGRAMS}/mpi_io.c", user="hpc")
    assert built.returncode == 0, built.stderr
    job = example(cluster, "mpi_io.sh", str(program))
    done = job.wait()
    assert (done.state, done.status) == ("COMPLETED", 0), done.output
    assert "6 ranks, 0 numbers wrong" in done.output
    assert (job.folder / "data").stat().st_size == 6 * 50021 * 4


def test_hdf5(cluster: SlurmCluster) -> None:
    job = example(cluster, "hdf5.sh")
    done = job.wait()
    assert (done.state, done.status) == ("COMPLETED", 0), done.output
    assert "sum 1500000\n" in done.output
    assert (job.folder / "field.h5").is_file()


def test_a_computation_goes_on_in_the_next_job_from_its_last_checkpoint(cluster: SlurmCluster) -> None:
    folder = cluster.new_folder()
    solver = script(
        folder,
        "solver",
        """cd "$1" || exit
n=$(cat step 2>/dev/null || echo 0)
trap '[ $SLURM_PROCID != 0 ] || echo $((n + 100)) > step; exit 0' USR1
echo "started at $n"
[ $n = 0 ] || exit 0
while :; do sleep 0.1; done
""",
    )
    shutil.copy(_EXAMPLES / "checkpoint.sh", folder)
    os.chown(folder / "checkpoint.sh", USERS["hpc"], USERS["hpc"])
    job = example(cluster, "checkpoint.sh", solver, options=(f"--chdir={SHARED / folder.name}",))
    job.wait_for("started at 0")
    cluster.on(0, "scancel", "--batch", "--signal=USR1", str(job.number))
    done = job.wait()
    assert done.status == 0, done.output
    assert (folder / "state" / "step").read_text() == "100\n"
    second = folder / f"slurm-{job.number + 1}.out"
    assert until(lambda: second.exists() and "started at 100" in second.read_text(), LIMIT_S)


def test_training(cluster: SlurmCluster) -> None:
    folder = cluster.new_folder()
    data = folder / "data"
    data.mkdir()
    for number in range(300):
        (data / f"{number}.txt").write_text(f"{number}\n")
    source = str(SHARED / folder.name / "data")
    program = script(folder, "train", 'echo "$(hostname): $(cat "$1"/*.txt | sort -n | md5sum)"')
    done = example(cluster, "training.sh", source, program).wait()
    assert done.status == 0, done.output
    sums = {line.split(": ")[1] for line in done.output.splitlines() if line.startswith("node")}
    assert len(sums) == 1
    assert done.output.count("\nnode") + done.output.startswith("node") == 3


def test_array(cluster: SlurmCluster) -> None:
    folder = cluster.new_folder()
    program = script(folder, "work", 'sleep 1; echo "task $2" > "$1/result"')
    job = example(cluster, "array.sh", program, options=("--nodelist=node1",))
    results = [job.folder / "results" / str(number) / "result" for number in range(4)]
    assert until(lambda: all(result.exists() for result in results), LIMIT_S), job.output
    assert [result.read_text() for result in results] == [f"task {number}\n" for number in range(4)]
