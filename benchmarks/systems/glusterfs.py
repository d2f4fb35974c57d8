"""GlusterFS of Debian's packages: a distributed volume of one or more bricks, with its defaults."""

from pathlib import Path
from typing import ClassVar

from benchmarks.processes import run, wait_until, with_argument
from benchmarks.sandbox import ADDRESS, Sandbox
from benchmarks.systems.base import CLIENT, DAEMON
from benchmarks.systems.sandboxed import Sandboxed

VOLUME = "bench"


class GlusterFS(Sandboxed):
    """glusterd and its bricks in a sandbox, the client beside it."""

    packages: ClassVar = ("glusterfs-client", "glusterfs-server", "iproute2", "util-linux")

    def __init__(self, name: str, folder: Path, bricks: int) -> None:
        super().__init__(name, folder)
        self._bricks = bricks
        self._processes: dict[str, list[int]] = {}

    @property
    def title(self) -> str:
        return f"GlusterFS, {self._bricks} brick{'s' if self._bricks > 1 else ''}"

    def version(self) -> str:
        return run(["glusterfsd", "--version"]).splitlines()[0]

    def bring_up(self) -> None:
        folders = {name: self.folder / name for name in ("run", "log", "state")}
        for path in folders.values():
            path.mkdir()
        binds = {
            Path("/run"): folders["run"],
            Path("/var/log/glusterfs"): folders["log"],
            Path("/var/lib/glusterd"): folders["state"],
        }
        sandbox = self._sandbox = Sandbox(self.folder, binds)
        bricks = [f"{ADDRESS}:{self.backing(f'brick{index}')}/data" for index in range(self._bricks)]
        gluster = sandbox.inside("gluster", "--mode=script")
        sandbox.serve(self.folder / "glusterd.out", "glusterd", "-N", "-l", self.folder / "log/glusterd.log")
        wait_until((folders["run"] / "glusterd.socket").exists, "glusterd")
        run([*gluster, "volume", "create", VOLUME, *bricks, "force"])
        run([*gluster, "volume", "start", VOLUME])
        client = ["glusterfs", f"--volfile-server={ADDRESS}", f"--volfile-id={VOLUME}"]
        run(sandbox.beside(*client, "-l", self.folder / "client.log", self.mountpoint))
        wait_until(lambda: self._can_write(), "a mount of GlusterFS that can be written to")
        self._processes = {
            CLIENT: with_argument(self.mountpoint, "glusterfsd"),
            DAEMON: with_argument(f"{self.folder}/brick", "glusterfsd"),
        }

    def _can_write(self) -> bool:
        """Not before all bricks are connected."""
        names = [self.mountpoint / f"probe{index}" for index in range(8 * self._bricks)]
        for name in names:
            name.touch()
        for name in names:
            name.unlink()
        return True

    def processes(self) -> dict[str, list[int]]:
        return self._processes
