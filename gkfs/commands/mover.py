"""`gkfs mover`: one of the processes that move trees for `gkfs stage-in`, `stage-out`, `pack` and `unpack`.

For packs see `gkfs.commands.packer`; for staging:

coordinator      mover
           <-    joined     my node
begin      ->               what is to be done, and the hostfile
           <-    ready      connected to all daemons; `sees`: I see the same files as the coordinator
           <-    failed     or not: why
unit       ->               one piece of work; several at a time
           <-    progress, error, differs, more, join, items         see `gkfs.client.stage`
           <-    done
stop       ->               begin nothing new, end what is under way
end        ->
"""

import os
import socket
from pathlib import Path
from typing import Any

import click

from gkfs.commands import launchers
from gkfs.commands.daemon import set_up_logging
from gkfs.errors import GkfsError
from gkfs.gang import Member
from gkfs.gang_wire import GangEnded, Message
from gkfs.limits import JOB_START_TIMEOUT_S


@click.command("mover", hidden=True)
def mover() -> None:
    """Move what the coordinator says. Started by other verbs, not by hand."""
    set_up_logging()
    member = Member.join(launchers.own_rank())
    try:
        member.send({"is": "joined", "host": socket.gethostname()})
        order = member.receive(JOB_START_TIMEOUT_S)
        if order is None:
            return
        try:
            _begin(member, order)
        except GkfsError as error:
            member.send({"is": "failed", "message": str(error), "status": int(error.status)})
    except GangEnded:
        pass  # whoever started us is gone
    finally:
        member.close()


def _begin(member: Member, order: Message) -> None:
    if order["do"] == "begin":
        _move(member, order)
    elif order["do"] != "end":
        from gkfs.commands import packer

        packer.work(member, order)


def _move(member: Member, order: Message) -> None:
    from gkfs.buffers import keep_large_buffers
    from gkfs.client import bulk  # imports trio and pyfuse3
    from gkfs.client.bulk import Bulk
    from gkfs.client.pump import Gate
    from gkfs.client.stage import Plan, Stage
    from gkfs.client.stage_in import StageIn
    from gkfs.client.stage_out import StageOut

    keep_large_buffers()
    kind: type[Stage] = StageIn if order["direction"] == "in" else StageOut

    async def work(b: Bulk) -> None:
        ended = Gate()

        def tell(message: dict[str, Any]) -> None:
            try:
                member.send(message)
            except GangEnded:
                ended.open()

        stage = kind(b, Plan(**order["plan"], tell_every_s=order["tell_every_s"]), tell)

        def arrived(_: int) -> None:
            try:
                messages = member.take()
            except GangEnded:
                ended.open()
                return
            for message in messages:
                if message["do"] == "end":
                    ended.open()
                elif message["do"] == "stop":
                    stage.stopping = True
                else:
                    b.pump.start(stage.do(message))

        b.pump.register(member.fileno(), arrived)
        tell({"is": "ready", "sees": all(_sees(path, seen) for path, seen in order["look_at"])})
        arrived(0)  # what came together with the order
        await ended
        stage.stopping = True
        b.pump.unregister(member.fileno())

    bulk.run(Path(order["hostfile"]), work, timeout_s=order["timeout_s"])


def identity(path: bytes) -> list[int]:
    """What tells *path* from other files on any node that mounts the same file system. Raises OSError."""
    found = os.stat(path)
    return [found.st_ino, found.st_mode, found.st_uid]


def _sees(path: bytes, seen: list[int]) -> bool:
    try:
        return identity(path) == seen
    except OSError:
        return False
