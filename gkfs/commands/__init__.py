"""The verbs of the command line, one module per verb or pair of verbs; `gkfs.cli` composes them.

Files in reading order: `options` (settings as click options), `terminal` (what is printed), `hostfiles` and
`rootdirs` (files on disk), `signals`, `children` (daemons and mounts as processes), `control` (questions to
daemons), `mounts` (the kernel's mount table, unmounting), `records` (who serves which mount), `launch` (all
daemons of one machine); then the verbs `daemon`, `start`, `stop`, `status`, `mount`, `umount`, `run` (with
`foreground`, which runs COMMAND) and `configuration`.

Nothing here imports trio, rocksdict, pyfuse3 or rich before a verb needs it: `gkfs --help` and `gkfs umount` do
not wait for them.
"""
