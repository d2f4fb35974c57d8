"""The daemon: keeps the records of its share of the paths and the chunks of its share of the data.

Files in reading order: `server` (start, stop), `superblock` (the rootdir), `connection` and `outbox` (bytes to
messages and back), `dispatch` (messages to handlers, batches, outcomes), `session` (repeats), `handlers` (which
handler serves what), `namespace` and `parents` (single records), `status`; `store` and `keys` (RocksDB),
`storage` (chunk files); then what involves several daemons: `peers` (calls), `guards` (who waits for whom),
`truncate` and `reclaim` (chunks go), `rmdir`, `rename`, `adopt`, `tree`, with `intents` and `background` (what
must be finished); then two copies of everything: `mirror` and `mirrored_storage` (from here), `copies` (to
here), `views` and `failover` (who answers for what). `process` is around all of it, `doors` is where connections
come in.

Concurrency: one trio task runs at a time and only an `await` lets another run. A synchronous handler is
therefore atomic; its writes are in the store's overlay until the batch it came in is committed, and the overlay
is empty at every `await`. Where atomicity of more than one call relies on this, a comment says so.
"""
