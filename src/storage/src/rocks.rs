//! The RocksDB engine: the handle and what callers do with it.
//!
//! Reads try the memory tier on the caller's thread and go to a small blocking pool when a block has to
//! come from disk. Writes go to the committer thread (`rocks/writer.rs`), which owns the engine's life.

mod options;
mod read;
mod slot;
mod stamp;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::committer::{Order, Pending, Queue};
use crate::counters::{Counters, add, count};
use crate::log::Feed;
use crate::{
    AuditRecord, Batch, Commit, CommitError, Error, Key, KeyRange, LogRecord, Mode, OpenOptions, Page,
    Position, Scan, Statistics, limits,
};
use options::Config;
use read::{Database, ReadError, Tier};
use slot::Slot;
use stamp::Stamp;

/// Reads that may wait for the disk at the same time.
const POOL_READS_MAX: usize = 16;
/// Scans of more rows than this go to the pool at once, since they would hold up the caller's thread.
const INLINE_ROWS_MAX: usize = 256;

/// A store on disk.
#[derive(Clone, Debug)]
pub struct RocksStore {
    handle: Arc<Handle>,
}

/// What the store's handles share; dropping the last one closes the store.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

/// What the handles and the committer thread share.
#[derive(Debug)]
struct Shared {
    config: Config,
    stamp: Stamp,
    slot: Slot,
    queue: Queue,
    feed: Feed,
    counters: Counters,
    pool: Arc<Semaphore>,
    /// Set with `failure`, and cheaper to look at.
    read_only: AtomicBool,
    failure: Mutex<Option<(String, SystemTime)>>,
    closed: watch::Sender<bool>,
}

impl RocksStore {
    pub(crate) fn open(options: OpenOptions) -> Result<Self, Error> {
        let config = Config::new(options)?;
        let opened = stamp::open(&config)?;
        let shared = Arc::new(Shared {
            feed: Feed::new(opened.head),
            stamp: opened.stamp,
            slot: Slot::new(opened.database),
            queue: Queue::default(),
            counters: Counters::default(),
            pool: Arc::new(Semaphore::new(POOL_READS_MAX)),
            read_only: AtomicBool::new(false),
            failure: Mutex::new(None),
            closed: watch::Sender::new(false),
            config,
        });
        let committer = writer::spawn(Arc::clone(&shared), opened.head, opened.log_start)?;
        Ok(Self { handle: Arc::new(Handle { shared, committer: Mutex::new(Some(committer)) }) })
    }

    pub(crate) fn creation_id(&self) -> u128 {
        self.shared().stamp.creation_id
    }

    pub(crate) fn generation(&self) -> u32 {
        self.shared().stamp.generation
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.shared().feed
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Bytes>, Error> {
        limits::check_key(key, &self.shared().config.declared)?;
        if let Some(answer) = self.inline(|database| database.get(Tier::Memory, key)) {
            return answer;
        }
        let key = key.clone();
        self.pooled(move |database| database.get(Tier::Disk, &key)).await
    }

    pub(crate) async fn multi_get(&self, keys: &[Key]) -> Result<Vec<Option<Bytes>>, Error> {
        limits::check_keys(keys, &self.shared().config.declared)?;
        if let Some(answer) = self.inline(|database| database.multi_get(Tier::Memory, keys)) {
            return answer;
        }
        let keys = keys.to_vec();
        self.pooled(move |database| database.multi_get(Tier::Disk, &keys)).await
    }

    pub(crate) async fn scan(&self, scan: &Scan) -> Result<Page, Error> {
        limits::check_scan(scan, &self.shared().config.declared)?;
        if scan.is_void() {
            return Ok(Page::default());
        }
        if scan.limit <= INLINE_ROWS_MAX
            && let Some(answer) = self.inline(|database| database.scan(Tier::Memory, scan))
        {
            return answer;
        }
        let scan = scan.clone();
        self.pooled(move |database| database.scan(Tier::Disk, &scan)).await
    }

    pub(crate) async fn scan_many(&self, scans: &[Scan]) -> Result<Vec<Page>, Error> {
        let declared = &self.shared().config.declared;
        scans.iter().try_for_each(|scan| limits::check_scan(scan, declared))?;
        let rows: usize = scans.iter().map(|scan| scan.limit).sum();
        if rows <= INLINE_ROWS_MAX
            && let Some(answer) = self.inline(|database| database.scan_many(Tier::Memory, scans))
        {
            return answer;
        }
        let scans = scans.to_vec();
        self.pooled(move |database| database.scan_many(Tier::Disk, &scans)).await
    }

    pub(crate) fn submit(&self, batch: Batch) -> Commit {
        let shared = self.shared();
        let bytes = match limits::measure(&batch, &shared.config.declared) {
            Ok(bytes) => bytes,
            Err(error) => return Commit::ready(Err(error)),
        };
        if let Some(error) = shared.refusal() {
            return Commit::ready(Err(error));
        }
        let (answer, outcome) = oneshot::channel();
        match shared.queue.push(Pending { batch, bytes, answer }) {
            Ok(()) => Commit::waiting(outcome),
            Err(error) => Commit::ready(Err(error)),
        }
    }

    pub(crate) async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<LogRecord>, Error> {
        let head = self.shared().feed.head();
        if head <= after {
            return Ok(Vec::new());
        }
        if limit <= INLINE_ROWS_MAX
            && let Some(answer) = self.inline(|database| database.read_log(Tier::Memory, after, head, limit))
        {
            return answer;
        }
        self.pooled(move |database| database.read_log(Tier::Disk, after, head, limit)).await
    }

    pub(crate) async fn log_start(&self) -> Result<Position, Error> {
        let next = self.shared().feed.head().next();
        self.pooled(move |database| Ok(database.log_start(Tier::Disk)?.unwrap_or(next))).await
    }

    pub(crate) async fn trim_log(&self, below: Position) -> Result<(), Error> {
        self.order(|done| Order::TrimLog(below, done)).await
    }

    pub(crate) async fn read_audit(
        &self,
        after: (Position, u16),
        limit: usize,
    ) -> Result<Vec<AuditRecord>, Error> {
        self.pooled(move |database| database.read_audit(Tier::Disk, after, limit)).await
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.shared().failure() {
            Some((reason, since)) => Mode::ReadOnly { reason, since },
            None => Mode::ReadWrite,
        }
    }

    pub(crate) async fn try_recover(&self) -> Result<(), Error> {
        self.order(Order::Recover).await
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let shared = self.shared();
        let (commits, bytes) = shared.queue.load();
        Statistics {
            queued_commits: count(commits),
            queued_bytes: count(bytes),
            cache_bytes: count(shared.config.cache.get_usage()),
            cache_bytes_max: count(shared.config.cache_bytes),
            write_buffer_bytes: count(shared.config.buffers.get_usage()),
            ..shared.counters.statistics()
        }
    }

    pub(crate) async fn checkpoint(&self, to: &Path) -> Result<(), Error> {
        let to = to.to_owned();
        self.maintained(move |database| stamp::checkpoint(database, &to)).await
    }

    pub(crate) async fn compact_ranges(&self, ranges: &[KeyRange]) -> Result<(), Error> {
        limits::check_ranges(ranges, &self.shared().config.declared)?;
        let ranges = ranges.to_vec();
        self.maintained(move |database| database.compact(&ranges)).await
    }

    pub(crate) async fn close(&self) {
        self.shared().queue.close();
        let mut closed = self.shared().closed.subscribe();
        // Fails only if the sender is gone, and it lives in `self`.
        let _closed = closed.wait_for(|closed| *closed).await;
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Reads on this thread from what is in memory; `None` if that was not enough.
    fn inline<T>(&self, read: impl FnOnce(&Database) -> Result<T, ReadError>) -> Option<Result<T, Error>> {
        let answer = match self.shared().slot.try_use(read)? {
            Ok(value) => Ok(value),
            Err(ReadError::NotInMemory) => return None,
            Err(ReadError::Failed(error)) => Err(error),
        };
        add(&self.shared().counters.reads_inline, 1);
        Some(answer)
    }

    /// Reads on the pool.
    async fn pooled<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.handle.shared);
        add(&shared.counters.reads_pooled, 1);
        // The semaphore is never closed, so a failure to acquire cannot happen and would only cost the bound.
        let permit = Arc::clone(&shared.pool).acquire_owned().await.ok();
        let task = tokio::task::spawn_blocking(move || {
            let answer = shared.slot.wait_use(read);
            drop(permit);
            answer
        });
        task.await.map_err(|_| Error::Unavailable("a read was stopped".to_owned()))?.map_err(Error::from)
    }

    /// Runs long work, of which there is one at a time; the engine is not reopened under it.
    async fn maintained(
        &self,
        work: impl FnOnce(&Database) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let shared = Arc::clone(&self.handle.shared);
        let task = tokio::task::spawn_blocking(move || shared.slot.maintain(work));
        task.await.map_err(|_| Error::Unavailable("maintenance was stopped".to_owned()))?
    }

    /// Has the committer thread do something.
    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<(), Error>>) -> Order,
    ) -> Result<(), Error> {
        let (done, outcome) = oneshot::channel();
        self.shared().queue.order(order(done))?;
        outcome.await.unwrap_or_else(|_| Err(Error::Unavailable("the committer has stopped".to_owned())))
    }
}

impl Shared {
    /// Why no write is taken now.
    fn refusal(&self) -> Option<CommitError> {
        if !self.read_only.load(Ordering::Acquire) {
            return None;
        }
        self.failure().map(|(reason, _)| CommitError::ReadOnly(reason))
    }

    fn failure(&self) -> Option<(String, SystemTime)> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_failure(&self, failure: Option<(String, SystemTime)>) {
        let read_only = failure.is_some();
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        self.read_only.store(read_only, Ordering::Release);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(committer) = committer {
            // Its panic was logged by its own guard; all that matters here is that the database is closed.
            let _ended = committer.join();
        }
    }
}
