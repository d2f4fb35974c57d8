"""`gkfs fsck` on mounted file systems: what is open is no fault; what a killed client leaves is mended."""

import os
import signal

from tests.mount.calls import MIB, errno_of, noise, opened
from tests.mount.conftest import Cluster, Place
from tests.mount.file_system import is_alive, wait_until


def test_what_is_mounted_and_open_is_no_fault(cluster: Cluster) -> None:
    file_system = cluster(3, mounts=2)
    here, there = file_system.mounts
    (here / "folder" / "inner").mkdir(parents=True)
    (there / "folder" / "link").symlink_to("file")
    with opened(here / "folder" / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, noise(3 * MIB))  # its size is not published yet
        file_system.gkfs("fsck", "-H", file_system.hostfile)
        os.rename(there / "folder", there / "renamed")
        file_system.gkfs("fsck", "-H", file_system.hostfile)


def test_data_of_a_killed_client_is_found_again(cluster: Cluster) -> None:
    """It is killed before it has published how long the file is: the data is there, but nobody could read it."""
    file_system = cluster(2, mounts=2)
    mountdir = file_system.mounts[1]  # the first one may be a daemon, too
    client = file_system.client_pid(mountdir)
    file = os.open(mountdir / "file", os.O_WRONLY | os.O_CREAT)
    os.write(file, noise(3 * MIB))
    # Now within a second, before the size is published; writes return before the data is there.
    chunks = file_system.rootdir.glob
    wait_until(lambda: sum(path.stat().st_size for path in chunks("*/chunks/*/*")) == 3 * MIB, "the data is there")
    os.kill(client, signal.SIGKILL)
    wait_until(lambda: not is_alive(client), "the client is dead")
    errno_of(lambda: os.close(file))
    file_system.gkfs("umount", mountdir)
    file_system.mounts.remove(mountdir)
    found = file_system.gkfs("fsck", "-H", file_system.hostfile, check=False)
    assert (found.returncode, found.stderr) == (11, "gkfs: 1 fault in the file system\n")
    assert found.stdout.startswith("beyond: file ")
    assert f": /file: data up to byte {3 * MIB}, size " in found.stdout
    repaired = file_system.gkfs("fsck", "-H", file_system.hostfile, "--repair", check=False)
    assert (repaired.returncode, repaired.stderr) == (10, "gkfs: 1 fault repaired\n")
    assert (file_system.mount() / "file").read_bytes() == noise(3 * MIB)


def test_link_counts_are_right_whatever_node_tells_first(place: Place) -> None:
    """One node makes directories, the other removes them at once: what it tells may come before."""
    for number in range(200):
        (place.here / f"{number}").mkdir()
        (place.there / f"{number}").rmdir()
    wait_until(lambda: place.here.stat().st_nlink == place.there.stat().st_nlink == 2, "there are 2 links")
