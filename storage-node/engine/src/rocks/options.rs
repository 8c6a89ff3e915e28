//! How RocksDB is tuned. The memory for blocks and for writes is shared by all families.

use crate::{EngineSettings, Family, VERSION_BYTES};
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options, SliceTransform,
    WriteBufferManager,
};

/// Smallest write buffer: what the families that hold little get.
const SMALL_WRITE_BUFFER_BYTES: u64 = 8 << 20;
const WRITE_BUFFERS_MAX: i32 = 4;
const BLOCK_BYTES: usize = 16 << 10;
const BLOOM_BITS_A_KEY: f64 = 10.0;
/// Share of a write buffer that is spent on its filter.
const MEMORY_FILTER_RATIO: f64 = 0.05;
/// Written files are handed to the disk in portions, so that a sync never waits for a whole file.
const BYTES_PER_SYNC: u64 = 1 << 20;
const COMPACTION_READAHEAD_BYTES: usize = 2 << 20;
/// Every new log would take the room of a whole write buffer from the disk in advance. Logs are not synced
/// with each write here, so that it gains nothing (`docs/architecture.md`).
const NOTHING_AHEAD: &str = "allow_fallocate=false";
const INFO_LOG_BYTES_MAX: usize = 8 << 20;
const INFO_LOGS_KEPT: usize = 3;
/// A file in which so many of so many keys in a row are deletions, or such a part of all of them.
const DELETIONS_WINDOW: usize = 10_000;
const DELETIONS_TRIGGER: usize = 5_000;
const DELETIONS_RATIO: f64 = 0.5;
/// The format of RocksDB's table files: readable by RocksDB 8.6 and later.
const TABLE_FORMAT: i32 = 6;

/// Name of the function that takes the version off a key. It is stored in files: a change of the
/// function needs another name.
const PREFIX_NAME: &str = "rangedb.without-version";

/// Everything that options are made from.
#[derive(Clone)]
pub(super) struct Tuning {
    settings: EngineSettings,
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl Tuning {
    pub(super) fn new(settings: &EngineSettings) -> Self {
        Self {
            settings: settings.clone(),
            // No lock in its hits. The size of entries is not estimated but learnt.
            cache: Cache::new_hyper_clock_cache(to_usize(settings.block_cache_bytes), 0),
            write_buffers: WriteBufferManager::new_write_buffer_manager(
                to_usize(settings.write_buffer_total_bytes),
                false,
            ),
        }
    }

    pub(super) const fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// Options of the whole database.
    pub(super) fn database(&self) -> Options {
        let settings = &self.settings;
        let mut options = Options::default()
            .get_options_from_string(NOTHING_AHEAD)
            .expect("RocksDB knows its own options");
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        // A torn tail is what a crash leaves; anything else that does not read is damage. Recycled
        // logs would make the two look alike.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_recycle_log_file_num(0);
        options.set_max_total_wal_size(settings.write_buffer_total_bytes.saturating_mul(2));
        // Without a log, all families must come to disk at the same point of history.
        options.set_atomic_flush(!settings.wal);
        options.set_max_background_jobs(to_i32(settings.background_jobs.max(2)));
        options.set_max_open_files(to_i32(settings.open_files_max.max(64)));
        options.set_bytes_per_sync(BYTES_PER_SYNC);
        options.set_wal_bytes_per_sync(BYTES_PER_SYNC);
        options.set_compaction_readahead_size(COMPACTION_READAHEAD_BYTES);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_stats_dump_period_sec(0);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
        options.set_keep_log_file_num(INFO_LOGS_KEPT);
        options
    }

    /// Options of one family, also for files that are built outside of the database.
    pub(super) fn family(&self, family: Family) -> Options {
        let mut options = self.database();
        options.set_block_based_table_factory(&self.table(family));
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
        let write_buffer = match family {
            Family::Data | Family::Write => self.settings.write_buffer_bytes,
            Family::Lock | Family::RangeTombstone | Family::Meta => {
                self.settings.write_buffer_bytes.min(SMALL_WRITE_BUFFER_BYTES)
            }
        };
        options.set_write_buffer_size(to_usize(write_buffer));
        options.set_max_write_buffer_number(WRITE_BUFFERS_MAX);
        // Files that are mostly deletions are compacted at once, so that the space comes back.
        options.add_compact_on_deletion_collector_factory(
            DELETIONS_WINDOW,
            DELETIONS_TRIGGER,
            DELETIONS_RATIO,
        );
        if family.is_versioned() {
            options.set_prefix_extractor(SliceTransform::create(
                PREFIX_NAME,
                without_version,
                Some(has_version),
            ));
            options.set_memtable_prefix_bloom_ratio(MEMORY_FILTER_RATIO);
        }
        options
    }

    fn table(&self, family: Family) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_format_version(TABLE_FORMAT);
        table.set_bloom_filter(BLOOM_BITS_A_KEY, false);
        // Write records are never looked up by their whole key, only by what precedes the version.
        table.set_whole_key_filtering(family != Family::Write);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table
    }
}

fn without_version(key: &[u8]) -> &[u8] {
    &key[..key.len() - VERSION_BYTES]
}

fn has_version(key: &[u8]) -> bool {
    key.len() >= VERSION_BYTES
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn to_i32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
