"""How much a file system may still hold, and holds at most, from what its daemons say of themselves."""

from collections.abc import Iterable

from gkfs.messages import StatusReply


def free_bytes(reply: StatusReply) -> int:
    """What one daemon may still store: what its disk has free, up to its limit."""
    if not reply.capacity_bytes:
        return reply.free_bytes
    return max(0, min(reply.free_bytes, reply.capacity_bytes - reply.used_bytes - reply.records_bytes))


def together(replies: Iterable[StatusReply]) -> tuple[int, int]:
    """Free and total bytes of all; daemons on one local file system share them, up to their limits."""
    disks: dict[tuple[str, int], list[StatusReply]] = {}
    for reply in replies:
        disks.setdefault((reply.host, reply.device), []).append(reply)
    free = total = 0
    for sharing in disks.values():
        disk = sharing[-1]
        if all(reply.capacity_bytes for reply in sharing):
            free += min(disk.free_bytes, sum(map(free_bytes, sharing)))
            total += min(disk.total_bytes, sum(reply.capacity_bytes for reply in sharing))
        else:
            free += disk.free_bytes
            total += disk.total_bytes
    return free, total
