//! A room's task: takes what users want of the room, one after the other, and commits without waiting in between.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use allod_storage::{Commit, CommitError, Position};
use futures_util::{StreamExt, stream::FuturesOrdered};
use tokio::sync::{mpsc, oneshot};

use super::{
    Core, Room,
    event::StoredEvent,
    writer::{Append, AppendError, Appended, Outcome, Prepared, Writer},
};
use crate::{
    database::{Corrupt, Error},
    numbers::{DeviceNumber, Hash128},
};

/// Most events waiting for a room; more are refused with "busy".
pub(super) const INBOX_MESSAGES_MAX: usize = 1024;
/// Most commits of a room in flight.
const IN_FLIGHT_MAX: usize = 128;
/// A task without work for this long goes to sleep.
const IDLE: Duration = Duration::from_secs(120);
/// How often an event is built anew because of a conflict before the room counts as busy.
const TRIES_MAX: u8 = 5;

type Reply = oneshot::Sender<Result<Appended, AppendError>>;

/// A request to the task.
pub(crate) struct Message {
    pub(crate) append: Box<Append>,
    pub(crate) reply: Reply,
}

/// A message that the task has taken, and how often it has tried.
struct Job {
    append: Box<Append>,
    reply: Reply,
    tries: u8,
}

/// An event whose commit is under way.
struct InFlight {
    job: Job,
    prepared: Box<Prepared>,
    outcome: Result<Position, CommitError>,
}

type Pipeline = FuturesOrdered<std::pin::Pin<Box<dyn Future<Output = InFlight> + Send>>>;

struct RoomTask {
    core: Arc<Core>,
    room: Arc<Room>,
    writer: Option<Writer>,
    pipeline: Pipeline,
    waiting: VecDeque<Job>,
    /// Those who sent a transaction again while its first copy is in flight.
    repeats: HashMap<(DeviceNumber, Hash128), Vec<Reply>>,
}

/// Runs the task until the room has been idle for a while or the server stops.
pub(super) async fn run(core: Arc<Core>, room: Arc<Room>, mut messages: mpsc::Receiver<Message>) {
    let stopping = core.tasks.stopping().clone();
    let mut task = RoomTask {
        core,
        room,
        writer: None,
        pipeline: FuturesOrdered::new(),
        waiting: VecDeque::new(),
        repeats: HashMap::new(),
    };
    loop {
        task.work().await;
        let open = task.pipeline.len() < IN_FLIGHT_MAX && task.waiting.is_empty();
        tokio::select! {
            biased;
            Some(done) = task.pipeline.next() => task.finish(done),
            message = messages.recv(), if open => match message {
                Some(Message { append, reply }) => task.waiting.push_back(Job { append, reply, tries: 0 }),
                None => break,
            },
            () = stopping.cancelled(), if task.pipeline.is_empty() && messages.is_empty() => break,
            () = tokio::time::sleep(IDLE), if task.pipeline.is_empty() => {
                if task.core.may_sleep(task.room.number, &messages) {
                    break;
                }
            }
        }
    }
}

impl RoomTask {
    /// Starts what can be started.
    async fn work(&mut self) {
        while self.pipeline.len() < IN_FLIGHT_MAX {
            if self.writer.is_none() && !self.pipeline.is_empty() {
                // Something failed: all that was built on it must fail too before the head is read again.
                return;
            }
            let Some(job) = self.waiting.pop_front() else { return };
            self.start(job).await;
        }
    }

    async fn start(&mut self, job: Job) {
        let Some(job) = self.join_repeat(job) else { return };
        let writer = match self.loaded().await {
            Ok(writer) => writer,
            Err(error) => return self.answer(job, Err(error.into())),
        };
        match writer.prepare((*job.append).clone()).await {
            Ok(Outcome::Unchanged(appended)) => self.answer(job, Ok(appended)),
            Ok(Outcome::New(mut prepared)) => {
                if let Some((device, hash, _)) = &job.append.transaction {
                    self.repeats.entry((*device, *hash)).or_default();
                }
                let commit = self.core.database.submit(std::mem::take(&mut prepared.write));
                self.pipeline.push_back(Box::pin(in_flight(job, prepared, commit)));
            }
            Err(error) => {
                // The writer may have changed halfway; the rules' refusals come before any change.
                if matches!(error, AppendError::Storage(_)) {
                    self.writer = None;
                }
                self.answer(job, Err(error));
            }
        }
    }

    /// Lets a repeated transaction wait for its first copy; gives other jobs back.
    fn join_repeat(&mut self, job: Job) -> Option<Job> {
        let Some((device, hash, _)) = &job.append.transaction else { return Some(job) };
        match self.repeats.get_mut(&(*device, *hash)) {
            Some(waiting) if job.tries == 0 => {
                waiting.push(job.reply);
                None
            }
            _ => Some(job),
        }
    }

    async fn loaded(&mut self) -> Result<&mut Writer, Error> {
        if self.writer.is_none() {
            self.writer = Some(Writer::load(Arc::clone(&self.core), Arc::clone(&self.room)).await?);
        }
        self.writer.as_mut().ok_or(Error::Corrupt("RoomHead", Corrupt("the head was not loaded")))
    }

    fn finish(&mut self, done: InFlight) {
        let InFlight { mut job, prepared, outcome } = done;
        if self.pipeline.is_empty()
            && let Some(writer) = &mut self.writer
        {
            writer.drained();
        }
        match outcome {
            Ok(position) => {
                let (record, json) = prepared.event;
                let event = StoredEvent::new(prepared.appended.number, position, record, json);
                self.core.events.insert(self.room.number, &Arc::new(event));
                if let Some(redacted) = prepared.redacted {
                    self.core.events.invalidate(self.room.number, redacted);
                }
                self.answer(job, Ok(prepared.appended));
            }
            // The head is not as the writer believed, because an earlier commit failed: build on the head that is.
            Err(CommitError::Conflict(0)) if job.tries < TRIES_MAX => {
                self.writer = None;
                job.tries = job.tries.saturating_add(1);
                self.waiting.push_back(job);
            }
            Err(error) => {
                self.writer = None;
                let error = match error {
                    CommitError::Conflict(0) => AppendError::Busy,
                    CommitError::Conflict(index) => {
                        AppendError::Conflict(index.saturating_sub(prepared.own_checks))
                    }
                    other => AppendError::Storage(other.into()),
                };
                self.answer(job, Err(error));
            }
        }
    }

    fn answer(&mut self, job: Job, result: Result<Appended, AppendError>) {
        if let Some((device, hash, _)) = &job.append.transaction
            && let Some(repeats) = self.repeats.remove(&(*device, *hash))
        {
            for repeat in repeats {
                let again = result.as_ref().map(Clone::clone).map_err(|_| AppendError::Busy);
                let _ = repeat.send(again);
            }
        }
        // A caller that has gone away does not want to know.
        let _ = job.reply.send(result);
    }
}

async fn in_flight(job: Job, prepared: Box<Prepared>, commit: Commit) -> InFlight {
    InFlight { job, prepared, outcome: commit.await }
}
