"""However a job ends, nothing of its file system stays on any node."""

import os

import pytest

from tests.slurm.slurm_cluster import Job, SlurmCluster, until

_GONE_WITHIN_S = 60
_BUSY = """
eval "$(gkfs start)" || exit 90
srun --overlap -N3 -n3 sh -c 'head -c 3M /dev/urandom > $GKFS_MOUNTDIR/$(hostname)'
srun --overlap -N3 -n3 sh -c 'inside=$PWD/$(hostname).inside
    exec 3<$GKFS_MOUNTDIR/$(hostname); cd $GKFS_MOUNTDIR; >$inside; exec sleep 1000' &
for n in node1 node2 node3; do until [ -e $n.inside ]; do sleep 0.1; done; done
echo busy
"""


def busy_job(cluster: SlurmCluster, rest: str = "wait", *options: str) -> Job:
    """A job whose steps have the mounts of all nodes in use."""
    job = cluster.submit(_BUSY + rest, "-N3", *options)
    job.wait_for("busy")
    return job


def assert_gone(cluster: SlurmCluster) -> None:
    """The last thing that ended the job was done just now."""
    assert until(lambda: not cluster.leftovers(), _GONE_WITHIN_S), cluster.leftovers()


def test_a_job_that_does_not_stop_its_file_system(cluster: SlurmCluster) -> None:
    done = cluster.sbatch('eval "$(gkfs start)"; touch $GKFS_MOUNTDIR/a; ls $GKFS_MOUNTDIR', "-N3")
    assert (done.state, done.output) == ("COMPLETED", "a\n")
    assert_gone(cluster)


def test_a_job_whose_command_fails(cluster: SlurmCluster) -> None:
    done = cluster.sbatch(
        "gkfs run -- sh -c 'cd $GKFS_MOUNTDIR; touch a; srun --overlap ls -d $PWD; exit 7'", "-N3"
    )
    assert (done.state, done.status, done.output) == ("FAILED", 7, f"/tmp/gkfs-20001/{done.job}/mnt\n" * 3)
    assert_gone(cluster)


def test_scancel(cluster: SlurmCluster) -> None:
    busy_job(cluster).cancel()
    assert_gone(cluster)


def test_scancel_with_sigkill_to_the_batch_script_only(cluster: SlurmCluster) -> None:
    busy_job(cluster).cancel("--batch", "--signal=KILL")
    assert_gone(cluster)


def test_kill_9_of_the_batch_shell(cluster: SlurmCluster) -> None:
    job = busy_job(cluster, "wait; wait")
    found = cluster.on("node1", "pkill", "-KILL", "-f", f"job{job.number:05d}/[s]lurm_script")
    assert found.returncode == 0
    assert_gone(cluster)


@pytest.mark.parametrize("what", ["[m]ount --foreground", "[d]aemon --until-killed"])
def test_kill_9_of_a_part_on_one_node(cluster: SlurmCluster, what: str) -> None:
    job = busy_job(cluster, "until [ -e go ]; do sleep 0.1; done; ls $GKFS_MOUNTDIR; gkfs stop; exit 0")
    found = cluster.on("node2", "pkill", "-KILL", "-f", what)
    assert found.returncode == 0
    job.wait_for("was killed by SIGKILL")
    (job.folder / "go").touch()
    result = job.wait()
    assert "node2: " in result.output
    assert "was killed by SIGKILL" in result.output
    if "daemon" in what:
        assert "node1\nnode2\nnode3\n" in result.output  # it was started again
    assert_gone(cluster)


def test_kill_9_of_the_leader(cluster: SlurmCluster) -> None:
    job = busy_job(cluster)
    assert cluster.on("node1", "pkill", "-KILL", "-f", "[g]kfs start").returncode == 0
    assert until(lambda: not [line for line in cluster.leftovers() if "process" in line], _GONE_WITHIN_S)
    job.cancel()
    assert_gone(cluster)


@pytest.mark.skipif(not os.environ.get("SLURM_TIME_LIMIT"), reason="takes 90 s: SLURM_TIME_LIMIT=1 runs it")
def test_time_limit(cluster: SlurmCluster) -> None:
    job = busy_job(cluster, "wait; wait", "-t", "0:01")
    assert until(lambda: job.state == "TIMEOUT", 150), job.state
    assert_gone(cluster)


@pytest.mark.parametrize(("state", "ends"), [("drain", False), ("down", True)])
def test_a_node_that_is_drained_or_declared_down(cluster: SlurmCluster, state: str, ends: bool) -> None:
    job = busy_job(cluster, "until [ -e go ]; do sleep 0.1; done; ls $GKFS_MOUNTDIR; gkfs stop", "--no-requeue")
    cluster.on(0, "scontrol", "update", "NodeName=node2", f"State={state}", "Reason=test")
    try:
        if not ends:
            (job.folder / "go").touch()
        result = job.wait()
        assert result.state == ("NODE_FAIL" if ends else "COMPLETED")
        assert ends or "node1\nnode2\nnode3\n" in result.output
        assert_gone(cluster)
    finally:
        cluster.on(0, "scontrol", "update", "NodeName=node2", "State=resume")


def test_stop_from_another_node_of_the_job(cluster: SlurmCluster) -> None:
    done = cluster.sbatch(
        'eval "$(gkfs start)"; srun --overlap -N1 -w node3 gkfs stop; ls -d /tmp/gkfs-* /mnt/local/gkfs-*',
        "-N3",
    )
    assert "has ended on 3 nodes" in done.output
    assert done.output.count("No such file or directory") == 2


def test_two_jobs_on_the_same_nodes_do_not_disturb_each_other(cluster: SlurmCluster) -> None:
    first = busy_job(
        cluster,
        "until [ -e go ]; do sleep 0.1; done; srun --overlap -N3 -n3 sh -c 'wc -c < "
        "$GKFS_MOUNTDIR/$(hostname)'; gkfs stop",
        "-n3",
        "-c1",
    )
    second = cluster.submit(
        'eval "$(gkfs start)"; srun --overlap -N3 -n3 sh -c "hostname > $GKFS_MOUNTDIR/\\$(hostname)"; '
        "ls $GKFS_MOUNTDIR; echo up; sleep 100",
        "-N3",
        "-n3",
        "-c1",
    )
    second.wait_for("up")
    assert second.output == "node1\nnode2\nnode3\nup\n"
    second.cancel()
    assert until(lambda: second.state == "CANCELLED", _GONE_WITHIN_S)
    assert until(
        lambda: not [line for line in cluster.leftovers() if f"/{second.number}/" in line], _GONE_WITHIN_S
    )
    (first.folder / "go").touch()
    result = first.wait()
    assert result.output.count(str(3 << 20)) == 3, result.output


def test_what_a_killed_file_system_left_does_not_hinder_the_next_one_of_the_job(cluster: SlurmCluster) -> None:
    done = cluster.sbatch(
        """
eval "$(gkfs start)"; echo first > $GKFS_MOUNTDIR/a
srun --overlap sh -c '
    all="[g]kfs (node|mount|daemon)"; pkill -KILL -f "$all"; while pgrep -f "$all" >/dev/null; do sleep 0.1; done
    ls $GKFS_MOUNTDIR'  # on the first node its leader may have unmounted it by now
ls -d /mnt/local/gkfs-*
eval "$(gkfs start)"; echo second > $GKFS_MOUNTDIR/b; ls $GKFS_MOUNTDIR; gkfs stop
""",
        "-N3",
    )
    assert "Transport endpoint is not connected" in done.output
    assert "\nb\n" in done.output, done.output
    assert_gone(cluster)
