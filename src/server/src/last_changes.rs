//! In memory, when each of many things last changed in the store, so that a sync scans only what did change.
//!
//! Exact without any order between commits and memory: a writer announces itself *before* it commits, and what has an
//! announced writer counts as changed. A writer that goes away without saying how its commit ended stays announced, which
//! costs a scan and never a change.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use allod_storage::Position;

/// When each `K` changed last.
#[derive(Debug)]
pub struct LastChanges<K> {
    entries: Arc<Mutex<HashMap<K, Entry>>>,
}

impl<K> Clone for LastChanges<K> {
    fn clone(&self) -> Self {
        Self { entries: Arc::clone(&self.entries) }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The last change that ended, if it was asked for or made since the start.
    last: Option<Position>,
    /// Writers that have announced themselves and not ended.
    writers: u32,
}

/// What memory knows about changes since a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// There was none.
    No,
    /// There may have been: read the store.
    Perhaps,
    /// Nobody asked yet: read the store for the last change, and tell [`LastChanges::learn`].
    Unknown,
}

impl<K: Copy + Eq + Hash> LastChanges<K> {
    /// Knows nothing.
    pub fn new() -> Self {
        Self { entries: Arc::default() }
    }

    /// Announces a change; to be called before its commit is submitted.
    pub fn announce(&self, key: K) -> Announced<K> {
        let mut entries = self.entries();
        let entry = entries.entry(key).or_default();
        entry.writers = entry.writers.saturating_add(1);
        drop(entries);
        Announced { changes: self.clone(), key }
    }

    /// Whether `key` changed after `since`.
    pub fn since(&self, key: K, since: Position) -> Changed {
        match self.entries().get(&key) {
            Some(Entry { writers: 1.., .. }) => Changed::Perhaps,
            Some(Entry { last: Some(last), .. }) if *last > since => Changed::Perhaps,
            Some(Entry { last: Some(_), .. }) => Changed::No,
            Some(Entry { last: None, .. }) | None => Changed::Unknown,
        }
    }

    /// Remembers what the store said about the last change of `key`.
    pub fn learn(&self, key: K, last: Position) {
        let mut entries = self.entries();
        let entry = entries.entry(key).or_default();
        entry.last = entry.last.max(Some(last));
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Default for LastChanges<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// A writer between its announcement and the end of its commit. Dropped without an end, it stays announced.
#[derive(Debug)]
#[must_use = "say how the commit ended, or the announcement stays for ever"]
pub struct Announced<K: Copy + Eq + Hash> {
    changes: LastChanges<K>,
    key: K,
}

impl<K: Copy + Eq + Hash> Announced<K> {
    /// The change was committed at this position.
    pub fn committed(self, position: Position) {
        self.end(Some(position));
    }

    /// Nothing was written, for certain.
    pub fn nothing(self) {
        self.end(None);
    }

    fn end(self, position: Option<Position>) {
        let mut entries = self.changes.entries();
        let entry = entries.entry(self.key).or_default();
        entry.writers = entry.writers.saturating_sub(1);
        entry.last = entry.last.max(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: fn(u64) -> Position = Position::new;

    #[test]
    fn a_change_counts_from_its_announcement_on() {
        let changes = LastChanges::<u32>::new();
        assert_eq!(changes.since(1, P(5)), Changed::Unknown);
        changes.learn(1, P(3));
        assert_eq!(changes.since(1, P(3)), Changed::No);
        let writer = changes.announce(1);
        assert_eq!(changes.since(1, P(9)), Changed::Perhaps);
        writer.committed(P(8));
        assert_eq!(changes.since(1, P(7)), Changed::Perhaps);
        assert_eq!(changes.since(1, P(8)), Changed::No);
    }

    #[test]
    fn what_was_read_before_a_change_does_not_hide_it() {
        let changes = LastChanges::<u32>::new();
        changes.announce(1).committed(P(8));
        changes.learn(1, P(3));
        assert_eq!(changes.since(1, P(7)), Changed::Perhaps);
    }

    #[test]
    fn a_writer_that_vanishes_stays_announced_and_a_failed_one_does_not() {
        let changes = LastChanges::<u32>::new();
        changes.learn(1, P(3));
        changes.announce(1).nothing();
        assert_eq!(changes.since(1, P(3)), Changed::No);
        drop(changes.announce(1));
        assert_eq!(changes.since(1, P(3)), Changed::Perhaps);
    }
}
