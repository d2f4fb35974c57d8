"""What travels when a daemon counts what a subtree holds; see `gkfs.messages` for the rules."""

from typing import Any, NamedTuple


class UsageRequest(NamedTuple):
    """Count what is here of *path* and everything below it, from keys above *after* on (b"" at first).

    Counts are given for directories down to *depth* below *path*, which is 0: what lies deeper counts for the
    directory of that depth that it is in. Ages are as of *now_ns*.
    """

    path: bytes
    depth: int
    after: bytes
    now_ns: int


class UsageReply(NamedTuple):
    """To be added to all others. Of files with several names it has the names only: the rest is elsewhere."""

    directories: list[bytes]  # paths
    tallies: list[list[Any]]  # one for each, see `gkfs.tally.Tally.pack`
    linked: list[int]  # fids of files with several names, for each name found here
    linked_in: list[int]  # for each of them, the directory it counts for: index in *directories*
    after: bytes  # for the next request; b"": that was all
