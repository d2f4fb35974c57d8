"""Network, mounts and processes of their own for servers that have fixed ports and folders.

They meet nothing of this machine's, are reached over a loopback device only, and end together, whatever happens.
"""

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.processes import END_TIMEOUT_S, end, start, wait_until

ADDRESS = "10.91.0.1"  # on the namespace's own lo: some servers refuse to be called at 127.0.0.1


class Sandbox:
    """Namespaces that live as long as one process in them."""

    def __init__(self, folder: Path, binds: Mapping[Path, Path]) -> None:
        """*binds*: the folder that is seen -> the folder of ours that is there instead. Needs root."""
        lines = [f"mkdir -p '{seen}' && mount --bind '{ours}' '{seen}'" for seen, ours in binds.items()]
        lines += ["ip link set lo up", f"ip address add {ADDRESS}/32 dev lo", f"touch '{folder}/ready'"]
        script = " && ".join(lines) + f" && exec tail -f '{folder}/ready'"
        namespaces = ("--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private")
        # Dies with this process even if that is killed, and all in the PID namespace with it.
        self._holder = start(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", *namespaces, "sh", "-c", script],
            folder / "sandbox.log",
        )
        self._servers: list[subprocess.Popen[bytes]] = []
        try:
            wait_until((folder / "ready").exists, f"a sandbox, see {folder}/sandbox.log", END_TIMEOUT_S)
            children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
            self._init = int(children.read_text().split()[0])
        except BaseException:
            end(self._holder)
            raise

    def inside(self, *command: object) -> list[str]:
        """*command* as a server of the sandbox."""
        target = ["--target", str(self._init), "--mount", "--net", "--pid"]
        return ["nsenter", *target, "--", *map(str, command)]

    def beside(self, *command: object) -> list[str]:
        """*command* with only the sandbox's network: for clients, whose mounts are for all to see."""
        return ["nsenter", f"--net=/proc/{self._init}/ns/net", "--", *map(str, command)]

    def serve(self, log: Path, *command: object) -> None:
        """Start a server that stays in the foreground."""
        self._servers.append(start(self.inside(*command), log))

    def end(self) -> None:
        """End all that runs in it."""
        end(self._holder, signal.SIGKILL)
        for server in self._servers:
            end(server)
