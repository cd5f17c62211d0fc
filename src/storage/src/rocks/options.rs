//! How RocksDB is set up: everything is derived from the spaces' profiles and one budget of memory.

use std::fmt;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel, Options,
    WriteBufferManager,
};

use crate::space::{Declared, OWN_NAMES};
use crate::{Error, OpenOptions, Profile};

/// The column families of the storage layer itself.
pub(super) const META: &str = "meta";
/// See [`META`].
pub(super) const LOG: &str = "log";
/// See [`META`].
pub(super) const AUDIT: &str = "audit";

const MEBIBYTE: usize = 1024 * 1024;
/// The least memory that RocksDB is run with.
const MEMORY_BYTES_MIN: usize = 8 * MEBIBYTE;
/// Write-ahead logs beyond this many bytes make RocksDB flush, which bounds what a start after a crash replays, and the
/// memory that write buffers take.
const WAL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Files that RocksDB keeps open.
const OPEN_FILES_MAX: i32 = 512;
const BLOCK_BYTES: usize = 8 * 1024;

/// Options and the memory that all openings of the database share.
pub(super) struct Config {
    pub(super) options: OpenOptions,
    pub(super) declared: Declared,
    pub(super) cache: Cache,
    pub(super) cache_bytes: usize,
    pub(super) buffers: WriteBufferManager,
    buffer_bytes: usize,
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Config").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Config {
    pub(super) fn new(options: OpenOptions) -> Result<Self, Error> {
        let declared = Declared::new(options.spaces)?;
        let cache_bytes = usize::try_from(options.memory_bytes).unwrap_or(usize::MAX).max(MEMORY_BYTES_MIN);
        // Write buffers take up to a quarter, out of the same budget: they are charged to the cache.
        let all_buffers = cache_bytes / 4;
        let cache = Cache::new_hyper_clock_cache(cache_bytes, 0);
        let buffers =
            WriteBufferManager::new_write_buffer_manager_with_cache(all_buffers, false, cache.clone());
        let buffer_bytes = (all_buffers / 2).clamp(MEBIBYTE, 64 * MEBIBYTE);
        Ok(Self { options, declared, cache, cache_bytes, buffers, buffer_bytes })
    }

    /// The options of the database as a whole.
    pub(super) fn database(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_background_jobs(2);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_max_file_opening_threads(1);
        options.set_write_buffer_manager(&self.buffers);
        // What was acknowledged is fsynced; of the rest, a consistent prefix survives. A write-ahead log that
        // is missing or shorter than it was synced is an error, not a silent loss.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_bytes_per_sync(1024 * 1024);
        options.set_manifest_preallocation_size(64 * 1024);
        options.set_avoid_unnecessary_blocking_io(true);
        options.set_skip_stats_update_on_db_open(true);
        options.set_stats_dump_period_sec(0);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(4 * MEBIBYTE);
        options.set_keep_log_file_num(4);
        options
    }

    /// All column families to open: the storage layer's, the declared ones, and those of `present` besides
    /// them, which an older version left behind and which are not lost by opening them.
    pub(super) fn families(&self, present: &[String]) -> Vec<ColumnFamilyDescriptor> {
        let own = OWN_NAMES.iter().map(|name| {
            let profile = if *name == LOG { Profile::Queue } else { Profile::Scan };
            (*name, profile)
        });
        let declared = self.declared.all().iter().map(|(space, profile)| (space.name, *profile));
        let known: Vec<(&str, Profile)> = own.chain(declared).collect();
        let unknown = present.iter().filter(|name| known.iter().all(|(known, _)| known != name));
        let unknown: Vec<(&str, Profile)> = unknown.map(|name| (name.as_str(), Profile::Scan)).collect();
        for (name, _) in &unknown {
            tracing::warn!(space = name, "the database holds a space that this version does not use");
        }
        let all = known.into_iter().chain(unknown);
        all.map(|(name, profile)| ColumnFamilyDescriptor::new(name, self.family(profile))).collect()
    }

    fn family(&self, profile: Profile) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_format_version(6);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_optimize_filters_for_memory(true);
        match profile {
            Profile::Point => {
                table.set_bloom_filter(10.0, false);
                table.set_data_block_index_type(rocksdb::DataBlockIndexType::BinaryAndHash);
            }
            Profile::Scan => table.set_bloom_filter(10.0, false),
            Profile::Queue => {}
        }
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(self.buffer_bytes);
        options.set_max_write_buffer_number(2);
        options.set_arena_block_size(256 * 1024);
        options.set_target_file_size_base(32 * 1024 * 1024);
        let (upper, bottom) = if self.options.compressed {
            (DBCompressionType::Lz4, DBCompressionType::Zstd)
        } else {
            (DBCompressionType::None, DBCompressionType::None)
        };
        options.set_compression_type(upper);
        match profile {
            Profile::Point | Profile::Scan => options.set_bottommost_compression_type(bottom),
            // Read once behind their deletions: a run of deleted rows makes RocksDB compact at once.
            Profile::Queue => options.add_compact_on_deletion_collector_factory(4096, 2048, 0.5),
        }
        options
    }
}
