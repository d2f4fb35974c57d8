"""The daemon: keeps the records of its share of the paths and the chunks of its share of the data.

Files in reading order: `server` (start, stop, what is made of what), `connection` (bytes to messages), `dispatch`
(messages to handlers, batches, outcomes), `session` (repeats), `namespace` (the handlers of single records),
`truncate`, `reclaim`, `rmdir`, `rename`, `tree` (what involves several daemons), `peers` (calls to other daemons),
`guards` (who waits for whom), `store` and `keys` (RocksDB), `storage` (chunk files), `superblock` (the rootdir).

Concurrency: one trio task runs at a time and only an `await` lets another run. A synchronous handler is
therefore atomic; its writes are in the store's overlay until the batch it came in is committed, and the overlay
is empty at every `await`. Where atomicity of more than one call relies on this, a comment says so.
"""
