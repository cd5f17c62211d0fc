//! The engine in memory: for tests, and the model that the others are compared with.
//!
//! A batch is applied inside `submit`, under one lock; nothing survives the last handle.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::counters::{Counters, add, count, stopwatch};
use crate::log::Feed;
use crate::overlay::{Overlay, first_failed, key_range};
use crate::space::Declared;
use crate::{
    AuditRecord, Batch, CommitError, Error, Key, LogRecord, Op, PAGE_BYTES_MAX, Page, Position, Profile, Row,
    Scan, Space, Statistics, limits,
};

/// A store that keeps everything in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    declared: Declared,
    creation_id: u128,
    feed: Feed,
    counters: Counters,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<Key, Bytes>,
    log: BTreeMap<Position, LogRecord>,
    audit: Vec<AuditRecord>,
    head: Position,
    closed: bool,
}

impl MemoryStore {
    pub(crate) fn new(spaces: &'static [(Space, Profile)]) -> Result<Self, Error> {
        Ok(Self {
            shared: Arc::new(Shared {
                declared: Declared::new(spaces)?,
                creation_id: rand::random(),
                feed: Feed::new(Position::ZERO),
                counters: Counters::default(),
                state: RwLock::default(),
            }),
        })
    }

    pub(crate) fn creation_id(&self) -> u128 {
        self.shared.creation_id
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.shared.feed
    }

    pub(crate) fn declared(&self) -> &Declared {
        &self.shared.declared
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.shared.counters.statistics()
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Option<Bytes>, Error> {
        limits::check_key(key, &self.shared.declared)?;
        Ok(self.read()?.rows.get(key).cloned())
    }

    pub(crate) fn multi_get(&self, keys: &[Key]) -> Result<Vec<Option<Bytes>>, Error> {
        limits::check_keys(keys, &self.shared.declared)?;
        let state = self.read()?;
        Ok(keys.iter().map(|key| state.rows.get(key).cloned()).collect())
    }

    pub(crate) fn scan(&self, scan: &Scan) -> Result<Page, Error> {
        limits::check_scan(scan, &self.shared.declared)?;
        let state = self.read()?;
        let low = Key::new(scan.space, scan.low.clone());
        let Some(bounds) = key_range(&low, &scan.high) else { return Ok(Page::default()) };
        let rows = state.rows.range(bounds);
        Ok(if scan.reverse { page(rows.rev(), scan) } else { page(rows, scan) })
    }

    pub(crate) fn submit(&self, batch: Batch) -> Result<Position, CommitError> {
        let bytes = limits::measure(&batch, &self.shared.declared)?;
        let started = stopwatch();
        let mut guard = self.write();
        let state = &mut *guard;
        if state.closed {
            return Err(CommitError::Unavailable);
        }
        let failed = first_failed(&batch.checks, &Overlay::default(), |key| Ok(state.rows.get(key).cloned()));
        match failed {
            Ok(None) => {}
            Ok(Some(index)) => {
                add(&self.shared.counters.conflicts, 1);
                return Err(CommitError::Conflict(index));
            }
            Err(_) => return Err(CommitError::Unavailable),
        }
        let record = state.apply(batch);
        let position = record.position;
        // Under the lock, so that heads and hints rise.
        self.shared.feed.publish(vec![record]);
        self.shared.counters.group(1, count(bytes), started.elapsed());
        Ok(position)
    }

    pub(crate) fn read_log(&self, after: Position, limit: usize) -> Result<Vec<LogRecord>, Error> {
        let state = self.read()?;
        let records = state.log.range((Bound::Excluded(after), Bound::Unbounded));
        let mut bytes = 0;
        let mut page = Vec::new();
        for (_, record) in records.take(limit) {
            bytes += record.entries.iter().map(|entry| entry.0.len()).sum::<usize>();
            page.push(record.clone());
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
        }
        Ok(page)
    }

    pub(crate) fn log_start(&self) -> Result<Position, Error> {
        let state = self.read()?;
        Ok(state.log.keys().next().copied().unwrap_or(state.head.next()))
    }

    pub(crate) fn trim_log(&self, below: Position) {
        let mut state = self.write();
        state.log = state.log.split_off(&below);
    }

    pub(crate) fn read_audit(&self, after: (Position, u16), limit: usize) -> Result<Vec<AuditRecord>, Error> {
        let state = self.read()?;
        let from = state.audit.partition_point(|record| (record.position, record.index) <= after);
        let mut bytes = 0;
        let mut page = Vec::new();
        for record in state.audit.iter().skip(from).take(limit) {
            bytes += record.entry.0.len();
            page.push(record.clone());
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
        }
        Ok(page)
    }

    pub(crate) fn close(&self) {
        self.write().closed = true;
        self.shared.feed.close();
    }

    fn read(&self) -> Result<RwLockReadGuard<'_, State>, Error> {
        let state = self.shared.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.closed { Err(Error::Unavailable("the store is closed".to_owned())) } else { Ok(state) }
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.shared.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Applies a batch whose checks hold.
    fn apply(&mut self, batch: Batch) -> LogRecord {
        let position = self.head.next();
        self.head = position;
        for op in batch.ops {
            match op.placed(position) {
                Op::Put(key, value) | Op::PutPosition { key, value, .. } => {
                    self.rows.insert(key, value);
                }
                Op::Delete(key) => {
                    self.rows.remove(&key);
                }
                Op::DeleteRange { low, high } => self.delete_range(&low, &high),
            }
        }
        let audit = (0..=u16::MAX).zip(batch.audit);
        self.audit.extend(audit.map(|(index, entry)| AuditRecord { position, index, entry }));
        let record = LogRecord { position, entries: batch.log.into() };
        self.log.insert(position, record.clone());
        record
    }

    fn delete_range(&mut self, low: &Key, high: &[u8]) {
        let Some(bounds) = key_range(low, high) else { return };
        let keys: Vec<Key> = self.rows.range(bounds).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.rows.remove(&key);
        }
    }
}

/// Takes rows until the page is full.
fn page<'a>(rows: impl Iterator<Item = (&'a Key, &'a Bytes)>, scan: &Scan) -> Page {
    let mut page = Page::default();
    let mut bytes = 0;
    for (key, value) in rows {
        if page.rows.len() == scan.limit || bytes >= PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        let value = if scan.keys_only { Bytes::new() } else { value.clone() };
        bytes += key.bytes.len() + value.len();
        page.rows.push(Row { key: Bytes::copy_from_slice(&key.bytes), value });
    }
    page
}
