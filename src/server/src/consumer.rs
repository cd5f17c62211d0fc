//! Reading the commit log with a durable cursor: what follows from a commit is written together with how far was read, so
//! that it follows once, whatever happens in between.

use std::{future::Future, time::Duration};

use allod_storage::{CommitError, Hint, LogRecord, Position, Subscription};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, Error, Write},
    log::Happened,
    tables::push::{LogCursor, LogCursorRow},
    tasks::Tasks,
};

/// Records that are taken together.
const RECORDS_MAX: usize = 200;
/// Rows of one commit, well below the limit of a batch.
pub const ROWS_MAX: usize = 2_000;
/// After so many records the cursor moves, even if nothing followed from them.
const IDLE_RECORDS_MAX: u64 = 1_000;
/// How long is waited after a failure of the machine.
const PAUSE: Duration = Duration::from_secs(5);

/// A consumer of the log.
pub trait Consumer: Send + Sync + 'static {
    /// The name of its task.
    const NAME: &'static str;
    /// The key of its cursor; each consumer has its own.
    const ID: u8;

    /// Adds to a write what follows from what was committed at a position. Asked again if the write fails, so it changes
    /// nothing else that it could not change twice.
    fn take(
        &mut self,
        at: Position,
        happened: &[Happened],
        write: &mut Write,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// What followed is durable up to this position.
    fn committed(&mut self, upto: Position);

    /// The log was trimmed before it was read, up to this position: what it said is lost.
    fn missed(&mut self, upto: Position) -> impl Future<Output = Result<(), Error>> + Send;
}

/// How far a consumer is.
struct Reader<C> {
    consumer: C,
    database: Database,
    stopping: CancellationToken,
    position: Position,
    /// Records since the cursor was last written.
    idle: u64,
}

/// Where a consumer's cursor stands; none if it has never read.
pub async fn cursor<C: Consumer>(database: &Database) -> Result<Option<Position>, Error> {
    let row = database.get::<LogCursor>(&C::ID).await?;
    Ok(row.map(|row| Position::new(row.position)))
}

/// Starts a consumer where it was; one that has never read begins at the head: what happened before is not its business.
pub async fn start<C: Consumer>(consumer: C, database: Database, tasks: &Tasks) -> Result<(), Error> {
    // Older than the cursor that is read next, so that nothing falls in between.
    let subscription = database.store().subscribe();
    let position = if let Some(position) = cursor::<C>(&database).await? {
        position
    } else {
        let head = database.store().head();
        let mut write = Write::new();
        put_cursor::<C>(&mut write, head);
        database.commit(write).await?;
        head
    };
    let reader = Reader { consumer, database, stopping: tasks.stopping().clone(), position, idle: 0 };
    drop(tasks.spawn(C::NAME, reader.run(subscription)));
    Ok(())
}

fn put_cursor<C: Consumer>(write: &mut Write, position: Position) {
    write.put::<LogCursor>(&C::ID, &LogCursorRow { position: position.get() });
}

impl<C: Consumer> Reader<C> {
    async fn run(mut self, mut subscription: Subscription) {
        let mut going = self.read_on().await;
        while going {
            let hint = tokio::select! {
                hint = subscription.recv() => hint,
                () = self.stopping.cancelled() => break,
            };
            let Some(hint) = hint else { break };
            going = match self.gather(hint, &mut subscription) {
                Some(records) => self.take(&records).await,
                None => self.read_on().await,
            };
        }
        if self.idle > 0 {
            let mut write = Write::new();
            put_cursor::<C>(&mut write, self.position);
            if let Err(error) = self.database.commit(write).await {
                tracing::debug!(%error, consumer = C::NAME, "the cursor was not written; some of the log is read again");
            }
        }
    }

    /// The records that hints bring; none if some are missing, so that the log must be read.
    fn gather(&self, first: Hint, subscription: &mut Subscription) -> Option<Vec<LogRecord>> {
        let mut records = Vec::new();
        let (mut hint, mut last, mut whole) = (Some(first), self.position, true);
        while let Some(Hint::Record(record)) = &hint {
            if record.position == last.next() {
                last = record.position;
                records.push(record.clone());
            } else if record.position > last {
                whole = false;
            }
            if records.len() >= RECORDS_MAX {
                return whole.then_some(records);
            }
            hint = subscription.try_recv();
        }
        (whole && hint.is_none()).then_some(records)
    }

    /// Reads the log up to its end; whether to go on.
    async fn read_on(&mut self) -> bool {
        loop {
            let records = match self.database.store().read_log(self.position, RECORDS_MAX).await {
                Ok(records) => records,
                Err(error) if self.pause(&error.clone().into()).await => continue,
                Err(_) => return false,
            };
            let Some(first) = records.first() else { return true };
            if first.position > self.position.next() {
                tracing::warn!(consumer = C::NAME, "the log was trimmed before all of it was read");
                let upto = Position::new(first.position.get().saturating_sub(1));
                match self.consumer.missed(upto).await {
                    Ok(()) => self.position = upto,
                    Err(error) if self.pause(&error).await => continue,
                    Err(_) => return false,
                }
            }
            if !self.take(&records).await {
                return false;
            }
        }
    }

    /// Takes records, and commits what follows from them; whether to go on.
    async fn take(&mut self, records: &[LogRecord]) -> bool {
        let mut rest = records;
        while !rest.is_empty() {
            match self.take_some(rest).await {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                // What was looked at changed meanwhile; looking again will see it.
                Err(Error::Commit(CommitError::Conflict(_))) if !self.stopping.is_cancelled() => {}
                Err(error) if self.pause(&error).await => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// As many records as one commit can hold; how many they were.
    async fn take_some(&mut self, records: &[LogRecord]) -> Result<usize, Error> {
        let (mut write, mut taken, mut last) = (Write::new(), 0_usize, self.position);
        for record in records {
            if write.len() >= ROWS_MAX {
                break;
            }
            let happened: Vec<Happened> = record.entries.iter().filter_map(Happened::decode).collect();
            if !happened.is_empty() {
                let mut follows = Write::new();
                match self.consumer.take(record.position, &happened, &mut follows).await {
                    Ok(()) => write.append(follows),
                    // A damaged row must not keep everything behind it waiting.
                    Err(error @ Error::Corrupt(..)) => {
                        tracing::error!(%error, consumer = C::NAME, "what follows from a commit cannot be told");
                    }
                    Err(error) => return Err(error),
                }
            }
            (taken, last) = (taken.saturating_add(1), record.position);
        }
        self.idle = self.idle.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        if !write.is_empty() || self.idle >= IDLE_RECORDS_MAX {
            put_cursor::<C>(&mut write, last);
            self.database.commit(write).await?;
            self.idle = 0;
        }
        self.position = last;
        self.consumer.committed(last);
        Ok(taken)
    }

    /// Waits after a failure of the machine; whether to go on.
    async fn pause(&self, error: &Error) -> bool {
        tracing::warn!(%error, consumer = C::NAME, "the log cannot be followed; trying again");
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => true,
            () = self.stopping.cancelled() => false,
        }
    }
}
