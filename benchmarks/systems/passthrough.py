"""libfuse's example passthrough_hp, compiled here: what FUSE costs in C with nothing behind it but the disk."""

import contextlib
import shutil
from pathlib import Path
from typing import ClassVar

from benchmarks.packages import fetch_source
from benchmarks.processes import Failed, is_mounted, run, unmount, wait_until, with_argument
from benchmarks.systems.base import CLIENT, System, Unavailable

EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")
SOURCE = "passthrough_hp.cc"
# It was written for an older cxxopts, which brought iostream along and called an exception otherwise.
CXXOPTS_3 = ("-include", "iostream", "-Doption_not_exists_exception=exceptions::no_such_option")


class Passthrough(System):
    """With the kernel's caches on and splice, as it comes."""

    packages: ClassVar = ("g++", "libcxxopts-dev", "libfuse3-dev", "pkg-config")
    needs_root: ClassVar = True
    lacks: ClassVar = {"O_DIRECT": "hands the flag on to the disk, but not the alignment: write fails with EINVAL"}
    _servers: list[int] = []  # noqa: RUF012

    @property
    def title(self) -> str:
        return "libfuse's passthrough_hp (C++)"

    def version(self) -> str:
        return "libfuse " + run(["pkg-config", "--modversion", "fuse3"]).strip()

    def bring_up(self) -> None:
        program = self.folder / "passthrough_hp"
        self._compile(program)
        source = self.backing("source")
        # Without options, which newer cxxopts leave in argc: it wants to be called with two words. So it goes into
        # the background.
        run([program, source, self.mountpoint])
        wait_until(lambda: is_mounted(self.mountpoint), "a mount of passthrough_hp")
        self._servers = with_argument(self.mountpoint, program.name)

    def bring_down(self) -> None:
        unmount(self.mountpoint)  # it ends by itself then

    def processes(self) -> dict[str, list[int]]:
        return {CLIENT: self._servers}

    def _compile(self, program: Path) -> None:
        source = self.folder / SOURCE
        if (EXAMPLES / SOURCE).exists():
            shutil.copy(EXAMPLES / SOURCE, source)
        else:
            try:
                with contextlib.ExitStack() as stack:
                    fetch_source("fuse3", f"*/example/{SOURCE}", source, stack)
            except Failed as error:
                raise Unavailable(
                    f"its source is not in {EXAMPLES} and cannot be had from Debian: {error}"
                ) from None
        flags = run(["pkg-config", "--cflags", "--libs", "fuse3"]).split()
        run(["g++", "-O2", "-std=c++17", *CXXOPTS_3, "-o", program, source, *flags, "-lpthread"])
