"""Every bound, size and timeout of the file system, each with its reason. Layer 0: imports nothing of ours."""

from typing import Final

# --- names: Linux's own limits, so that what fits a local disk fits here
NAME_MAX_BYTES: Final = 255
PATH_MAX_BYTES: Final = 4096
SYMLINK_TARGET_MAX_BYTES: Final = 4095
MOVES_FOLLOWED: Final = 16  # renames by other nodes that one call runs after
LINKS_MAX: Final = (1 << 31) - 1  # names of one file
# Of one file, names and values: they travel with its record. One value of the largest size Linux takes fits.
XATTRS_MAX_BYTES: Final = 96 << 10
XATTR_NAME_MAX_BYTES: Final = 255
XATTR_VALUE_MAX_BYTES: Final = 64 << 10
# In a flat namespace a name below a long path could exceed what a key should hold; the kernel limits
# a path argument to 4096 bytes, but relative calls can go deeper. Twice PATH_MAX is refused.
KEY_PATH_MAX_BYTES: Final = 2 * PATH_MAX_BYTES

# --- data
CHUNK_SIZE_BYTES: Final = 1 << 20  # the largest FUSE request; an aligned one meets one chunk
# Files up to this size live in their record: no chunk file, and one request less to read or write them. Larger
# values make every change of the record dearer (docs/decisions/0008-data-in-records.md).
INLINE_DATA_MAX_BYTES: Final = 8 << 10
CHUNK_INDEX_MAX: Final = (1 << 32) - 1  # 32 bits in the chunk's file name and key
FILE_SIZE_MAX_BYTES: Final = (CHUNK_INDEX_MAX + 1) * CHUNK_SIZE_BYTES

# --- cluster
# Daemon index: 15 bits of a fid, so that a fid is positive as a signed number; all but the last one, so that each
# can be told as a placement of 16 bits.
DAEMONS_MAX: Final = (1 << 15) - 1

HOSTFILE_MAX_BYTES: Final = 16 << 20  # DAEMONS_MAX lines, each written again by a few restarts
CONFIGURATION_MAX_BYTES: Final = 1 << 20

# --- wire: bounds are checked before memory is taken
PROTOCOL_VERSION: Final = 10
MESSAGE_BODY_MAX_BYTES: Final = 512 << 10
HELLO_BODY_MAX_BYTES: Final = 1024  # of the first message, before there is a receive buffer
MESSAGE_BULK_MAX_BYTES: Final = CHUNK_SIZE_BYTES
RECEIVE_BUFFER_BYTES: Final = 1 << 20  # holds the largest body and many small messages
BULK_OWN_BUFFER_BYTES: Final = 32 << 10  # larger bulk is received straight into a buffer of its own
ARRAY_MAX: Final = 1 << 15  # items of a list in a message; the longest are 16384, of USAGE and AUDIT_FILES
SEND_BUFFERS_MAX: Final = 512  # pieces in one sendmsg; IOV_MAX is 1024
IN_FLIGHT_MAX: Final = 1024  # requests of one client waiting at one daemon
DEDUP_WINDOW: Final = 2 * IN_FLIGHT_MAX  # replies kept for repeats: a repeat is never older than the flight
CONNECTIONS_MAX: Final = 4096  # of one daemon: 512 nodes, several mounts and peers each
# Connections that have not proved yet that they know the key, some 10 kB each. One more drops the oldest of the
# address that has most of them: others are served on. At the start of a large job many are honest.
HANDSHAKES_MAX: Final = 1024
READDIR_PAGE_ENTRIES: Final = 1000  # with 255-byte names still below MESSAGE_BODY_MAX_BYTES
TREE_BATCH_BYTES: Final = 256 << 10  # records moved per message by a directory rename

# --- time
CONNECT_TIMEOUT_S: Final = 5.0
HANDSHAKE_TIMEOUT_S: Final = 5.0  # a peer that connects and says nothing is dropped
REFUSALS_WINDOW_S: Final = 60.0  # of callers that are refused in this time so many get a line in the log
REFUSALS_LOGGED_OF_ONE: Final = 3  # of one address
REFUSALS_LOGGED: Final = 20  # of all; the rest is counted
REFUSALS_ADDRESSES: Final = 1024  # told apart
REQUEST_TIMEOUT_S: Final = 60.0  # then the call fails with ETIMEDOUT naming the daemon
SILENT_TIMEOUT_S: Final = 1.0  # once a daemon has let a call time out and is silent still; the kernel asks twice
PEER_TIMEOUT_S: Final = 20.0  # daemon to daemon: below the client's, so that its answer says why
LOCK_WAIT_S: Final = 30.0  # a request waiting for a directory rename to pass
RECONNECT_FIRST_S: Final = 0.02
RECONNECT_MAX_S: Final = 1.0
START_TIMEOUT_S: Final = 30.0  # `gkfs start` and `gkfs mount` are ready by then or fail with the reason
CERTIFICATE_TIMEOUT_S: Final = 10.0  # `--tls`: for openssl to make one, which takes hundredths of a second
STOP_TIMEOUT_S: Final = 20.0
LEASE_S: Final = 0.2  # changing a directory that others just used, or a file they read, waits at most this long
# The kernel starts to count when the program that asked runs again; on a busy node that takes a while.
LEASE_MARGIN_S: Final = 0.1
WRITE_LEASE_S: Final = 2.5  # on a file: its holder may have data on its way; who wants to write, too, waits
WRITE_LEASE_RENEW_S: Final = 0.25  # who writes asks so often, and learns so that somebody else wants to
WRITE_SETTLE_S: Final = 10.0  # then its data must arrive within this
WRITE_RIGHT_S: Final = 10.0  # who has said that it writes counts as a writer for so long
NAMES_LEASE_S: Final = 0.1  # on the names of a directory that one client fills alone; an entry of another waits
NAMES_CALM_S: Final = 10.0  # then nobody gets one on that directory for so long
NAMES_LEASE_AFTER: Final = 4  # entries one after another at one daemon, the last of which brings it
NAMES_LEASE_MAX: Final = 256  # names that a daemon tells with a new one; where there are more there is none
DIRECTORY_ATTR_TIMEOUT_S: Final = 0.01  # as old as the next line makes them anyway
# What a lookup says serves the rest of the system call, as open(2) or stat(2), and what follows at once. The
# kernel counts in ticks of 1 to 4 ms and rounds up.
LOOKUP_ATTR_TIMEOUT_S: Final = 0.001
# Who lists a directory looks at its entries at once, and need not ask again. `ls -l` does so within milliseconds.
LISTED_TIMEOUT_S: Final = 0.05
LISTED_FILES: Final = 16384  # of one directory; the kernel, and the client, remember no more because of a listing
DIRECTORY_TOUCH_DELAY_S: Final = 0.01  # parents' times reach other nodes within this
HOLD_RENEW_S: Final = 1.0  # a client says this often which files it has open
NAMELESS_GRACE_S: Final = 4.0  # a file without name stays so long, for who opened it but has not said so yet
HOLD_FILES: Final = 500  # in one message
SIZE_FLUSH_DELAY_S: Final = 1.0  # a writer that neither syncs nor closes publishes its size this often

# --- client
WRITE_BEHIND_BYTES: Final = 8 << 20  # of one file, sent and not confirmed: more than a daemon's round trip covers
WRITE_BEHIND_CALLS: Final = 256
WRITE_BEHIND_ALL_BYTES: Final = 64 << 20  # gathered of all files; then each write is sent and waited for
READ_AHEAD_CHUNKS: Final = 4  # of a file that is read from begin to end, beyond the chunk being read
READ_AHEAD_AGE_S: Final = 0.2  # what was read ahead is not used later: others may have written
READ_AHEAD_ALL_BYTES: Final = 128 << 20  # of all handles: two chunks for each of 64 programs
INODES_MAX: Final = 200_000  # that the kernel may hold references to, some 1,200 bytes each; `--max-inodes`
INODES_LEAST: Final = 100
INODES_CHECK_S: Final = 1.0  # more than that are given back this often
NAMES_KNOWN_MAX: Final = 100_000  # of directories that this client fills, some 100 bytes each
DATA_KEPT_FILES: Final = 4096  # small files whose data stay in the client for who opens them next

# --- sleeping and being woken costs more than serving a call
# So the pump of a mount looks again and again for so long before it sleeps, for the program's next call and for
# replies (decision 9).
SPIN_S: Final = 80e-6
# And a daemon that serves one client, until that client's next request.
DAEMON_SPIN_S: Final = 150e-6
SPINS_IN_VAIN: Final = 4  # then it has not paid, and is left out
SPINS_LEFT_OUT: Final = 32  # so many times, before it is tried once more

# After so many rounds of the pump, each less than 5 ms after the one before, processors are kept from halting
# (gkfs/awake.py).
AWAKE_AFTER_ROUNDS: Final = 32

# --- garbage in cycles, which is rare (gkfs/garbage.py)
GARBAGE_AFTER_OBJECTS: Final = 50_000  # some MiB; Python's own is 700
GARBAGE_TIMES_YOUNG: Final = 20  # before what has stayed once is looked through, too
GARBAGE_TIMES_MIDDLE: Final = 100  # and before everything is, which takes 0.1 s for a million objects

# --- daemon
LEASES_MAX: Final = 100_000  # paths leased at once, some 300 bytes each
TREES_UNDONE_MAX: Final = 10_000  # directory renames given up, whose request for a lock may still wait
NAMES_LEASES_MAX: Final = 10_000  # directories of which it is known who fills them, some 400 bytes each
FILE_CALM_S: Final = 10.0  # a file that one node changed while another read it is not leased for so long
OPEN_CHUNKS_MAX: Final = 512  # chunk files kept open
DESCRIPTORS_SPARE: Final = 64  # of a daemon: its logs, sockets to listen on, threads that read directories, peers
# Larger chunk I/O runs in a thread, metadata goes on meanwhile. A cached read-ahead request, 128 KiB, costs a
# fifth of what the thread would.
INLINE_IO_MAX_BYTES: Final = 128 << 10
INLINE_COLD_READ_MAX_BYTES: Final = 16 << 10  # what is not cached; a thread costs more than an SSD takes for it
SLOW_DISK_READ_S: Final = 0.002  # once such a read has taken so long, the next ones use threads
SLOW_DISK_SPELL_S: Final = 1.0  # for so long
DIRECT_IO_MIN_BYTES: Final = 256 << 10  # larger pieces of chunks go past the page cache
LARGE_BUFFERS_KEPT: Final = 32  # of a chunk each, for the next pieces that a process reads, writes or receives
IO_THREADS: Final = 8
SYNCS_AT_ONCE: Final = 4  # of one file's chunks; the other threads are for reads and writes
# What one checksum covers: the unit of the page cache and of direct I/O, so that nothing is read just to be summed
# (docs/decisions/0015-checksums.md).
CHECKSUM_BLOCK_BYTES: Final = 4096
SUMS_KEPT_CHUNKS: Final = 4096  # whose checksums are in memory, 1.3 kB each
SUMS_UNSTORED_CHUNKS: Final = 1024  # changed lately: what a killed daemon cannot verify
SUMS_CALM_S: Final = 1.0  # a chunk that was not changed for so long gets its checksums stored
BOOT_EPOCH_MAX: Final = (1 << 16) - 1  # 16 bits of a fid: starts of one daemon
SCAN_PAGE_RECORDS: Final = 1000  # a walk over records takes so many, then lets others run
AUDIT_PAGE_BYTES: Final = 256 << 10  # of `gkfs fsck`: what a daemon sends of its store at once
AUDIT_PAGE_FILES: Final = 10_000  # names of chunk files a daemon reads for one answer
USAGE_ANSWER_S: Final = 0.5  # a daemon that counts a large subtree says after so long how far it is
USAGE_ANSWER_BYTES: Final = 256 << 10  # or with so much to say: below MESSAGE_BODY_MAX_BYTES, like a page of audit
METADATA_MEMTABLE_BYTES: Final = 32 << 20  # of RocksDB, three of them
METADATA_MEMTABLE_SHARE: Final = 128  # but not more than so small a part of a small disk, or of the capacity
METADATA_MEMTABLE_LEAST_BYTES: Final = 1 << 20
METADATA_CACHE_BYTES: Final = 64 << 20  # RocksDB's cache of blocks
METADATA_FILES_MAX: Final = 256  # descriptors RocksDB keeps for its tables
METADATA_UNMERGED_SLOW: Final = 6  # where memtables are small: files not merged yet that slow writes down
METADATA_UNMERGED_MAX: Final = 8  # and that stop them: what is merged at once is no more than what is kept for it
METADATA_LOG_BYTES: Final = 1 << 20  # RocksDB's own log, two of them are kept
METADATA_REOPEN_BYTES: Final = 2 << 20  # free space that RocksDB needs to open
SCAN_PAGE_BYTES: Final = 256 << 10  # records sent at once of a whole tree
CHECKSUMS_MAX: Final = 256  # chunks in one question for checksums
SPACE_RESERVE_BYTES: Final = 64 << 20  # kept from data, so that a full disk still takes the records of removals
SPACE_RESERVE_SHARE: Final = 16  # but not more than a 16th of a small disk
SPACE_RESERVE_MEMTABLES: Final = 32  # and twice what the records take, up to so many memtables: to merge files
SPACE_CHECK_BYTES: Final = 16 << 20  # written between two looks at the free space, well below the reserve
SPACE_CHECK_SHARE: Final = 64  # and not more than so small a part of the capacity
RECORD_LEAST_BYTES: Final = 256  # of a new record, its place in the log and in an index
CAPACITY_LEAST_BYTES: Final = 16 << 20  # `--capacity`: below it the daemon's own files would be most of it
BALLAST_EXTRA_BYTES: Final = 2 << 20  # given up on a full disk, beside two memtables
MERGE_END_S: Final = 5.0  # a merge that is told to end takes milliseconds
MERGE_PAUSE_S: Final = 1.0  # between two merges of RocksDB's files for want of space
MERGE_PAUSE_SHARE: Final = 5  # and so often as long as the last one took
STAT_CHUNKS: Final = 256  # chunk files looked at before others may run: half a millisecond
INLINE_CUT_CHUNKS: Final = 4  # more chunk files are removed in a thread
UNSYNCED_FILES_MAX: Final = 1 << 16  # files whose unsynced chunks are known one by one
# Replies queued for one connection, and data of its requests that threads work on, each; beyond it no more
# requests are read from it. Of all connections together; and what each has however many there are.
SHARE_MAX_BYTES: Final = 64 << 20
SHARES_BYTES: Final = 1 << 30
SHARE_LEAST_BYTES: Final = 2 << 20
REQUESTS_IN_WORK_MAX: Final = (
    2 * IN_FLIGHT_MAX
)  # of one connection, by tasks: those it gave up, and as many new ones
BATCH_REQUESTS_MAX: Final = IN_FLIGHT_MAX  # executed and committed as one, then others may run
BATCH_READS_BYTES: Final = 8 << 20  # data that the requests of one batch may ask for
BATCH_UNLOOKED: Final = 64  # so few requests are executed together without adding up what they ask for
SEND_STALL_S: Final = 60.0  # a peer that takes none of its replies for so long is dropped
BUSY_SPELL_S: Final = 0.005  # a connection that always has input lets others run this often
RECEIVE_STALL_S: Final = 60.0  # a peer that stops within a message for so long is dropped
PEER_KEEPALIVE_S: Final = 15  # a silent TCP connection is probed after this, and
PEER_KEEPALIVE_PROBES: Final = 3  # so often this again; then, or with data unconfirmed for
PEER_UNCONFIRMED_S: Final = 60  # so long, the host is gone
SESSIONS_MAX: Final = 2 * CONNECTIONS_MAX
# Replies kept for repeats, of all sessions together: 512 clients with a full window of creations each. Beyond it
# who has most loses its oldest.
REPLIES_KEPT_BYTES: Final = 512 << 20
REPLY_OVERHEAD_BYTES: Final = 300  # of Python's objects, for each
SESSION_MEMORY_S: Final = 600.0  # replies are kept for a client without connection
HOLDER_GONE_S: Final = 60.0  # a client that has said nothing for so long has nothing open any more
HINTS_MAX: Final = 1 << 16  # files renamed lately whose new path is remembered, for who has them open
MOVED_DIRECTORIES_MAX: Final = 1 << 13  # of them; after more all directories are asked for a while, wherever
VERIFIED_DIRECTORIES_MAX: Final = 1 << 14  # of which a daemon knows that they are where it has asked for them
MOVED_MEMORY_S: Final = 120.0  # names below a renamed directory's old path are checked: twice a request's life
TREE_TIMEOUT_S: Final = 45.0  # one step of a directory rename at one daemon: below REQUEST_TIMEOUT_S
RETRY_FIRST_S: Final = 0.05  # work that must be finished, when a daemon does not answer
RETRY_MAX_S: Final = 5.0
CLEAN_STOP_S: Final = 2.0  # for requests being executed when the daemon is told to stop

# --- jobs
GANG_MEMBERS_MAX: Final = 4096  # processes that one verb starts on other nodes, and strangers that knock meanwhile
GANG_MESSAGE_MAX_BYTES: Final = 8 << 20  # a hostfile of DAEMONS_MAX lines fits
KEEPALIVE_IDLE_S: Final = 5  # a host that vanished is noticed after this, and KEEPALIVE_PROBES times this again
KEEPALIVE_PROBES: Final = 3
JOB_START_TIMEOUT_S: Final = 120.0  # from srun to the last node that is ready; hundreds of nodes may share a disk
DAEMON_RESTARTS_MAX: Final = 3  # of daemons that were killed, on one node of a job
JOB_END_GRACE_S: Final = 1.0  # a node told to end by a signal waits so long for the others to unmount
JOB_CONNECT_TIMEOUT_S: Final = 60.0  # a mount at the start of a job tries so long; all nodes call all daemons
JOB_STOP_TIMEOUT_S: Final = 30.0  # for all nodes to unmount, end their daemons and remove their data

CREW_TURN_S: Final = 0.2  # who leads movers looks at signals and the time this often

# --- packs: `gkfs pack` and `gkfs unpack`
PACK_SPLIT_BYTES: Final = 256 << 20  # larger files are cut in parts of this size, for all nodes to share
PACK_SEGMENT_BYTES: Final = 32 << 20  # of a container, unpacked by one mover: many more of them than movers
PACK_INDEX_ENTRIES: Final = 1000  # members in a segment at most: its index block is read at once
PACK_PIECE_BYTES: Final = CHUNK_SIZE_BYTES
PACK_READS_AHEAD: Final = 512  # of one mover, from the daemons
PACK_READS_AHEAD_BYTES: Final = 64 << 20
PACK_GATHER_BYTES: Final = 8 << 20  # written at once to a container
PACK_BLOCK_BYTES: Final = 4 << 20  # read at once from a container
PACK_BLOCKS_AHEAD: Final = 4
PACK_FILES_AT_ONCE: Final = 256  # small ones that one mover makes beside each other
PACK_WRITES_AHEAD_BYTES: Final = 64 << 20
PACK_LINKED_BATCH: Final = 100  # files with several names in one order to a mover
PACK_LOCK_RENEW_S: Final = 2.0  # who packs says so often that it is alive
PACK_LOCK_DEAD_S: Final = 10.0  # and counts as dead on other nodes when it has not said so for so long
MANIFEST_MAX_BYTES: Final = 64 << 20  # thousands of containers, and the names of a hundred thousand large files
MANIFEST_SUBTREES_MAX: Final = 1000  # directories at the top that are described one by one
PACK_REPORT_S: Final = 0.2  # movers say how far they are

# --- command line
CONTROL_TIMEOUT_S: Final = 5.0  # one question of `gkfs status` or `gkfs stop` to a connected daemon
CONTROL_PARALLEL: Final = 64  # daemons asked at once: far below the file descriptors a process may have
FSCK_UNFINISHED_S: Final = 10.0  # `gkfs fsck` waits so long for work in the background; it takes moments
FSCK_SETTLE_S: Final = 1.5  # and so long for what clients publish late: SIZE_FLUSH_DELAY_S and some
FSCK_TIMEOUT_S: Final = 60.0  # for one answer of a daemon that has much else to do
USAGE_TIMEOUT_S: Final = 60.0  # `gkfs du`: for one answer of a daemon that has much else to do
FSCK_ROUNDS_MAX: Final = 6  # repairs that make others necessary: a missing directory, its parent's link count
POLL_INTERVAL_S: Final = 0.02  # of what nobody announces: a socket that is refused, a process that is gone
RUN_GRACE_S: Final = 10.0  # COMMAND of `gkfs run` after a signal; with the clean-up below Slurm's KillWait of 30 s
END_GRACE_S: Final = 5.0  # a mount or daemon of `gkfs run` between SIGTERM and SIGKILL
BUSY_RETRY_S: Final = 0.5  # a program that just ended may hold the mount a moment longer
MOVERS_MAX: Final = 64  # `--movers` of one node; more than it has cores wait for each other
DAEMONS_LOCAL_MAX: Final = 64  # `-n`: daemons of one machine; more share its disks and cores for nothing

# Two copies (docs/replication.md). A primary answers while its mirror has confirmed something it was sent within
# COPY_LEASE_S; a mirror takes over when it has heard nothing for COPY_SILENCE_S, which therefore must be longer.
REPLICAS_MAX: Final = 2
REPLICAS_DAEMONS_LEAST: Final = 3  # primary, mirror, and who decides between them
COPY_PING_S: Final = 0.5
COPY_LEASE_S: Final = 2.0
COPY_SILENCE_S: Final = 4.0
COPY_PART_BYTES: Final = 512 * 1024  # of the changes of one commit that travel as one
COPY_WINDOW_BYTES: Final = 16 * 1024 * 1024  # of a new copy on the way at a time
COPY_BACKLOG_BYTES: Final = 128 * 1024 * 1024  # on the way to a mirror; far more than a network holds
VOTE_TIMEOUT_S: Final = 1.0  # well below COPY_SILENCE_S
