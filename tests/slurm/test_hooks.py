"""deploy/slurm/epilog and prolog remove what was killed with SIGKILL, on the nodes of one job only."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.slurm_cluster import SHARED, SlurmCluster, until

_HOOKS = Path(__file__).parents[2] / "deploy" / "slurm"

# Sends a signal to everything of the job but its batch scripts. Upon SIGSTOP first, on all nodes, and SIGKILL then
# nothing is left that could clean up: who is stopped does not notice that others are gone.
_SIGNAL_ALL = """
grep -lzx "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | while read -r pid; do
    grep -qz gkfs /proc/$pid/cmdline 2>/dev/null && [ $pid != $$ ] && echo $pid
done | xargs -r kill -$1
"""


@pytest.fixture
def hooks(cluster: SlurmCluster) -> Iterator[None]:
    """The cluster has our Prolog and Epilog."""
    places = [cluster.folder / "etc" / f"{name}.d" / name for name in ("prolog", "epilog")]
    for place in places:
        shutil.copy(_HOOKS / place.name, place)
    yield
    cluster.on(0, "scancel", "--user=hpc")  # what a test that failed has left
    problems = cluster.trouble()  # before they are taken away: a job may be ending still
    for place in places:
        place.unlink()
    assert not problems


def signaller(cluster: SlurmCluster) -> Path:
    """The script of the above, as the nodes see it."""
    file = cluster.shared / "signal_all.sh"
    file.write_text(_SIGNAL_ALL)
    return SHARED / file.name


def gone(cluster: SlurmCluster) -> list[str]:
    """What is left, after a minute at most."""
    until(lambda: not cluster.leftovers(), 60)
    return cluster.leftovers()


def left_of(cluster: SlurmCluster, job: int) -> list[str]:
    """What is left of one job."""
    return [line for line in cluster.leftovers() if re.search(rf"/gkfs-20001[-/]{job}(/|$| )", line)]


@pytest.mark.usefixtures("hooks")
def test_when_everything_was_killed_the_epilog_leaves_nothing(cluster: SlurmCluster) -> None:
    script = f"""
eval "$(gkfs start -m /mnt/gkfs)"
srun --overlap -N3 -n3 sh -c 'head -c 3M /dev/urandom > $GKFS_MOUNTDIR/$(hostname); ln -s /etc $GKFS_MOUNTDIR/e$$'
srun --overlap -N3 -n3 sh {signaller(cluster)} STOP
srun --overlap -N3 -n3 sh {signaller(cluster)} KILL
srun --overlap -N3 -n3 sh -c 'ls /mnt/gkfs; ls -d /tmp/gkfs-*/$SLURM_JOB_ID'
"""
    done = cluster.sbatch(script, "-N3")
    assert done.output.count("Transport endpoint is not connected") == 3, done.output
    assert done.output.count(f"/tmp/gkfs-20001/{done.job}\n") == 3, done.output
    assert gone(cluster) == []


@pytest.mark.usefixtures("hooks")
def test_a_client_that_hangs_and_all_that_waits_for_it_go_with_the_job(cluster: SlurmCluster) -> None:
    script = """
eval "$(gkfs start)"
touch $GKFS_MOUNTDIR/a
pkill -STOP -u hpc -f 'gkfs (mount|node|daemon)'
cat $GKFS_MOUNTDIR/a & sleep 0.5
exit 3
"""
    done = cluster.sbatch(script, "-N1", "-w", "node2")
    assert done.status == 3
    assert gone(cluster) == []


@pytest.mark.usefixtures("hooks")
def test_another_job_of_the_same_user_on_the_same_node_goes_on(cluster: SlurmCluster) -> None:
    other = cluster.submit(
        """
eval "$(gkfs start)"
head -c 3M /dev/urandom | tee $GKFS_MOUNTDIR/data | sha256sum > sum
echo ready
until [ -e go ]; do sleep 0.1; done
sha256sum < $GKFS_MOUNTDIR/data | diff - sum && touch $GKFS_MOUNTDIR/more && gkfs stop && echo unharmed
""",
        "-w",
        "node1",
    )
    other.wait_for("ready")
    script = f"""
eval "$(gkfs start)"
sh {signaller(cluster)} STOP
sh {signaller(cluster)} KILL
ls $GKFS_MOUNTDIR
"""
    done = cluster.sbatch(script, "-w", "node1")
    assert "Transport endpoint" in done.output or "connection abort" in done.output
    assert until(lambda: not left_of(cluster, done.job), 60), left_of(cluster, done.job)
    assert left_of(cluster, other.number)
    (other.folder / "go").touch()
    result = other.wait()
    assert result.output.endswith("unharmed\n"), result.output


@pytest.mark.usefixtures("hooks")
def test_nothing_that_a_user_prepares_makes_the_epilog_remove_what_is_not_the_users(cluster: SlurmCluster) -> None:
    kept = cluster.shared / "kept"
    kept.mkdir(mode=0o777)
    kept.chmod(0o777)
    for name in ("file", "folder"):
        (kept / name).mkdir()
    os.chmod(kept, 0o755)
    (kept / "gkfs-20001-99").mkdir()
    script = f"""
J=$SLURM_JOB_ID
mkdir -p /tmp/gkfs-$UID/$J /mnt/local/gkfs-$UID-$J
chmod 700 /tmp/gkfs-$UID
ln -s {SHARED}/kept /mnt/local/gkfs-$UID-$J/link
ln -s {SHARED}/kept/gkfs-20001-99 /tmp/gkfs-$UID/$J/data
ln -s {SHARED}/kept /var/tmp/gkfs-$UID-$J
touch /mnt/local/gkfs-$UID-$J/file
"""
    done = cluster.sbatch(script, "-w", "node1")
    assert done.status == 0
    assert cluster.trouble() == []
    assert sorted(entry.name for entry in kept.iterdir()) == ["file", "folder", "gkfs-20001-99"]
    left = cluster.leftovers()
    assert left == [f"node1: file /var/tmp/gkfs-20001-{done.job}"]  # a link: not ours, nobody follows it
    cluster.on("node1", "rm", f"/var/tmp/gkfs-20001-{done.job}")


@pytest.mark.usefixtures("hooks")
def test_a_folder_that_another_user_has_put_in_the_way_is_not_touched(cluster: SlurmCluster) -> None:
    victim = SHARED / "victim"
    on = cluster.on("node1", "install", "-d", "-o", "hpc", "-m", "755", victim / "7", user="root")
    assert on.returncode == 0, on.stderr
    planted = cluster.on("node1", "ln", "-s", victim, "/tmp/gkfs-20001", user="hpc2")
    assert planted.returncode == 0, planted.stderr
    environment = ["env", "SLURM_JOB_ID=7", "SLURM_JOB_UID=20001"]
    ran = cluster.on("node1", *environment, "/etc/slurm/epilog.d/epilog")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (cluster.shared / "victim" / "7").is_dir()
    cluster.on("node1", "rm", "/tmp/gkfs-20001")


@pytest.mark.usefixtures("hooks")
def test_the_prolog_removes_what_earlier_jobs_have_left_and_nothing_younger(cluster: SlurmCluster) -> None:
    script = """
for j in 901 902; do
    mkdir -p /mnt/local/gkfs-$UID-$j/daemon-0 /tmp/gkfs-$UID/$j
    touch /mnt/local/gkfs-$UID-$j/daemon-0/chunk
done
chmod 700 /tmp/gkfs-$UID
touch -d '1 hour ago' /mnt/local/gkfs-$UID-901 /tmp/gkfs-$UID/901
"""
    for _ in range(2):
        made = cluster.sbatch(script, "-w", "node3")
        assert made.status == 0, made.output
    # The Prolog ran before the second script: at first there was nothing, then 901 was old.
    ran = cluster.on("node3", "env", "SLURM_JOB_ID=903", "/etc/slurm/prolog.d/prolog")
    assert (ran.returncode, ran.stderr) == (0, "")
    left = cluster.leftovers()
    cluster.on("node3", "sh", "-c", "rm -r /mnt/local/gkfs-* /tmp/gkfs-20001")
    assert not [line for line in left if "901" in line]
    assert "node3: file /mnt/local/gkfs-20001-902/daemon-0/chunk" in left
    assert "node3: file /tmp/gkfs-20001/902" in left


def test_hooks_end_well_whatever_their_environment_is(cluster: SlurmCluster) -> None:
    for name in ("prolog", "epilog"):
        hook = f"/mnt/software/src/deploy/slurm/{name}"
        for words in (
            [],
            ["SLURM_JOB_ID=x", "SLURM_JOB_UID=y"],
            ["SLURM_JOB_ID=1", "SLURM_JOB_UID=0"],
            ["SLURM_JOB_ID=1", "SLURM_JOB_UID=4242"],
        ):
            ran = cluster.on("node1", "env", "-i", *words, hook)
            assert (ran.returncode, ran.stderr) == (0, ""), (name, words)
