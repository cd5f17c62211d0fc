//! The storage seam: what the rest of allod may ask of a database, and the engines that answer.
//!
//! This crate knows no Matrix word. It stores bytes under ordered keys in a handful of spaces, commits
//! batches atomically and durably, and gives each commit a [`Position`] in one gap-free log.
//!
//! Two promises are what everything above is built on. **Pipelining**: batches submitted in order are
//! judged and committed in that order, each against the effects of all before it; a batch whose check
//! fails leaves no trace, and the ones behind it are judged on their own. **Visibility**: a commit is
//! answered only when it is durable and readable, and a reader that has seen position `p` can read all
//! of `1..=p`.

mod batch;
mod blob;
pub mod codec;
mod committer;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod counters;
mod error;
pub mod faults;
mod limits;
mod log;
mod memory;
mod overlay;
mod position;
mod rocks;
mod scan;
mod space;
mod store;
#[cfg(test)]
mod tests;

pub use batch::{AuditEntry, Batch, Check, LogEntry, Op, PositionAt};
pub use blob::{
    BlobName, BlobReader, BlobWriter, Blobs, Elsewhere, ElsewhereReader, ElsewhereWriter, PIECE_BYTES, Soon,
};
pub use counters::Statistics;
pub use error::{CommitError, Error};
pub use limits::{
    BATCH_BYTES_MAX, BATCH_ITEM_BYTES, KEY_BYTES_MAX, MULTI_GET_KEYS_MAX, PAGE_BYTES_MAX, SCAN_ROWS_MAX,
    VALUE_BYTES_MAX,
};
pub use log::{AuditRecord, Hint, LogRecord, Subscription};
pub use position::Position;
pub use scan::{Page, Row, Scan};
pub use space::{Key, KeyRange, Profile, Space};
pub use store::{Commit, Mode, OpenOptions, Store};
