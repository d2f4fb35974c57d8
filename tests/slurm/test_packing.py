"""The state of one job goes into a few files on the parallel file system, and into another job on fewer nodes."""

import json

from gkfs import manifest
from tests.slurm.slurm_cluster import SlurmCluster

START = 'eval "$(gkfs start)" || exit 1'
STOP = "gkfs stop"
_FACTS = r"find . ! -type d -printf '%p %y %m %U %G %s %T@ %n %l\n'; find . -type f -exec sha256sum {} +"


def test_the_state_of_three_nodes_goes_on_on_two(cluster: SlurmCluster) -> None:
    first = cluster.sbatch(
        f"""{START}
srun --overlap sh -c '
    d=$GKFS_MOUNTDIR/$(hostname); mkdir -p $d/sub
    for i in $(seq 100); do head -c $((i * 50)) /dev/urandom > $d/sub/f$i; done
    head -c 9M /dev/urandom > $d/large; ln $d/sub/f1 $d/link; ln -s sub $d/symlink; chmod 640 $d/sub/f2'
gkfs pack --split 2 /mnt/shared/state || exit 1
(cd $GKFS_MOUNTDIR; {_FACTS}) | sort > /mnt/shared/before
{STOP}""",
        "-N3",
    )
    assert (first.state, first.status) == ("COMPLETED", 0), first.output
    folder = cluster.shared / "state"
    found = manifest.read(folder)
    assert len(found.data) == 6  # two movers on each of three nodes
    assert {container.entries > 0 for container in found.data} == {True}
    assert json.loads((folder / manifest.NAME).read_text())["totals"]["files"] == 303
    assert found.parts == {f"node{k}/large": 5 for k in (1, 2, 3)}
    second = cluster.sbatch(
        f"""gkfs unpack --verify /mnt/shared/state
{START}
gkfs unpack /mnt/shared/state || exit 1
cat > /mnt/shared/look <<'END'
(cd $GKFS_MOUNTDIR; {_FACTS}) | sort > /mnt/shared/after-$(hostname)
END
srun --overlap sh /mnt/shared/look
gkfs fsck || exit 1
gkfs du -d 1
rm -r /mnt/shared/state
{STOP}""",
        "-N2",
    )
    assert (second.state, second.status) == ("COMPLETED", 0), second.output
    before = (cluster.shared / "before").read_text()
    assert before.count("\n") == 309 + 306
    for name in ("node1", "node2"):
        assert (cluster.shared / f"after-{name}").read_text() == before
    assert " 0 faults" in second.output
