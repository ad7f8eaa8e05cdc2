"""How RocksDB is set up: every option, with its reason.

Owns the options of the database and of each keyspace. Never opens anything. Those of a single read or write stand where
it is done, in rocks.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options

from zbroker.storage.interface import KEYSPACES

MIB = 1 << 20

CACHE_BYTES = 32 * MIB
"""One block cache for all keyspaces, for index and filter blocks as well."""

MEMTABLES_BYTES = 32 * MIB
"""All memtables together. Those that are being flushed come on top for as long as that takes."""

WAL_BYTES = 32 * MIB
"""All write-ahead logs together: what a start has to replay, about 10 ms per MiB."""

MEMTABLE_BYTES = 16 * MIB
"""One memtable of one keyspace, at most."""

BLOB_BYTES = 4096
"""Values from this size on live in blob files, which compaction does not copy over and over."""

POINT_READS = frozenset({"jobs", "payloads", "changes", "unique", "producers", "results"})
"""Read by key, and often for a row that is not there: a filter answers that without a look at the rows."""

CHURNING = frozenset(
    {
        "jobs",
        "payloads",
        "changes",
        "ready",
        "timers",
        "deliveries",
        "edges",
        "unique",
        "heads",
        "dead",
        "history",
        "results",
        "topics",
    }
)
"""Their rows come and go: a file that is mostly deletions is compacted at once, or scans would wade through it."""

BLOBS = frozenset({"jobs", "payloads", "results", "topics"})
"""Their values may be large."""

# Options that the Python binding has no setter for. It can load them from a file as RocksDB itself writes it.
_OPTIONS_FILE = """\
[Version]
  rocksdb_version=9.8.4
  options_file_version=1.1
[DBOptions]
  track_and_verify_wals_in_manifest=true
  info_log_level=WARN_LEVEL
[CFOptions "default"]
[TableOptions/BlockBasedTable "default"]
"""


def database_options(*, create: bool, cut_tail: bool = False) -> Options:
    """The options of the database as a whole.

    With `cut_tail` the log is read up to the first damage, and the rest is dropped: for repair only. Otherwise damage
    before the tail of the log refuses to open: the default of RocksDB drops synced data without a word.
    """
    options = _tracking_options()
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    mode = DBRecoveryMode.point_in_time if cut_tail else DBRecoveryMode.tolerate_corrupted_tail_records
    options.set_wal_recovery_mode(mode())
    options.set_max_total_wal_size(WAL_BYTES)
    options.set_db_write_buffer_size(MEMTABLES_BYTES)
    # Two cores are what a small host has, and the broker's loop wants one of them.
    options.set_max_background_jobs(2)
    # Table files are opened when they are first read: a start does not grow with the backlog, nor do descriptors.
    options.set_max_open_files(256)
    # Written back as it comes: a compaction's dirty pages must not pile up in front of the commit's fsync.
    options.set_bytes_per_sync(MIB)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(MIB)
    options.set_max_manifest_file_size(16 * MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def keyspace_options() -> dict[str, Options]:
    """The options of each keyspace, and of the family `default` that RocksDB always has and we do not use."""
    # The clock cache answers a lookup without a lock; 4 KiB is what most of its entries, data blocks, take.
    cache = Cache.new_hyper_clock_cache(CACHE_BYTES, 4096)
    return {space: _keyspace(space, cache) for space in ("default", *KEYSPACES)}


def _keyspace(space: str, cache: Cache) -> Options:
    options = Options(raw_mode=True)
    options.set_write_buffer_size(MEMTABLE_BYTES)
    # A flush that lags must not refuse writes at once; the bound on all memtables keeps the sum small.
    options.set_max_write_buffer_number(4)
    # There are many keyspaces, most of them quiet: memory is taken in small pieces.
    options.set_arena_block_size(256 * 1024)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_bytes_for_level_base(128 * MIB)
    options.set_target_file_size_base(32 * MIB)
    # The broker's writes refuse to be slowed down, so a slowdown is a refusal: it must come no sooner than a stop.
    options.set_level_zero_slowdown_writes_trigger(32)
    options.set_level_zero_stop_writes_trigger(36)

    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    if space in POINT_READS:
        table.set_bloom_filter(10, False)
        # 2 % of a memtable is about 20 bits for each of its rows, at 100 bytes a row.
        options.set_memtable_prefix_bloom_ratio(0.02)
        options.set_memtable_whole_key_filtering(True)
    options.set_block_based_table_factory(table)

    if space in CHURNING:
        # A file is compacted soon if, anywhere in it, half of 512 rows in succession are deletions.
        options.add_compact_on_deletion_collector_factory(512, 256, 0.5)
    if space in BLOBS:
        options.set_enable_blob_files(True)
        options.set_min_blob_size(BLOB_BYTES)
        options.set_blob_file_size(64 * MIB)
        options.set_blob_compression_type(DBCompressionType.lz4())
        options.set_enable_blob_gc(True)
        # Jobs are short-lived: the older half of the blob files is rewritten when half of it is garbage.
        options.set_blob_gc_age_cutoff(0.5)
        options.set_blob_gc_force_threshold(0.5)
    return options


def _tracking_options() -> Options:
    """Options under which RocksDB notes in its manifest which synced log files there are, and how long.

    Without it, a log file that is gone from between the others is not noticed by anybody: the watermark sees only
    that the end is missing.
    """
    with tempfile.TemporaryDirectory(prefix="zbroker-options-") as folder:
        Path(folder, "OPTIONS-000001").write_text(_OPTIONS_FILE, "ascii")
        Path(folder, "rocksdict-config.json").write_text('{"raw_mode":true,"prefix_extractors":{}}', "ascii")
        return Options.load_latest(folder)[0]
