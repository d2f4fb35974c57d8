"""A file system that cannot start on one node of three: one line that names node and reason, and nothing stays."""

import re

import pytest

from tests.slurm.slurm_cluster import SlurmCluster

_TRY = """
gkfs start {options} > exports; echo status $?
[ -s exports ] && echo exports
srun --overlap -N3 sh -c 'ls -d /tmp/gkfs-* /mnt/local/gkfs-*; pgrep -af "gkfs (node|mount|daemon)"' 2>/dev/null
"""


@pytest.mark.parametrize(
    ("options", "line", "status"),
    [
        ("--frob", "No such option", 2),
        ("--cores 0-x", "cores '0-x': expected a list as 0-3,8", 2),
        ("--serve-on node1,node9", "--serve-on: node9 is none of the 3 nodes, node1, node2, node3", 2),
        ("-r /mnt/local/none", "node[123]: rootdir /mnt/local/none does not exist", 3),
        ("-m /mnt/none/a", "node[123]: mountdir /mnt/none/a cannot be made: No such file or directory", 4),
        ("--interface eth9", "node[123]: no network interface eth9 with an IPv4 address here, known: lo, eth0", 8),
        ("--cores 4000", "node[123]: core 4000 is not among those of the job here, ", 2),
    ],
)
def test_wrong_option_is_one_line(cluster: SlurmCluster, options: str, line: str, status: int) -> None:
    done = cluster.sbatch(_TRY.format(options=options), "-N3")
    first, second = done.output.splitlines()[:2]
    assert re.match(f"gkfs: {line}", first), done.output
    assert second == f"status {status}"
    assert len(done.output.splitlines()) == 2, done.output


@pytest.mark.parametrize(
    ("breaks", "mends", "line", "status"),
    [
        ("umount /dev/fuse; chmod 0 /dev/fuse", "chmod 666 /dev/fuse", "node2: /dev/fuse cannot be opened: ", 9),
        ("chmod 755 /mnt/local", "chmod 1777 /mnt/local", "node2: rootdir /mnt/local may not be written to", 3),
        (
            "mount -t tmpfs -o size=1m,mode=1777 tmpfs /mnt/local; head -c 2M /dev/zero > /mnt/local/full",
            "umount /mnt/local",
            "node2: daemon 1: ",
            3,
        ),
    ],
    ids=["no /dev/fuse", "rootdir unwritable", "local disk full"],
)
def test_one_node_that_cannot(cluster: SlurmCluster, breaks: str, mends: str, line: str, status: int) -> None:
    cluster.on("node2", "sh", "-c", breaks)
    try:
        done = cluster.sbatch(_TRY.format(options="-r /mnt/local"), "-N3")
    finally:
        cluster.on("node2", "sh", "-c", mends)
    first, second = done.output.splitlines()[:2]
    assert first.startswith(f"gkfs: {line}"), done.output
    assert second == f"status {status}"
    assert len(done.output.splitlines()) == 2, done.output


def test_a_script_with_set_e_does_not_go_on_without_its_file_system(cluster: SlurmCluster) -> None:
    done = cluster.sbatch('set -e; eval "$(gkfs start -r /mnt/local/none)"; echo on', "-N3")
    assert (done.state, done.status) == ("FAILED", 3)
    assert "on\n" not in done.output


def test_nodes_that_only_serve_or_only_mount(cluster: SlurmCluster) -> None:
    done = cluster.sbatch(
        """
eval "$(gkfs start --serve-on node1,node2 --mount-on node[2-3] -n 2 --cores 0 --interface eth0)"
gkfs status | grep -c tcp://10.77.0
srun --overlap -N3 -n3 -l sh -c 'grep -c fuse.gkfs.*gkfs- /proc/mounts' | sort
srun --overlap -N1 -n1 -w node3 sh -c 'echo from 3 > $GKFS_MOUNTDIR/a'
srun --overlap -N1 -n1 -w node2 sh -c 'cat $GKFS_MOUNTDIR/a; pgrep -af gkfs.daemon | wc -l'
srun --overlap -N1 -n1 -w node2 sh -c 'taskset -cp $(pgrep -f gkfs.daemon | head -1)'
gkfs stop
""",
        "-N3",
    )
    lines = done.output.splitlines()
    assert lines[0] == "4"
    assert "from 3" in lines
    assert any(line.endswith("affinity list: 0") for line in lines), done.output


def test_start_without_slurm_over_a_list_of_hosts(cluster: SlurmCluster) -> None:
    """ssh's part is played by srun, which takes a host and a command, too."""
    done = cluster.sbatch(
        """
export GKFS_RSH='./rsh'
printf '#!/bin/sh\\nhost=$1; shift; exec srun --overlap -N1 -n1 -w $host sh -c "$*"\\n' > rsh; chmod +x rsh
printf 'node1\\nnode3\\n' > ./nodes
cd / ; export GKFS_RSH=$OLDPWD/rsh
eval "$(gkfs start --launcher ssh --hosts $OLDPWD/nodes)"
srun --overlap -N1 -w node3 sh -c 'echo over ssh > $GKFS_MOUNTDIR/a'; cat $GKFS_MOUNTDIR/a
gkfs stop
""",
        "-N3",
    )
    assert "over ssh\n" in done.output, done.output
    assert "has ended on 2 nodes" in done.output, done.output


def test_start_without_slurm_by_mpirun(cluster: SlurmCluster) -> None:
    """Open MPI finds its own way to the nodes."""
    done = cluster.sbatch(
        """
eval "$(gkfs start --launcher mpi --hosts node1,node2,node3)"
srun --overlap -N1 -n1 -w node3 sh -c 'echo over mpirun > $GKFS_MOUNTDIR/a'; cat $GKFS_MOUNTDIR/a
gkfs stop
""",
        "-N3",
        "--ntasks-per-node=1",
    )
    assert "over mpirun\n" in done.output, done.output
    assert "has ended on 3 nodes" in done.output, done.output


def test_start_from_a_login_node_that_is_none_of_the_jobs_nodes(cluster: SlurmCluster) -> None:
    script = """
eval "$(gkfs start)"; hostname
srun --overlap -N1 -n1 -w node3 sh -c 'echo from the job > $GKFS_MOUNTDIR/a'
gkfs stop; ls -A /tmp | grep gkfs
"""
    done = cluster.on("ctl", "salloc", "-N3", "--ntasks-per-node=1", "bash", "-c", script, user="hpc")
    assert done.stdout.startswith("ctl\n")
    assert "has ended on 3 nodes\n" in done.stdout
    assert "gkfs-" not in done.stdout
