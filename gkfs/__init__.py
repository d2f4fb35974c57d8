"""gkfs: an ephemeral burst-buffer file system for the nodes of one job.

Reading order: `limits`, `errors` (layer 0); `paths`, `chunks`, `hashing`, `metadentry`, `hostfile` (pure);
`distributor`, `messages`, `changes`, `operations` (decisions); `wire`, `channel` (sans-IO protocol);
`transport` (sockets); then `gkfs.daemon` and `gkfs.client`, which never import each other; at the top `commands`
and `cli`.
"""

__version__ = "0.1.0"
