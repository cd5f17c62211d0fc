//! An open database: its synchronous reads, and the few operations on it as a whole.

use bytes::Bytes;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, DBPinnableSlice, DBRawIterator, ErrorKind,
    FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};

use super::options::{AUDIT, Config, LOG, META};
use crate::log::{audit_key, decode_audit_key, decode_entries, decode_log_key};
use crate::{
    AuditEntry, AuditRecord, Error, Key, KeyRange, LogRecord, PAGE_BYTES_MAX, Page, Position, Row, Scan,
};

/// Where a read may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    /// Write buffers and block cache only.
    Memory,
    /// Everywhere; blocks that are read are kept.
    Disk,
    /// Everywhere, keeping nothing: for when the cache is full of pinned blocks.
    Uncached,
}

/// Why a read has no answer.
#[derive(Debug)]
pub(super) enum ReadError {
    /// A block that it needs is not in memory.
    NotInMemory,
    /// It failed.
    Failed(Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotInMemory => Self::Unavailable("a block could not be read".to_owned()),
            ReadError::Failed(error) => error,
        }
    }
}

impl From<rocksdb::Error> for ReadError {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            // The latter is how a full cache with nothing to evict answers.
            ErrorKind::Incomplete | ErrorKind::Aborted => Self::NotInMemory,
            _ => Self::Failed(failed(&error)),
        }
    }
}

/// RocksDB's error as ours.
pub(super) fn failed(error: &rocksdb::Error) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::Corrupt(error.to_string()),
        _ => Error::Unavailable(error.to_string()),
    }
}

/// An open RocksDB database.
pub(super) struct Database {
    db: DB,
    /// Names of the column families by number of the space.
    names: [Option<&'static str>; 256],
    memory: ReadOptions,
    disk: ReadOptions,
    uncached: ReadOptions,
    synced: WriteOptions,
}

impl Database {
    pub(super) fn new(db: DB, config: &Config) -> Self {
        let mut names = [None; 256];
        for (space, _) in config.declared.all() {
            if let Some(name) = names.get_mut(usize::from(space.id)) {
                *name = Some(space.name);
            }
        }
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Self {
            db,
            names,
            memory: read_options(Tier::Memory),
            disk: read_options(Tier::Disk),
            uncached: read_options(Tier::Uncached),
            synced,
        }
    }

    /// The engine itself.
    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    /// A column family by name.
    pub(super) fn family(&self, name: &str) -> Result<&ColumnFamily, Error> {
        self.db.cf_handle(name).ok_or_else(|| Error::Corrupt(format!("the column family {name} is missing")))
    }

    /// The column family of a space.
    pub(super) fn space(&self, id: u8) -> Result<&ColumnFamily, Error> {
        let name = self.names.get(usize::from(id)).copied().flatten();
        self.family(name.ok_or(Error::TooLarge("a key is in no declared space"))?)
    }

    /// Reads a row of the storage layer's own.
    pub(super) fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_cf(self.family(META)?, key).map_err(|error| failed(&error))
    }

    /// Writes and syncs.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.db.write_opt(batch, &self.synced).map_err(|error| failed(&error))
    }

    pub(super) fn get(&self, tier: Tier, key: &Key) -> Result<Option<Bytes>, ReadError> {
        let family = self.space(key.space)?;
        uncached_if_full(tier, |tier| {
            let value = self.db.get_pinned_cf_opt(family, &key.bytes, self.options(tier))?;
            Ok(value.map(|value| copy(&value)))
        })
    }

    pub(super) fn multi_get(&self, tier: Tier, keys: &[Key]) -> Result<Vec<Option<Bytes>>, ReadError> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        if tier == Tier::Memory {
            return self.get_each(keys);
        }
        if keys.iter().all(|key| key.space == first.space) {
            let family = self.space(first.space)?;
            return uncached_if_full(tier, |tier| {
                let keys = keys.iter().map(|key| key.bytes.as_slice());
                let values = self.db.batched_multi_get_cf_opt(family, keys, false, self.options(tier));
                values.into_iter().map(|value| Ok(value?.map(|value| copy(&value)))).collect()
            });
        }
        let families = keys.iter().map(|key| self.space(key.space)).collect::<Result<Vec<_>, _>>()?;
        // One snapshot over all column families is what RocksDB promises for this call.
        uncached_if_full(tier, |tier| {
            let pairs = families.iter().copied().zip(keys.iter().map(|key| key.bytes.as_slice()));
            let values = self.db.multi_get_cf_opt(pairs, self.options(tier));
            values.into_iter().map(|value| Ok(value?.map(Bytes::from))).collect()
        })
    }

    /// Reads rows one by one, of one snapshot, if all of them are in memory. RocksDB's reads of many keys at once go to the
    /// disk whatever they are told, and keep nothing of what they read there.
    fn get_each(&self, keys: &[Key]) -> Result<Vec<Option<Bytes>>, ReadError> {
        let snapshot = self.db.snapshot();
        let mut options = read_options(Tier::Memory);
        options.set_snapshot(&snapshot);
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.db.get_pinned_cf_opt(self.space(key.space)?, &key.bytes, &options)?;
            rows.push(value.map(|value| copy(&value)));
        }
        Ok(rows)
    }

    pub(super) fn scan(&self, tier: Tier, scan: &Scan) -> Result<Page, ReadError> {
        let family = self.space(scan.space.id)?;
        uncached_if_full(tier, |tier| {
            let mut options = read_options(tier);
            if !scan.high.is_empty() {
                options.set_iterate_upper_bound(scan.high.as_slice());
            }
            if scan.reverse && !scan.low.is_empty() {
                options.set_iterate_lower_bound(scan.low.as_slice());
            }
            let mut rows = self.db.raw_iterator_cf_opt(family, options);
            if scan.reverse {
                rows.seek_to_last();
            } else {
                rows.seek(&scan.low);
            }
            let page = take_page(&mut rows, scan);
            rows.status()?;
            Ok(page)
        })
    }

    /// The first pages of several ranges; one iterator serves all that follow each other in one space.
    pub(super) fn scan_many(&self, tier: Tier, scans: &[Scan]) -> Result<Vec<Page>, ReadError> {
        uncached_if_full(tier, |tier| {
            let mut pages = Vec::with_capacity(scans.len());
            for scans in scans.chunk_by(|a, b| a.space == b.space) {
                let Some(first) = scans.first() else { continue };
                let mut rows = self.db.raw_iterator_cf_opt(self.space(first.space.id)?, read_options(tier));
                for scan in scans {
                    if scan.is_void() {
                        pages.push(Page::default());
                        continue;
                    }
                    match (scan.reverse, scan.high.as_slice()) {
                        (false, _) => rows.seek(&scan.low),
                        (true, []) => rows.seek_to_last(),
                        (true, high) => {
                            rows.seek_for_prev(high);
                            // The end of a range does not belong to it.
                            if rows.key() == Some(high) {
                                rows.prev();
                            }
                        }
                    }
                    pages.push(take_page(&mut rows, scan));
                    rows.status()?;
                }
            }
            Ok(pages)
        })
    }

    /// Records after a position, up to and with `head`.
    pub(super) fn read_log(
        &self,
        tier: Tier,
        after: Position,
        head: Position,
        limit: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        let family = self.family(LOG)?;
        let from = after.next().get().to_be_bytes();
        uncached_if_full(tier, |tier| {
            let rows = self.db.raw_iterator_cf_opt(family, read_options(tier));
            collect(rows, &from, limit, |key, value| {
                let position = decode_log_key(key)?;
                if position > head {
                    return Ok(None);
                }
                let entries = decode_entries(Bytes::copy_from_slice(value))?;
                Ok(Some(LogRecord { position, entries }))
            })
        })
    }

    /// The position of the oldest record of the log.
    pub(super) fn log_start(&self, tier: Tier) -> Result<Option<Position>, ReadError> {
        let rows = self.db.raw_iterator_cf_opt(self.family(LOG)?, read_options(tier));
        let first = collect(rows, &[], 1, |key, _| Ok(Some(decode_log_key(key)?)))?;
        Ok(first.first().copied())
    }

    pub(super) fn read_audit(
        &self,
        tier: Tier,
        after: (Position, u16),
        limit: usize,
    ) -> Result<Vec<AuditRecord>, ReadError> {
        let mut from = audit_key(after.0, after.1).to_vec();
        from.push(0);
        let family = self.family(AUDIT)?;
        uncached_if_full(tier, |tier| {
            let rows = self.db.raw_iterator_cf_opt(family, read_options(tier));
            collect(rows, &from, limit, |key, value| {
                let (position, index) = decode_audit_key(key)?;
                let entry = AuditEntry(Bytes::copy_from_slice(value));
                Ok(Some(AuditRecord { position, index, entry }))
            })
        })
    }

    /// Rewrites ranges down to the last level. What deleted rows left in write-ahead logs goes too, since all write
    /// buffers are flushed first: twice, because a row written while the first flush goes from one column family to the
    /// next would keep the log that it is in.
    pub(super) fn compact(&self, ranges: &[KeyRange]) -> Result<(), Error> {
        self.flush()?;
        self.flush()?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        for range in ranges.iter().filter(|range| range.high.is_empty() || range.low < range.high) {
            let end = |key: &Vec<u8>| (!key.is_empty()).then(|| key.clone());
            let family = self.space(range.space.id)?;
            self.db.compact_range_cf_opt(family, end(&range.low), end(&range.high), &options);
        }
        Ok(())
    }

    /// Writes all write buffers to tables.
    pub(super) fn flush(&self) -> Result<(), Error> {
        let own = [META, LOG, AUDIT];
        let names = self.names.iter().flatten().copied().chain(own);
        let families = names.map(|name| self.family(name)).collect::<Result<Vec<_>, _>>()?;
        self.db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(|error| failed(&error))
    }

    /// Stops compactions, also those asked for by [`Database::compact`].
    pub(super) fn stop_background(&self) {
        self.db.cancel_all_background_work(false);
    }

    fn options(&self, tier: Tier) -> &ReadOptions {
        match tier {
            Tier::Memory => &self.memory,
            Tier::Disk => &self.disk,
            Tier::Uncached => &self.uncached,
        }
    }
}

/// Reads again without the cache if that was full.
fn uncached_if_full<T>(tier: Tier, read: impl Fn(Tier) -> Result<T, ReadError>) -> Result<T, ReadError> {
    match read(tier) {
        Err(ReadError::NotInMemory) if tier == Tier::Disk => read(Tier::Uncached),
        answer => answer,
    }
}

/// Options that iterators may own and change.
fn read_options(tier: Tier) -> ReadOptions {
    let mut options = ReadOptions::default();
    match tier {
        Tier::Memory => options.set_read_tier(ReadTier::BlockCache),
        Tier::Disk => {}
        Tier::Uncached => options.fill_cache(false),
    }
    options
}

/// Takes rows of a range from where the iterator stands, until the page is full.
fn take_page(rows: &mut DBRawIterator<'_>, scan: &Scan) -> Page {
    let mut page = Page::default();
    let mut bytes = 0;
    while let Some((key, value)) = rows.item() {
        let ended = if scan.reverse {
            key < scan.low.as_slice()
        } else {
            !scan.high.is_empty() && key >= scan.high.as_slice()
        };
        if ended {
            break;
        }
        if page.rows.len() == scan.limit || bytes >= PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        let value = if scan.keys_only { Bytes::new() } else { Bytes::copy_from_slice(value) };
        bytes += key.len() + value.len();
        page.rows.push(Row { key: Bytes::copy_from_slice(key), value });
        if scan.reverse {
            rows.prev();
        } else {
            rows.next();
        }
    }
    page
}

fn copy(value: &DBPinnableSlice<'_>) -> Bytes {
    Bytes::copy_from_slice(value)
}

/// Decodes rows from a key on, until `limit` of them, the end, a page's bytes, or a `None` of `decode`.
fn collect<T>(
    mut rows: DBRawIterator<'_>,
    from: &[u8],
    limit: usize,
    decode: impl Fn(&[u8], &[u8]) -> Result<Option<T>, Error>,
) -> Result<Vec<T>, ReadError> {
    let mut decoded = Vec::new();
    let mut bytes = 0;
    rows.seek(from);
    while decoded.len() < limit && bytes < PAGE_BYTES_MAX {
        let Some((key, value)) = rows.item() else { break };
        let Some(row) = decode(key, value)? else { break };
        bytes += value.len();
        decoded.push(row);
        rows.next();
    }
    rows.status()?;
    Ok(decoded)
}
