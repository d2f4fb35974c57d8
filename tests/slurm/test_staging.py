"""`gkfs stage-in` and `stage-out` in a job: by all three nodes, without any option, as an ordinary user."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.trees import facts
from tests.slurm.slurm_cluster import SlurmCluster

MIB = 1 << 20


@pytest.fixture
def tree(cluster: SlurmCluster) -> Iterator[Path]:
    """On the parallel file system: small files, a file that all nodes share the work of, links."""
    top = cluster.shared / "input"
    for number in range(200):
        folder = top / f"folder-{number % 9}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number}").write_bytes(os.urandom(number * 50))
    (top / "large").write_bytes(os.urandom(MIB) * 200)
    os.link(top / "folder-0" / "file-9", top / "hard")
    (top / "symbolic").symlink_to("folder-1")
    for path in (top, *top.rglob("*")):
        os.chown(path, 20001, 20001, follow_symlinks=False)
    yield top
    shutil.rmtree(top)


def test_trees_are_moved_in_and_out_by_all_nodes(cluster: SlurmCluster, tree: Path) -> None:
    done = cluster.sbatch(
        """
eval "$(gkfs start)"
gkfs stage-in /mnt/shared/input .
srun --overlap sh -c 'echo $(hostname): $(find $GKFS_MOUNTDIR/input -type f | wc -l) files'
gkfs stage-out input /mnt/shared/output/
gkfs stage-out --verify "$GKFS_MOUNTDIR/input" /mnt/shared/output/
gkfs fsck -H $GKFS_HOSTFILE
gkfs stop""",
        "-N3",
    )
    assert (done.state, done.status) == ("COMPLETED", 0), done.output
    for node in ("node1", "node2", "node3"):
        assert f"{node}: 202 files\n" in done.output
    assert "not seen" not in done.output
    output = cluster.shared / "output"
    assert facts(tree) == facts(output / "input")
    shutil.rmtree(output)


def test_a_node_that_does_not_see_the_source_takes_no_part(cluster: SlurmCluster) -> None:
    done = cluster.sbatch(
        """
eval "$(gkfs start)"
mkdir /tmp/here && echo hello > /tmp/here/file
gkfs stage-in /tmp/here .
rm -r /tmp/here
srun --overlap -N1 -w node2 cat $GKFS_MOUNTDIR/here/file
gkfs stop""",
        "-N3",
    )
    assert (done.state, done.status) == ("COMPLETED", 0), done.output
    assert "hello\n" in done.output
    assert "not by node2, node3: the same files are not seen there" in done.output
