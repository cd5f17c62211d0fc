//! The committer thread: the only writer of the database, and the one who reopens it.
//!
//! Each group becomes one write and one fsync. A write error makes the store read-only and is never a
//! panic; the thread then tries to reopen the database, with back-off, until it takes writes again.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use rocksdb::WriteBatch;

use super::Shared;
use super::options::{AUDIT, LOG, META};
use super::read::{Database, Tier};
use super::stamp::{self, HEAD};
use crate::committer::{Order, Outcome, Pending, Task};
use crate::counters::{add, count, stopwatch};
use crate::log::{audit_key, encode_entries};
use crate::overlay::{Overlay, first_failed};
use crate::{CommitError, Error, LogRecord, Op, Position, SCAN_ROWS_MAX};

const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Written before a reopening is tried, since opening needs about as much room.
const PROBE_BYTES: usize = 4 * 1024 * 1024;
const PROBE_FILE: &str = "allod-probe";
/// A key after all keys: one byte longer than the longest, of the highest bytes.
const AFTER_ALL_KEYS: [u8; crate::KEY_BYTES_MAX + 1] = [0xff; crate::KEY_BYTES_MAX + 1];

/// Starts the thread.
pub(super) fn spawn(
    shared: Arc<Shared>,
    head: Position,
    log_start: Position,
) -> Result<JoinHandle<()>, Error> {
    let mut writer = Writer { shared, head, log_start, back_off: BACK_OFF_MIN };
    thread::Builder::new()
        .name("allod-commit".to_owned())
        .spawn(move || writer.run())
        .map_err(|error| Error::Unavailable(format!("the committer cannot be started: {error}")))
}

struct Writer {
    shared: Arc<Shared>,
    head: Position,
    log_start: Position,
    back_off: Duration,
}

/// A group that is decided: what to write, what to tell.
#[derive(Default)]
struct Decided {
    write: WriteBatch,
    records: Vec<LogRecord>,
    answers: Vec<(Pending, Outcome)>,
    bytes: usize,
}

impl Writer {
    fn run(&mut self) {
        loop {
            let read_only = self.shared.read_only.load(Ordering::Acquire);
            match self.shared.queue.take(read_only.then_some(self.back_off)) {
                Task::Group(group) if read_only => self.refuse(group),
                Task::Group(group) => self.commit(group),
                Task::Order(Order::TrimLog(below, done)) => {
                    // Whoever gave the order may have gone; it is carried out all the same.
                    let _unheard = done.send(self.trim_log(below));
                }
                Task::Order(Order::Recover(done)) => {
                    let _unheard = done.send(self.recover());
                }
                Task::Idle => {
                    if self.recover().is_err() {
                        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
                    }
                }
                Task::Closed => return,
            }
        }
    }

    fn refuse(&self, group: Vec<Pending>) {
        let error = self.shared.refusal().unwrap_or(CommitError::Unavailable);
        for pending in group {
            let _unheard = pending.answer.send(Err(error.clone()));
        }
    }

    fn commit(&mut self, group: Vec<Pending>) {
        let shared = Arc::clone(&self.shared);
        let started = stopwatch();
        let mut answers = Vec::new();
        let written = shared.slot.wait_use(|database| {
            let decided = self.decide(database, group);
            answers = decided.answers;
            if !decided.records.is_empty() {
                database.write(decided.write)?;
            }
            Ok::<_, Error>((decided.records, decided.bytes))
        });
        match written {
            Ok((records, bytes)) => {
                if let Some(last) = records.last() {
                    self.head = last.position;
                    shared.counters.group(count(records.len()), count(bytes), started.elapsed());
                    shared.feed.publish(records);
                }
                for (pending, outcome) in answers {
                    let _unheard = pending.answer.send(outcome);
                }
                self.bound_log();
            }
            Err(error) => {
                self.fail(&error);
                let refusal = shared.refusal().unwrap_or(CommitError::Unavailable);
                for (pending, outcome) in answers {
                    // Of a batch that was refused, nothing can have been written.
                    let error = if outcome.is_ok() { CommitError::Unknown } else { refusal.clone() };
                    let _unheard = pending.answer.send(Err(error));
                }
            }
        }
    }

    /// Judges the batches of a group in order and encodes those that hold.
    fn decide(&self, database: &Database, group: Vec<Pending>) -> Decided {
        let mut decided = Decided::default();
        let mut overlay = Overlay::default();
        let mut head = self.head;
        // The overlay is needed only while a later batch has checks.
        let last_checked = group.iter().rposition(|pending| !pending.batch.checks.is_empty()).unwrap_or(0);
        for (index, mut pending) in group.into_iter().enumerate() {
            let batch = std::mem::take(&mut pending.batch);
            let read = |key: &_| database.get(Tier::Disk, key).map_err(Error::from);
            let outcome = match first_failed(&batch.checks, &overlay, read) {
                Ok(None) => {
                    let position = head.next();
                    let overlay = (index < last_checked).then_some(&mut overlay);
                    decided.add(database, batch, position, overlay).map(|()| position)
                }
                Ok(Some(check)) => {
                    add(&self.shared.counters.conflicts, 1);
                    Err(CommitError::Conflict(check))
                }
                Err(error) => {
                    tracing::error!(%error, "a commit's checks could not be read");
                    Err(CommitError::Unavailable)
                }
            };
            if let Ok(position) = outcome {
                head = position;
                decided.bytes += pending.bytes;
            }
            decided.answers.push((pending, outcome));
        }
        if let Ok(meta) = database.family(META) {
            decided.write.put_cf(meta, HEAD, head.get().to_be_bytes());
        }
        decided
    }

    /// Stops taking writes.
    fn fail(&mut self, error: &Error) {
        self.back_off = BACK_OFF_MIN;
        add(&self.shared.counters.write_failures, 1);
        self.shared.set_failure(Some((error.to_string(), now())));
        tracing::error!(
            %error, head = %self.head,
            "WRITE FAILED: the store is read-only until writing works again; free disk space or repair the disk"
        );
    }

    /// Keeps the log within the records that were configured.
    fn bound_log(&mut self) {
        let records_max = self.shared.config.options.log_records_max;
        if records_max == 0 {
            return;
        }
        let kept = self.head.get().saturating_sub(self.log_start.get());
        if kept > records_max.saturating_add(records_max / 8).saturating_add(1024) {
            let below = Position::new(self.head.get().saturating_sub(records_max).saturating_add(1));
            if let Err(error) = self.trim_log(below) {
                tracing::error!(%error, "the log could not be trimmed");
            }
        }
    }

    fn trim_log(&mut self, below: Position) -> Result<(), Error> {
        let below = below.min(self.head.next());
        if below <= self.log_start {
            return Ok(());
        }
        if let Some(error) = self.shared.refusal() {
            return Err(Error::Unavailable(error.to_string()));
        }
        let shared = Arc::clone(&self.shared);
        let trimmed = shared.slot.wait_use(|database| {
            let mut batch = WriteBatch::default();
            let (from, to) = (self.log_start.get().to_be_bytes(), below.get().to_be_bytes());
            batch.delete_range_cf(database.family(LOG)?, from, to);
            database.write(batch)
        });
        match &trimmed {
            Ok(()) => self.log_start = below,
            Err(error) => self.fail(error),
        }
        trimmed
    }

    /// Reopens the database if it takes no writes.
    fn recover(&mut self) -> Result<(), Error> {
        if !self.shared.read_only.load(Ordering::Acquire) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        probe(&shared.config.options.path)?;
        let head = shared.slot.swap(|slot| {
            // The old one must be closed before the new one can take its lock.
            *slot = None;
            let opened = stamp::reopen(&shared.config).and_then(|database| {
                let head = stamp::head(&database)?;
                if head < self.head {
                    return Err(Error::Corrupt(format!("commits up to {} are lost after {head}", self.head)));
                }
                Ok((database, head))
            });
            match opened {
                Ok((database, head)) => {
                    *slot = Some(database);
                    Ok(head)
                }
                Err(error) => {
                    tracing::error!(%error, "the database could not be reopened for writing");
                    *slot = stamp::reopen_read_only(&shared.config)
                        .inspect_err(|error| tracing::error!(%error, "nor for reading"))
                        .ok();
                    Err(error)
                }
            }
        })?;
        self.announce(head);
        self.back_off = BACK_OFF_MIN;
        add(&shared.counters.recoveries, 1);
        shared.set_failure(None);
        tracing::warn!(%head, "the database was reopened and takes writes again");
        Ok(())
    }

    /// Announces commits whose outcome was unknown and which turned out to be there.
    fn announce(&mut self, head: Position) {
        while self.head < head {
            let after = self.head;
            let records = self.shared.slot.wait_use(|database| {
                database.read_log(Tier::Disk, after, head, SCAN_ROWS_MAX).map_err(Error::from)
            });
            let records = records.ok().filter(|records| !records.is_empty()).unwrap_or_else(|| {
                // Subscribers see the gap and read the store.
                vec![LogRecord { position: head, entries: Vec::new().into() }]
            });
            self.head = records.last().map_or(head, |record| record.position);
            self.shared.feed.publish(records);
        }
    }
}

impl Decided {
    /// Encodes a batch whose checks hold.
    fn add(
        &mut self,
        database: &Database,
        batch: crate::Batch,
        position: Position,
        mut overlay: Option<&mut Overlay>,
    ) -> Result<(), CommitError> {
        // Resolved first, so that nothing of the batch is written if one is missing.
        let unavailable = |_| CommitError::Unavailable;
        let log = database.family(LOG).map_err(unavailable)?;
        let audit = database.family(AUDIT).map_err(unavailable)?;
        let families = batch.ops.iter().map(|op| database.space(space(op)).map_err(unavailable));
        let families = families.collect::<Result<Vec<_>, _>>()?;
        for (op, family) in batch.ops.into_iter().zip(families) {
            let op = op.placed(position);
            match &op {
                Op::Put(key, value) | Op::PutPosition { key, value, .. } => {
                    self.write.put_cf(family, &key.bytes, value);
                }
                Op::Delete(key) => self.write.delete_cf(family, &key.bytes),
                Op::DeleteRange { low, high } if high.is_empty() => {
                    self.write.delete_range_cf(family, low.bytes.as_slice(), AFTER_ALL_KEYS.as_slice());
                }
                Op::DeleteRange { low, high } if low.bytes < *high => {
                    self.write.delete_range_cf(family, &low.bytes, high);
                }
                Op::DeleteRange { .. } => {}
            }
            if let Some(overlay) = overlay.as_deref_mut() {
                overlay.add(&op);
            }
        }
        self.write.put_cf(log, position.get().to_be_bytes(), encode_entries(&batch.log));
        for (index, entry) in (0..=u16::MAX).zip(&batch.audit) {
            self.write.put_cf(audit, audit_key(position, index), &entry.0);
        }
        self.records.push(LogRecord { position, entries: batch.log.into() });
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the committer panicked: the store is closed");
        }
        self.shared.queue.close();
        // After a panic there may be batches left; dropping them answers that their outcome is unknown.
        while let Task::Group(_) | Task::Order(_) = self.shared.queue.take(None) {}
        self.shared.slot.close();
        self.shared.feed.close();
        self.shared.closed.send_replace(true);
    }
}

/// The space that a change is in.
fn space(op: &Op) -> u8 {
    let (Op::Put(key, _) | Op::PutPosition { key, .. } | Op::Delete(key) | Op::DeleteRange { low: key, .. }) =
        op;
    key.space
}

/// Finds out whether the disk takes writes and has some room.
fn probe(directory: &Path) -> Result<(), Error> {
    let path = directory.join(PROBE_FILE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&vec![0x5a; PROBE_BYTES])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    written.and(removed).map_err(|error| Error::Unavailable(format!("the disk takes no writes: {error}")))
}

/// The time of a failure, for operators.
#[expect(clippy::disallowed_methods, reason = "shown to operators; nothing is decided by it")]
fn now() -> SystemTime {
    SystemTime::now()
}
