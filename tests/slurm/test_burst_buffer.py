"""deploy/slurm/burst_buffer.lua with task_prolog and task_epilog: a file system for lines in the batch script."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.slurm_cluster import SHARED, USERS, NotHereError, SlurmCluster, until

_HOOKS = Path(__file__).parents[2] / "deploy" / "slurm"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster of two nodes whose Slurm has all of it."""
    config = tmp_path_factory.mktemp("config")
    (config / "extra.conf").write_text("BurstBufferType=burst_buffer/lua\n")
    shutil.copy(_HOOKS / "burst_buffer.lua", config)
    for hook in ("task_prolog", "task_epilog", "epilog"):
        (config / f"{hook}.d").mkdir()
        shutil.copy(_HOOKS / hook, config / f"{hook}.d")
    try:
        cluster = SlurmCluster(2, config)
    except NotHereError as why:
        pytest.skip(f"no Slurm cluster: {why}")
    yield cluster
    cluster.close()


@pytest.fixture(autouse=True)
def _nothing_is_left(site: SlurmCluster) -> Iterator[None]:
    yield
    problems = site.trouble()
    until(lambda: not site.leftovers(), 60)
    assert problems + site.leftovers() == []


def project(site: SlurmCluster) -> Path:
    """A folder of the parallel file system with a tree in it."""
    folder = site.new_folder()
    (folder / "input" / "deep").mkdir(parents=True)
    (folder / "input" / "deep" / "numbers").write_text("1\n2\n3\n")
    (folder / "results").mkdir()
    for path in (folder / "input", folder / "input" / "deep", folder / "results"):
        shutil.chown(path, USERS["hpc"], USERS["hpc"])
    return folder


def test_a_script_finds_its_input_and_its_results_are_copied_out(site: SlurmCluster) -> None:
    folder = project(site)
    inside = SHARED / folder.name
    done = site.sbatch(
        f"""#BB_LUA gkfs pool=gkfs capacity=3G
#BB_LUA gkfs stage_in={inside}/input:in stage_out=out:{inside}/results
cd / # the working directory of srun cannot be on the mount
srun -N2 --ntasks-per-node=1 sh -c '
    cd $GKFS_MOUNTDIR && mkdir -p out && sed "s/^/$(hostname) /" in/deep/numbers > out/$(hostname)'
echo done, $(df --block-size=1 --output=size "$GKFS_MOUNTDIR" | tail -n 1)
""",
        "-N2",
    )
    assert (done.state, done.status, done.output) == ("COMPLETED", 0, f"done, {3 << 30}\n")
    for node in ("node1", "node2"):
        result = folder / "results" / node
        assert until(result.exists, 60)
        assert result.read_text() == f"{node} 1\n{node} 2\n{node} 3\n"


def test_a_script_without_such_lines_gets_none(site: SlurmCluster) -> None:
    done = site.sbatch("env | grep GKFS_MOUNTDIR; ls -d /tmp/gkfs-*; echo nothing", "-N2")
    assert done.status == 0
    assert "GKFS_MOUNTDIR" not in done.output
    assert done.output.endswith("nothing\n")


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ("capacty=1G", "unknown word 'capacty=1G'"),
        ("stage_in=here:there", "stage_in=here:there is not /SOURCE:FOLDER"),
        ("stage_in=/a:../b", "stage_in=/a:../b is not /SOURCE:FOLDER"),
        ("stage_out=/a:/b", "stage_out=/a:/b is not FOLDER:/TARGET"),
        ("stage_in=/a:b stage_in=/a:c", "stage_in is given twice"),
        ("capacity=1G", "Burst Buffer request invalid"),  # Slurm's own check: no pool
        ("pool=gkfs capacity=much", "Burst Buffer request invalid"),
        ("pool=other capacity=1G", "Burst Buffer request invalid"),
    ],
)
def test_a_wrong_wish_is_refused_at_submission(site: SlurmCluster, wish: str, reason: str) -> None:
    with pytest.raises(RuntimeError, match="sbatch: ") as refused:
        site.submit(f"#BB_LUA gkfs {wish}\ntrue")
    assert reason in str(refused.value)


def test_jobs_wait_for_space_that_others_have_taken(site: SlurmCluster) -> None:
    first = site.submit("#BB_LUA gkfs pool=gkfs capacity=40T\necho runs; sleep 1000", "-N1")
    first.wait_for("runs")
    second = site.submit("#BB_LUA gkfs pool=gkfs capacity=40T\necho runs, too", "-N1")
    assert not until(lambda: second.state == "RUNNING", 5)
    first.cancel()
    assert second.wait().output == "runs, too\n"


def test_a_job_whose_input_is_missing_says_so_and_does_not_start(site: SlurmCluster) -> None:
    done = site.sbatch("#BB_LUA gkfs stage_in=/mnt/shared/missing:in\necho never", "-N1")
    assert done.state != "COMPLETED"
    assert "/mnt/shared/missing" in done.output
    assert "never" not in done.output
