"""The client: one process per node that serves the mount and routes each request to its daemon.

Reading order: `pump` (drives pyfuse3 and the sockets), `pool` (connections), `inodes` and `handles` (what the
kernel holds), `attributes`, `namespace` (names and records), `data` (bytes and sizes), `listing`
(directories), `fuse` (the handlers the kernel calls), `mount` (start and end of a mount).
"""
