"""What rivals have in common whose servers run in a sandbox, and whose client mounts beside it."""

import contextlib
from typing import ClassVar

from benchmarks.processes import unmount
from benchmarks.sandbox import Sandbox
from benchmarks.systems.base import System


class Sandboxed(System):
    """A system that has put its servers into `_sandbox`, once that is made."""

    needs_root: ClassVar = True
    _sandbox: Sandbox | None = None

    def bring_down(self) -> None:
        with contextlib.ExitStack() as stack:
            if self._sandbox is not None:
                stack.callback(self._sandbox.end)
            unmount(self.mountpoint)
