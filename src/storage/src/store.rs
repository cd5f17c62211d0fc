//! The store: one type over all engines, dispatched by `match`, so that nothing is boxed on the hot path.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::committer::Outcome;
use crate::faults::FaultyStore;
use crate::log::Feed;
use crate::memory::MemoryStore;
use crate::rocks::RocksStore;
use crate::{
    AuditRecord, Batch, CommitError, Error, Key, KeyRange, LogRecord, Page, Position, Profile, SCAN_ROWS_MAX,
    Scan, Space, Statistics, Subscription, limits,
};

/// A handle to a store; clones share it. The last one dropped closes it as [`Store::close`] does.
#[derive(Clone, Debug)]
pub enum Store {
    /// RocksDB in this process.
    Rocks(RocksStore),
    /// Everything in memory, for tests.
    Memory(MemoryStore),
    /// Another store, with faults injected from a seed, for tests.
    Faulty(FaultyStore),
}

/// How to open a store on disk.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The directory of the database; made if it is missing.
    pub path: PathBuf,
    /// All spaces, with how they are used.
    pub spaces: &'static [(Space, Profile)],
    /// Memory for caches and write buffers together, in bytes.
    pub memory_bytes: u64,
    /// The caller's format number: a database of a higher one is refused.
    pub format: u32,
    /// The server whose database this is: one of another server is refused.
    pub server_name: String,
    /// Records of the log kept at most, whatever its consumers want; 0 for no such limit.
    pub log_records_max: u64,
    /// Whether tables are compressed. Without it, whoever searches the files finds the bytes that rows were written with.
    pub compressed: bool,
}

impl OpenOptions {
    /// The options with the default budget of memory and no limit on the log.
    pub fn new(
        path: impl Into<PathBuf>,
        spaces: &'static [(Space, Profile)],
        format: u32,
        server_name: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            spaces,
            memory_bytes: 64 * 1024 * 1024,
            format,
            server_name: server_name.into(),
            log_records_max: 0,
            compressed: true,
        }
    }
}

/// Whether a store takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It reads and writes.
    ReadWrite,
    /// A write failed; until the engine could be reopened, the store only reads.
    ReadOnly {
        /// What failed, for operators.
        reason: String,
        /// When it failed.
        since: SystemTime,
    },
}

/// A commit under way. It goes on when this is dropped.
#[derive(Debug)]
pub struct Commit(Progress);

#[derive(Debug)]
enum Progress {
    Ready(Option<Outcome>),
    Waiting(oneshot::Receiver<Outcome>),
}

impl Commit {
    pub(crate) fn ready(outcome: Outcome) -> Self {
        Self(Progress::Ready(Some(outcome)))
    }

    pub(crate) fn waiting(receiver: oneshot::Receiver<Outcome>) -> Self {
        Self(Progress::Waiting(receiver))
    }
}

impl Future for Commit {
    type Output = Result<Position, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Progress::Ready(outcome) => Poll::Ready(outcome.take().unwrap_or(Err(CommitError::Unknown))),
            // A committer that went away answered nothing, and may have written.
            Progress::Waiting(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or(Err(CommitError::Unknown)))
            }
        }
    }
}

impl Store {
    /// Opens or makes a database on disk.
    pub fn open(options: OpenOptions) -> Result<Self, Error> {
        RocksStore::open(options).map(Self::Rocks)
    }

    /// Makes an empty store in memory. Spaces declared wrongly are refused as [`Store::open`] refuses them.
    pub fn try_memory(spaces: &'static [(Space, Profile)]) -> Result<Self, Error> {
        MemoryStore::new(spaces).map(Self::Memory)
    }

    /// Makes an empty store in memory.
    ///
    /// # Panics
    /// When two spaces share a number or a name: a mistake in the declarations, which tests are to find.
    #[expect(
        clippy::expect_used,
        reason = "only tests use the memory engine, and they are to fail on bad declarations"
    )]
    pub fn memory(spaces: &'static [(Space, Profile)]) -> Self {
        Self::try_memory(spaces).expect("the spaces are declared correctly")
    }

    /// Whether everything is in memory and goes with the process.
    pub fn forgets(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// The random number that this database was given when it was made.
    pub fn creation_id(&self) -> u128 {
        match self {
            Self::Rocks(store) => store.creation_id(),
            Self::Memory(store) => store.creation_id(),
            Self::Faulty(store) => store.inner().creation_id(),
        }
    }

    /// The generation of the database's history: another one after a backup was restored, since positions
    /// given out after that backup may then name other commits.
    pub fn generation(&self) -> u32 {
        match self {
            Self::Rocks(store) => store.generation(),
            Self::Memory(_) => 1,
            Self::Faulty(store) => store.inner().generation(),
        }
    }

    /// The value under a key.
    pub async fn get(&self, key: &Key) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Rocks(store) => store.get(key).await,
            Self::Memory(store) => store.get(key),
            Self::Faulty(store) => Box::pin(store.get(key)).await,
        }
    }

    /// The values under at most [`crate::MULTI_GET_KEYS_MAX`] keys, in their order, from one snapshot.
    pub async fn multi_get(&self, keys: &[Key]) -> Result<Vec<Option<Bytes>>, Error> {
        match self {
            Self::Rocks(store) => store.multi_get(keys).await,
            Self::Memory(store) => store.multi_get(keys),
            Self::Faulty(store) => Box::pin(store.multi_get(keys)).await,
        }
    }

    /// One page of a range, from one snapshot.
    pub async fn scan(&self, scan: &Scan) -> Result<Page, Error> {
        match self {
            Self::Rocks(store) => store.scan(scan).await,
            Self::Memory(store) => store.scan(scan),
            Self::Faulty(store) => Box::pin(store.scan(scan)).await,
        }
    }

    /// The first pages of several ranges, in their order, each from a snapshot of its own: much cheaper than one scan after
    /// the other where they are not in memory.
    pub async fn scan_many(&self, scans: &[Scan]) -> Result<Vec<Page>, Error> {
        match self {
            Self::Rocks(store) => store.scan_many(scans).await,
            Self::Memory(store) => scans.iter().map(|scan| store.scan(scan)).collect(),
            Self::Faulty(store) => Box::pin(store.scan_many(scans)).await,
        }
    }

    /// Puts a batch into the queue at once, in call order. The commit is done when the returned future
    /// says so, and goes on if that is dropped.
    pub fn submit(&self, batch: Batch) -> Commit {
        match self {
            Self::Rocks(store) => store.submit(batch),
            Self::Memory(store) => Commit::ready(store.submit(batch)),
            Self::Faulty(store) => store.submit(batch),
        }
    }

    /// Commits a batch: on success it is durable and visible, at the position returned.
    pub async fn commit(&self, batch: Batch) -> Result<Position, CommitError> {
        self.submit(batch).await
    }

    /// The newest visible position. Rows of commits that are just becoming visible may be read earlier.
    pub fn head(&self) -> Position {
        self.feed().head()
    }

    /// Follows [`Store::head`].
    pub fn watch_head(&self) -> watch::Receiver<Position> {
        self.feed().watch()
    }

    /// Hints of every commit from now on; see [`Subscription`].
    pub fn subscribe(&self) -> Subscription {
        self.feed().subscribe()
    }

    /// Up to `limit` records (at most 1000) after a position, oldest first; fewer if they are large. If the
    /// first one is not `after.next()`, the log was trimmed beyond `after`.
    pub async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<LogRecord>, Error> {
        let limit = limit.min(SCAN_ROWS_MAX);
        match self {
            Self::Rocks(store) => store.read_log(after, limit).await,
            Self::Memory(store) => store.read_log(after, limit),
            Self::Faulty(store) => Box::pin(store.read_log(after, limit)).await,
        }
    }

    /// The position of the oldest record in the log; the one after the head if the log is empty.
    pub async fn log_start(&self) -> Result<Position, Error> {
        match self {
            Self::Rocks(store) => store.log_start().await,
            Self::Memory(store) => store.log_start(),
            Self::Faulty(store) => Box::pin(store.inner().log_start()).await,
        }
    }

    /// Removes the log's records below a position. Its consumers decide when.
    pub async fn trim_log(&self, below: Position) -> Result<(), Error> {
        let below = below.min(self.head().next());
        match self {
            Self::Rocks(store) => store.trim_log(below).await,
            Self::Memory(store) => {
                store.trim_log(below);
                Ok(())
            }
            Self::Faulty(store) => Box::pin(store.inner().trim_log(below)).await,
        }
    }

    /// Up to `limit` entries (at most 1000) of the audit trail after the one at a position and index, oldest
    /// first; `(Position::ZERO, 0)` is before all.
    pub async fn read_audit(&self, after: (Position, u16), limit: usize) -> Result<Vec<AuditRecord>, Error> {
        let limit = limit.min(SCAN_ROWS_MAX);
        match self {
            Self::Rocks(store) => store.read_audit(after, limit).await,
            Self::Memory(store) => store.read_audit(after, limit),
            Self::Faulty(store) => Box::pin(store.read_audit(after, limit)).await,
        }
    }

    /// Whether the store takes writes.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Rocks(store) => store.mode(),
            Self::Memory(_) => Mode::ReadWrite,
            Self::Faulty(store) => store.mode(),
        }
    }

    /// Tries now to make a read-only store writable again; it also tries by itself, with back-off.
    pub async fn try_recover(&self) -> Result<(), Error> {
        match self {
            Self::Rocks(store) => store.try_recover().await,
            Self::Memory(_) => Ok(()),
            Self::Faulty(store) => Box::pin(store.try_recover()).await,
        }
    }

    /// What the store did and holds.
    pub fn statistics(&self) -> Statistics {
        match self {
            Self::Rocks(store) => store.statistics(),
            Self::Memory(store) => store.statistics(),
            Self::Faulty(store) => store.inner().statistics(),
        }
    }

    /// Makes a consistent copy of the database in a directory that must not exist yet. A store opened on
    /// that copy knows that it was restored and takes a new [`Store::generation`].
    pub async fn checkpoint(&self, to: &Path) -> Result<(), Error> {
        match self {
            Self::Rocks(store) => store.checkpoint(to).await,
            Self::Memory(_) => Err(Error::Unavailable("a store in memory has no checkpoints".to_owned())),
            Self::Faulty(store) => Box::pin(store.inner().checkpoint(to)).await,
        }
    }

    /// Rewrites a space, so that the bytes of deleted and overwritten rows are gone from the disk.
    pub async fn compact(&self, space: Space) -> Result<(), Error> {
        self.compact_ranges(&[KeyRange::whole(space)]).await
    }

    /// Rewrites what is stored of these ranges, so that the bytes of rows in them that were deleted or overwritten before
    /// the call are gone from the disk: from the tables of every level, and from the write-ahead logs. Files that this
    /// replaces are removed soon after it returns. Takes as long as reading and writing the ranges does.
    pub async fn compact_ranges(&self, ranges: &[KeyRange]) -> Result<(), Error> {
        match self {
            Self::Rocks(store) => store.compact_ranges(ranges).await,
            Self::Memory(store) => limits::check_ranges(ranges, store.declared()),
            Self::Faulty(store) => Box::pin(store.inner().compact_ranges(ranges)).await,
        }
    }

    /// Commits what was submitted, then closes: nothing can be read or written afterwards.
    pub async fn close(&self) {
        match self {
            Self::Rocks(store) => store.close().await,
            Self::Memory(store) => store.close(),
            Self::Faulty(store) => Box::pin(store.inner().close()).await,
        }
    }

    pub(crate) fn feed(&self) -> &Feed {
        match self {
            Self::Rocks(store) => store.feed(),
            Self::Memory(store) => store.feed(),
            Self::Faulty(store) => store.inner().feed(),
        }
    }
}
