"""What the operating system gives to `gkfs`, simulated: sockets, epoll, threads, clocks, random numbers.

The product is not changed and knows of nothing: the names under which it finds the system are bound to simulated
ones while a simulation runs. Files are real, in a folder that should be in memory. All is decided by one seed.
"""

import os
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import pyfuse3
import pytest
import trio
import trio._core._run as trio_run

from gkfs import transport
from gkfs.client import inodes, mount, pump, writing
from gkfs.daemon import connection, server
from gkfs.daemon.store import MetadataStore
from gkfs.limits import REQUEST_TIMEOUT_S
from tests.simulation.clock import Clock, Times
from tests.simulation.descriptors import Epoll, Poll, Table
from tests.simulation.network import Network, Profile
from tests.simulation.node import SessionPump
from tests.simulation.process import PROCESS
from tests.simulation.sockets import Hosts
from tests.simulation.stores import Store

T = TypeVar("T")
_MEMTABLE_BYTES = 64 << 10
_THREAD_MAX_S = 0.003  # what a call in a thread takes


class System:
    """One simulated system; all chance in it comes from *seed*."""

    def __init__(self, seed: int, *, calm: bool) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.table = Table()
        self.network = Network(self.clock, self.random, Profile.drawn(self.random, calm=calm))
        self.hosts = Hosts(self.table, self.network)
        self.waited_s: dict[str, float] = {}  # host -> how long a write of chunks from there took at the longest

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within the block the product runs on this system."""
        state = random.getstate()
        with pytest.MonkeyPatch.context() as patch:
            self._bind(patch)
            random.seed(self.random.random())
            try:
                yield
            finally:
                random.setstate(state)

    def _bind(self, patch: pytest.MonkeyPatch) -> None:
        times = Times(self.clock, self.random)
        for name, module in list(sys.modules.items()):
            if name.startswith("gkfs."):
                if vars(module).get("time") is time:
                    patch.setattr(module, "time", times)
                if vars(module).get("MetadataStore") is MetadataStore:
                    patch.setattr(module, "MetadataStore", Store)
                for spin in {"SPIN_S", "DAEMON_SPIN_S"} & vars(module).keys():
                    patch.setattr(module, spin, 0.0)
        patch.setattr(socket, "gethostname", lambda: PROCESS.get().host)
        patch.setattr(os, "urandom", self.random.randbytes)
        patch.setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr(trio_run, "_r", random.Random(self.random.random()))
        patch.setattr(trio.to_thread, "run_sync", self._in_thread)
        for wait in ("wait_readable", "wait_writable", "notify_closing"):
            patch.setattr(trio.lowlevel, wait, getattr(self.table, wait))
        patch.setattr(transport, "listen_tcp", self.hosts.listen_tcp)
        patch.setattr(transport, "listen_unix", self.hosts.listen_unix)
        patch.setattr(transport, "_connect", self.hosts.connect)
        patch.setattr(connection, "select", SimpleNamespace(poll=Poll, POLLIN=select.POLLIN))
        # Memory is not to be filled with what is there for a full disk.
        patch.setattr(server, "memtable_bytes", lambda *arguments: _MEMTABLE_BYTES)
        patch.setattr(server, "BALLAST_EXTRA_BYTES", 0)
        epoll = SimpleNamespace(epoll=lambda: Epoll(self.table), EPOLLIN=select.EPOLLIN)
        patch.setattr(pump, "select", epoll)
        patch.setattr(pump, "Beside", _Beside)
        names = {name: getattr(self.table, name) for name in ("eventfd", "eventfd_read", "eventfd_write", "close")}
        patch.setattr(pump, "os", SimpleNamespace(EFD_NONBLOCK=0, EFD_CLOEXEC=0, **names))
        # Sets of inodes are walked in the order of their hashes, which would be that of their addresses.
        patch.setattr(inodes.Inode, "__hash__", lambda inode: hash(inode.fid))
        patch.setattr(mount, "Pump", SessionPump)
        self._note_writes(patch, times)
        patch.setattr(pyfuse3, "terminate", lambda: PROCESS.get().end_session())
        patch.setattr(pyfuse3, "close", lambda unmount: None)
        patch.setattr(pyfuse3, "readdir_reply", _take_entry)
        patch.setattr(pyfuse3, "invalidate_inode", lambda *arguments, **options: None)

    def _note_writes(self, patch: pytest.MonkeyPatch, times: Times) -> None:
        confirm = writing.Writer._confirm

        async def confirm_noting(writer: writing.Writer, inode: inodes.Inode, behind: writing.Behind) -> None:
            host, sent_s = PROCESS.get().host, behind.sent[0].call.deadline_s - REQUEST_TIMEOUT_S
            await confirm(writer, inode, behind)
            self.waited_s[host] = max(times.monotonic() - sent_s, self.waited_s.get(host, 0.0))

        patch.setattr(writing.Writer, "_confirm", confirm_noting)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """For `trio.to_thread.run_sync`: here, at some moment; not to be cancelled, as a thread is not."""
        process = PROCESS.get()
        limiter: trio.CapacityLimiter | None = options.get("limiter")
        if limiter is not None:
            await limiter.acquire()
        try:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.random.uniform(0.0, _THREAD_MAX_S))
                last = process.before_step()
                result = function(*arguments)
                process.after_step(last)
                await trio.sleep(self.random.uniform(0.0, _THREAD_MAX_S))
                process.check()
        finally:
            if limiter is not None:
                limiter.release()
        return result


def _take_entry(token: Callable[[bytes, Any, int], bool], name: bytes, attributes: Any, cookie: int) -> bool:
    return token(name, attributes, cookie)


class _Beside:
    """For `Beside`: a pump that has nothing to do leaves all waiting to trio."""

    runnable = 0
    has_work = False

    def __init__(self, pump_epoll: Epoll) -> None:
        pass

    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """No events."""
        return []

    def close(self) -> None:
        """Nothing is open."""
