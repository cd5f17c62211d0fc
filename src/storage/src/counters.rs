//! Counters of a store: cheap to keep, read by metrics and the admin API.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a store has done since it was opened, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Batches committed.
    pub commits: u64,
    /// Batches refused because a check failed.
    pub conflicts: u64,
    /// Groups written, each with one fsync.
    pub groups: u64,
    /// Most batches in one group.
    pub group_commits_max: u64,
    /// Bytes of the committed batches.
    pub committed_bytes: u64,
    /// Time spent writing and syncing groups.
    pub write_time: Duration,
    /// Longest time for one group.
    pub write_time_max: Duration,
    /// Reads answered from memory on the caller's thread.
    pub reads_inline: u64,
    /// Reads that went to the pool.
    pub reads_pooled: u64,
    /// Batches waiting now.
    pub queued_commits: u64,
    /// Bytes of the batches waiting now.
    pub queued_bytes: u64,
    /// Bytes in the block cache, charges for write buffers included.
    pub cache_bytes: u64,
    /// Limit of the block cache.
    pub cache_bytes_max: u64,
    /// Bytes in write buffers.
    pub write_buffer_bytes: u64,
    /// Times that the store became read-only.
    pub write_failures: u64,
    /// Times that the engine was reopened in process.
    pub recoveries: u64,
}

/// The counters behind [`Statistics`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) group_commits_max: AtomicU64,
    pub(crate) committed_bytes: AtomicU64,
    pub(crate) write_nanos: AtomicU64,
    pub(crate) write_nanos_max: AtomicU64,
    pub(crate) reads_inline: AtomicU64,
    pub(crate) reads_pooled: AtomicU64,
    pub(crate) write_failures: AtomicU64,
    pub(crate) recoveries: AtomicU64,
}

impl Counters {
    /// Counts one group that was written.
    pub(crate) fn group(&self, commits: u64, bytes: u64, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        add(&self.commits, commits);
        add(&self.groups, 1);
        add(&self.committed_bytes, bytes);
        add(&self.write_nanos, nanos);
        self.group_commits_max.fetch_max(commits, Ordering::Relaxed);
        self.write_nanos_max.fetch_max(nanos, Ordering::Relaxed);
    }

    /// The counters; what is measured elsewhere is left at zero.
    pub(crate) fn statistics(&self) -> Statistics {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            commits: load(&self.commits),
            conflicts: load(&self.conflicts),
            groups: load(&self.groups),
            group_commits_max: load(&self.group_commits_max),
            committed_bytes: load(&self.committed_bytes),
            write_time: Duration::from_nanos(load(&self.write_nanos)),
            write_time_max: Duration::from_nanos(load(&self.write_nanos_max)),
            reads_inline: load(&self.reads_inline),
            reads_pooled: load(&self.reads_pooled),
            write_failures: load(&self.write_failures),
            recoveries: load(&self.recoveries),
            ..Statistics::default()
        }
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// A length as a counter counts it.
pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The start of a measurement.
#[expect(
    clippy::disallowed_methods,
    reason = "measures the engine; nothing stored or answered depends on it"
)]
pub(crate) fn stopwatch() -> Instant {
    Instant::now()
}
