"""How RocksDB is set up: its log, its tables, what it may take."""

from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options, WriteOptions

from gkfs.daemon.superblock import Ending
from gkfs.limits import (
    METADATA_CACHE_BYTES,
    METADATA_LOG_BYTES,
    METADATA_MEMTABLE_BYTES,
    METADATA_UNMERGED_MAX,
    METADATA_UNMERGED_SLOW,
)

# What may be wrong with the log. A node that went down wrote its pages in no order: what follows the first gap is
# lost. A killed daemon leaves at most a last record that is torn. Everything else is damage, and cutting the log
# there would silently lose what was acknowledged.
RECOVERY: Final = {
    Ending.POWER: DBRecoveryMode.point_in_time,
    Ending.KILLED: DBRecoveryMode.tolerate_corrupted_tail_records,
    Ending.CLEAN: DBRecoveryMode.absolute_consistency,
}


def how_to_write(*, sync: bool, log: bool) -> WriteOptions:
    """Options of a write: whether it is synced, and whether the log has it."""
    how = WriteOptions()
    how.sync = sync
    how.disable_wal = not log  # type: ignore[method-assign, assignment]  # its stub lacks a decorator
    return how


def options(memtable_bytes: int, files_max: int, recovery: DBRecoveryMode) -> Options:
    """Options of a store: how much it gathers in memory, how many files it has open, what a damaged log means."""
    found = Options(raw_mode=True)
    found.create_if_missing(True)
    found.set_write_buffer_size(memtable_bytes)
    # What is merged at once needs its size once more: a part of what `room` keeps free.
    found.set_target_file_size_base(2 * memtable_bytes)
    found.set_max_bytes_for_level_base(8 * memtable_bytes)
    found.set_max_compaction_bytes(8 * memtable_bytes)
    found.set_level_compaction_dynamic_level_bytes(False)
    found.set_max_write_buffer_number(3)
    if memtable_bytes < METADATA_MEMTABLE_BYTES:
        found.set_level_zero_slowdown_writes_trigger(METADATA_UNMERGED_SLOW)
        found.set_level_zero_stop_writes_trigger(METADATA_UNMERGED_MAX)
    found.set_max_background_jobs(2)  # the node's cores belong to the application
    found.set_max_open_files(files_max)
    found.set_compression_type(DBCompressionType.lz4())
    found.set_keep_log_file_num(2)
    found.set_max_log_file_size(METADATA_LOG_BYTES)
    found.set_stats_dump_period_sec(0)
    found.set_stats_persist_period_sec(0)
    found.set_wal_recovery_mode(recovery)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(METADATA_CACHE_BYTES))
    table.set_bloom_filter(10, False)  # most creations ask for what is not there
    found.set_block_based_table_factory(table)
    return found
