//! A room's task: takes what users and other servers want of the room, one after the other, and commits without waiting
//! in between.

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
    ingest::{Incoming, IngestError, Ingested},
    writer::{Append, AppendError, Appended, Outcome, Prepared, Writer},
};
use crate::{
    database::{Corrupt, Error},
    numbers::{DeviceNumber, Hash128},
};

mod complete;
mod ingest;

use complete::{CompleteJob, Stated};
use ingest::IngestJob;

/// Most events waiting for a room; more are refused with "busy".
pub(super) const INBOX_MESSAGES_MAX: usize = 1024;
/// Most commits of a room in flight.
const IN_FLIGHT_MAX: usize = 128;
/// Most calls of other servers' events that are worked on at a time; they take turns.
const INGESTS_MAX: usize = 8;
/// Steps after which the task looks at its inbox and at what was committed.
const STEPS_MAX: usize = 16;
/// A task without work for this long goes to sleep.
const IDLE: Duration = Duration::from_secs(120);
/// How often an event is built anew because of a conflict before the room counts as busy.
const TRIES_MAX: u8 = 5;

type Reply = oneshot::Sender<Result<Appended, AppendError>>;

/// A request to the task.
pub(crate) enum Message {
    /// A local user's event.
    Append { append: Box<Append>, reply: Reply },
    /// Events that were not built here.
    Ingest { events: Vec<Incoming>, reply: oneshot::Sender<Result<Vec<Ingested>, IngestError>> },
    /// The whole state of a room that was partial.
    Complete { states: Box<Stated>, reply: complete::Reply },
}

/// A message that the task has taken, and how often it has tried.
struct Job {
    append: Box<Append>,
    reply: Reply,
    tries: u8,
}

/// Whose commit is under way.
enum Purpose {
    Append(Job, Appended),
    /// A batch of the call with this number.
    Ingest(u64, ingest::Part),
    Complete(CompleteJob),
}

/// A commit under way.
struct InFlight {
    purpose: Purpose,
    prepared: Prepared,
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
    ingests: HashMap<u64, IngestJob>,
    /// Calls with events that are not prepared yet, in the order of their turns.
    turns: VecDeque<u64>,
    last_ingest: u64,
    /// The room is to be made whole.
    completions: VecDeque<CompleteJob>,
    /// Whether the next event can be prepared only when nothing is in flight.
    wants_quiet: bool,
    /// How often the head was read.
    loads: u64,
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
        ingests: HashMap::new(),
        turns: VecDeque::new(),
        last_ingest: 0,
        completions: VecDeque::new(),
        wants_quiet: false,
        loads: 0,
    };
    loop {
        task.work().await;
        let open = task.pipeline.len() < IN_FLIGHT_MAX
            && task.waiting.is_empty()
            && !task.wants_quiet
            && task.ingests.len() < INGESTS_MAX;
        let idle = task.pipeline.is_empty() && task.ingests.is_empty();
        tokio::select! {
            biased;
            Some(done) = task.pipeline.next() => task.finish(done),
            message = messages.recv(), if open => match message {
                Some(message) => task.take(message),
                None => break,
            },
            () = std::future::ready(()), if task.can_go_on() => {}
            () = stopping.cancelled(), if idle && messages.is_empty() => break,
            () = tokio::time::sleep(IDLE), if idle => {
                if task.core.may_sleep(task.room.number, &messages) {
                    break;
                }
            }
        }
    }
}

impl RoomTask {
    fn take(&mut self, message: Message) {
        match message {
            Message::Append { append, reply } => self.waiting.push_back(Job { append, reply, tries: 0 }),
            Message::Ingest { events, reply } => self.take_ingest(events, reply),
            Message::Complete { states, reply } => {
                self.completions.push_back(CompleteJob { states, reply });
                self.wants_quiet = true;
            }
        }
    }

    /// Whether something can be prepared now.
    fn can_go_on(&self) -> bool {
        let works = !self.waiting.is_empty() || self.next_turn().is_some() || !self.completions.is_empty();
        // If something failed, all that was built on it must fail too before the head is read again.
        let quiet = self.wants_quiet || self.writer.is_none();
        works && self.pipeline.len() < IN_FLIGHT_MAX && (!quiet || self.pipeline.is_empty())
    }

    /// Starts what can be started, but not so much that the inbox waits long.
    async fn work(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.can_go_on() {
                return;
            }
            if self.complete_step().await {
                continue;
            }
            if let Some(job) = self.waiting.pop_front() {
                self.start(job).await;
            } else if let Some(turn) = self.next_turn() {
                tokio::task::consume_budget().await;
                self.ingest_step(turn).await;
            }
        }
    }

    async fn start(&mut self, job: Job) {
        let Some(job) = self.join_repeat(job) else { return };
        let writer = match self.loaded().await {
            Ok(writer) => writer,
            Err(error) => return self.answer(job, Err(error.into())),
        };
        let prepared = writer.prepare((*job.append).clone()).await;
        if writer.is_spoiled() {
            self.writer = None;
        }
        match prepared {
            Ok(Outcome::Unchanged(appended)) => self.answer(job, Ok(appended)),
            Ok(Outcome::New(appended, prepared)) => {
                if let Some((device, hash, _)) = &job.append.transaction {
                    self.repeats.entry((*device, *hash)).or_default();
                }
                self.submit(Purpose::Append(job, appended), *prepared);
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

    fn submit(&mut self, purpose: Purpose, mut prepared: Prepared) {
        let commit = self.core.database.submit(std::mem::take(&mut prepared.write));
        self.pipeline.push_back(Box::pin(in_flight(purpose, prepared, commit)));
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
            self.loads = self.loads.wrapping_add(1);
            self.writer = Some(Writer::load(Arc::clone(&self.core), Arc::clone(&self.room)).await?);
        }
        self.writer.as_mut().ok_or(Error::Corrupt("RoomHead", Corrupt("the head was not loaded")))
    }

    fn finish(&mut self, done: InFlight) {
        let InFlight { purpose, prepared, outcome } = done;
        if let Some(writer) = &mut self.writer {
            writer.committed(&prepared);
            if self.pipeline.is_empty() {
                writer.drained();
            }
        }
        let own_checks = prepared.own_checks;
        match &outcome {
            Ok(position) => self.remember(prepared, *position),
            Err(_) => self.writer = None,
        }
        match purpose {
            Purpose::Append(job, appended) => self.finish_append(job, appended, own_checks, outcome),
            Purpose::Ingest(call, part) => self.finish_ingest(call, part, outcome),
            Purpose::Complete(job) => self.finish_complete(job, outcome),
        }
    }

    /// Puts what was committed where readers look first.
    fn remember(&self, prepared: Prepared, position: Position) {
        for number in prepared.changed {
            self.core.events.invalidate(self.room.number, number);
        }
        for event in prepared.events {
            self.core.events.insert(self.room.number, &Arc::new(event.committed(position)));
        }
    }

    fn finish_append(
        &mut self,
        mut job: Job,
        appended: Appended,
        own_checks: usize,
        outcome: Result<Position, CommitError>,
    ) {
        match outcome {
            Ok(_) => self.answer(job, Ok(appended)),
            // The head is not as the writer believed, because an earlier commit failed: build on the head that is.
            Err(CommitError::Conflict(0)) if job.tries < TRIES_MAX => {
                job.tries = job.tries.saturating_add(1);
                self.waiting.push_back(job);
            }
            Err(CommitError::Conflict(0)) => self.answer(job, Err(AppendError::Busy)),
            Err(CommitError::Conflict(index)) => {
                self.answer(job, Err(AppendError::Conflict(index.saturating_sub(own_checks))));
            }
            Err(other) => self.answer(job, Err(AppendError::Storage(other.into()))),
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

async fn in_flight(purpose: Purpose, prepared: Prepared, commit: Commit) -> InFlight {
    InFlight { purpose, prepared, outcome: commit.await }
}
