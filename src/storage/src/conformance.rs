//! The suite that every engine must pass, with the same expectations.
//!
//! Each case takes a fresh store over [`SPACES`]. It panics on the first broken promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a suite of tests, also when it is compiled for other crates"
)]

mod checks;
mod concurrency;
mod limits;
mod log;
mod ranges;
mod rows;

use bytes::Bytes;

use crate::{Batch, Check, Key, LogEntry, Op, Position, Profile, Space, Store};

/// A space for single rows.
pub const POINT: Space = Space { id: 16, name: "point" };
/// A space for ranges.
pub const RANGE: Space = Space { id: 17, name: "range" };
/// A space for queues.
pub const QUEUE: Space = Space { id: 255, name: "queue" };
/// The spaces that the suite needs.
pub const SPACES: &[(Space, Profile)] =
    &[(POINT, Profile::Point), (RANGE, Profile::Scan), (QUEUE, Profile::Queue)];

/// Runs all cases, each on a store that `make` returns empty. Run it on a runtime of several threads.
pub async fn run(mut make: impl FnMut() -> Store) {
    limits::keys_and_values(&make()).await;
    limits::batches(&make()).await;
    limits::reads(&make()).await;
    limits::refused_batches_leave_no_trace(&make()).await;
    rows::order_within_a_batch(&make()).await;
    rows::positions(&make()).await;
    rows::multi_get(&make()).await;
    checks::each_kind(&make()).await;
    checks::failed_checks_leave_no_trace(&make()).await;
    checks::pipelined(&make()).await;
    checks::pipelined_ranges(&make()).await;
    ranges::bounds(&make()).await;
    ranges::pages(&make()).await;
    ranges::large_pages(&make()).await;
    ranges::delete_range(&make()).await;
    ranges::compaction(&make()).await;
    log::records(&make()).await;
    log::trimming(&make()).await;
    log::audit(&make()).await;
    log::subscriptions(&make()).await;
    log::closing(&make()).await;
    concurrency::snapshots(&make()).await;
    concurrency::dropped_commits(&make()).await;
    concurrency::counters(&make()).await;
    concurrency::visibility(&make(), 8, 8, 40).await;
}

/// Writers append to a list of their own and to the log; readers take a position and then must find
/// everything up to it. The heart of the seam, so tests may run it for longer than [`run`] does.
pub async fn visibility(store: &Store, writers: u64, readers: u64, commits: u64) {
    concurrency::visibility(store, writers, readers, commits).await;
}

fn key(space: Space, bytes: impl AsRef<[u8]>) -> Key {
    Key::new(space, bytes.as_ref())
}

fn value(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

fn put(space: Space, bytes: impl AsRef<[u8]>, stored: impl AsRef<[u8]>) -> Op {
    Op::Put(key(space, bytes), value(stored))
}

fn batch(ops: impl Into<Vec<Op>>) -> Batch {
    Batch { ops: ops.into(), ..Batch::default() }
}

fn checked(checks: impl Into<Vec<Check>>, ops: impl Into<Vec<Op>>) -> Batch {
    Batch { checks: checks.into(), ops: ops.into(), ..Batch::default() }
}

fn entry(bytes: impl AsRef<[u8]>) -> LogEntry {
    LogEntry(value(bytes))
}

async fn get(store: &Store, space: Space, bytes: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    store.get(&key(space, bytes)).await.unwrap().map(|bytes| bytes.to_vec())
}

/// Nothing was ever written.
async fn assert_empty(store: &Store) {
    assert_eq!(store.head(), Position::ZERO);
    assert!(store.read_log(Position::ZERO, 1000).await.unwrap().is_empty());
    assert!(store.read_audit((Position::ZERO, 0), 1000).await.unwrap().is_empty());
    for (space, _) in SPACES {
        assert!(ranges::all(store, *space).await.is_empty());
    }
}
