"""The file system in a Slurm job: daemons and mounts on three nodes, as an ordinary user."""

import re

from tests.slurm.slurm_cluster import SlurmCluster


def test_a_file_written_on_one_node_is_read_on_another(cluster: SlurmCluster) -> None:
    done = cluster.sbatch(
        """
eval "$(gkfs start)"
srun --overlap -N1 -w node1 sh -c 'hostname > $GKFS_MOUNTDIR/name; head -c 5M /dev/urandom > $GKFS_MOUNTDIR/data'
srun --overlap -N1 -w node2 sh -c 'echo on $(hostname), $(id -un): $(cat $GKFS_MOUNTDIR/name)'
srun --overlap sh -c 'sha256sum < $GKFS_MOUNTDIR/data'
stat -fc 'a mount of %T' $GKFS_MOUNTDIR
gkfs stop""",
        "-N3",
    )
    assert (done.state, done.status) == ("COMPLETED", 0), done.output
    assert "on node2, hpc: node1\n" in done.output
    assert "a mount of fuseblk\n" in done.output or "a mount of fuse\n" in done.output
    sums = re.findall("[0-9a-f]{64}", done.output)
    assert len(sums) == 3
    assert len(set(sums)) == 1


def test_what_a_job_leaves_behind_is_found(cluster: SlurmCluster) -> None:
    as_user = """
mkdir -p /tmp/gkfs-1/mnt /mnt/local/data
touch /mnt/local/data/chunk /dev/shm/gkfs-x
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("/tmp/gkfs-1/socket")'
bash -c 'exec -a gkfs sleep 1000 >/dev/null 2>&1' &
"""
    as_root = """
exec 3<>/dev/fuse
mount -i -t fuse.gkfs -o fd=3,rootmode=40000,user_id=0,group_id=0 gkfs /tmp/gkfs-1/mnt
"""
    for script, user in ((as_user, "hpc"), (as_root, "root")):
        done = cluster.on("node2", "bash", "-euc", script, user=user)
        assert done.returncode == 0, done.stderr
    found = cluster.leftovers()
    cluster.on(
        "node2", "bash", "-c", "pkill -x sleep; umount -l /tmp/gkfs-1/mnt; rm -r /tmp/gkfs-1 /mnt/local/data"
    )
    cluster.on("node2", "rm", "/dev/shm/gkfs-x")
    assert {re.sub(r"\d+: gkfs 1000", "gkfs", line) for line in found} >= {
        "node2: process gkfs ",
        "node2: mount /tmp/gkfs-1/mnt",
        "node2: socket /tmp/gkfs-1/socket",
        "node2: file /mnt/local/data/chunk",
        "node2: file /dev/shm/gkfs-x",
    }
    assert not [line for line in found if not line.startswith("node2")]


def test_nodes_share_nothing_but_the_parallel_file_system(cluster: SlurmCluster) -> None:
    places = "/tmp /mnt/local /dev/shm /mnt/shared"
    written = cluster.run(f"for p in {places}; do echo $(hostname) > $p/probe; done", nodes=["node1"])
    assert written.returncode == 0, written.stderr
    read = cluster.run(f"cd /; for p in {places}; do cat $p/probe 2>/dev/null || true; done", nodes=["node2"])
    cleaned = cluster.run(f"cd /; for p in {places}; do rm -f $p/probe; done")
    assert (read.stdout, cleaned.returncode) == ("node1\n", 0), read.stderr + cleaned.stderr
