"""MooseFS of Debian's packages: a master and a chunk server, one copy of the data, no trash; else its defaults."""

import shutil
from pathlib import Path
from typing import ClassVar

from benchmarks.processes import run, wait_until, with_argument
from benchmarks.sandbox import ADDRESS, Sandbox
from benchmarks.systems.base import CLIENT, DAEMON, Unavailable
from benchmarks.systems.sandboxed import Sandboxed

EMPTY = Path("/var/lib/mfs/metadata.mfs.empty")
START_TIMEOUT_S = 60.0  # the chunk server tries to register every five seconds


class MooseFS(Sandboxed):
    """Master and chunk server in a sandbox, the client beside it."""

    packages: ClassVar = ("iproute2", "moosefs-chunkserver", "moosefs-client", "moosefs-master", "util-linux")

    @property
    def title(self) -> str:
        return "MooseFS, 1 master, 1 chunk server"

    def version(self) -> str:
        return "MooseFS " + run(["mfsmaster", "-v"]).split()[1]

    def bring_up(self) -> None:
        if not EMPTY.exists():
            raise Unavailable(f"{EMPTY} of moosefs-master is missing")
        master, server = self.folder / "master", self.folder / "server"
        master.mkdir()
        server.mkdir()
        shutil.copy(EMPTY, master / "metadata.mfs")
        chunks = self.backing("chunks")
        own = "WORKING_USER = root\nWORKING_GROUP = root\n"
        self._write("exports.cfg", "* / rw,alldirs,admin,maproot=0:0\n")
        self._write("hdd.cfg", f"{chunks}\n")
        self._write("master.cfg", f"{own}DATA_PATH = {master}\nEXPORTS_FILENAME = {self.folder}/exports.cfg\n")
        settings = f"DATA_PATH = {server}\nHDD_CONF_FILENAME = {self.folder}/hdd.cfg\nMASTER_HOST = {ADDRESS}\n"
        self._write("server.cfg", f"{own}{settings}BIND_HOST = {ADDRESS}\n")
        sandbox = self._sandbox = Sandbox(self.folder, {})
        for program, name in (("mfsmaster", "master"), ("mfschunkserver", "server")):
            log = self.folder / f"{name}.log"
            sandbox.serve(log, program, "-f", "-c", self.folder / f"{name}.cfg", "start")
            wait_until(lambda log=log: "initialized properly" in log.read_text(), f"{program}, see {log}")  # type: ignore[misc]
        run(sandbox.beside("mfsmount", "-H", ADDRESS, self.mountpoint))
        wait_until(self._can_write, "a mount of MooseFS that can be written to", START_TIMEOUT_S)
        for command in ("mfssetgoal", "mfssettrashtime"):
            run(sandbox.beside(command, "-r", 1 if command == "mfssetgoal" else 0, self.mountpoint))

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def _can_write(self) -> bool:
        """Not before the chunk server has registered, which shows in the free space."""
        if shutil.disk_usage(self.mountpoint).free == 0:
            return False
        probe = self.mountpoint / "probe"
        probe.write_bytes(b"x")
        probe.unlink()
        return True

    def processes(self) -> dict[str, list[int]]:
        servers = (("mfsmaster", "master.cfg"), ("mfschunkserver", "server.cfg"))
        return {
            CLIENT: with_argument(self.mountpoint, "mfsmount"),
            DAEMON: [pid for name, mark in servers for pid in with_argument(self.folder / mark, name)],
        }
