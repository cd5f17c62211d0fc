//! Calls of events that were not built here: their turns, their batches under way, their answers.

use std::collections::{HashMap, VecDeque};

use allod_storage::{CommitError, Position};
use tokio::sync::oneshot;

use super::{Purpose, RoomTask, TRIES_MAX};
use crate::{
    database::Error,
    rooms::{
        ingest::{Incoming, IngestError, IngestOutcome, Ingested, Placement, order},
        writer::Placed,
    },
};

type Reply = oneshot::Sender<Result<Vec<Ingested>, IngestError>>;

/// The events whose batch is under way, by their places in the call, and what becomes of them with it.
pub(super) type Part = Vec<(usize, IngestOutcome)>;

/// A call that is being worked on.
pub(super) struct IngestJob {
    events: Vec<Incoming>,
    /// Places of the events that are to be prepared, in this order.
    todo: VecDeque<usize>,
    outcomes: Vec<Option<IngestOutcome>>,
    /// How deep backfilled events may stand; found at the first step.
    depths_max: Option<HashMap<usize, u64>>,
    in_flight: usize,
    tries: u8,
    /// The head on which a commit failed last, as a count of loads: what fails with it counts once.
    failed_on: u64,
    reply: Reply,
}

impl IngestJob {
    fn settle(&mut self, place: usize, outcome: IngestOutcome) {
        if let Some(slot) = self.outcomes.get_mut(place) {
            *slot = Some(outcome);
        }
    }

    /// The next events that can be taken in one step: several outliers, or one other event.
    fn next(&self) -> Vec<usize> {
        let placement = |place: &usize| self.events.get(*place).map(|incoming| incoming.placement);
        let outliers = self.todo.iter().take_while(|place| placement(place) == Some(Placement::Outlier));
        let outliers: Vec<usize> = outliers.copied().collect();
        if outliers.is_empty() { self.todo.front().copied().into_iter().collect() } else { outliers }
    }
}

impl RoomTask {
    pub(super) fn take_ingest(&mut self, events: Vec<Incoming>, reply: Reply) {
        self.last_ingest = self.last_ingest.wrapping_add(1);
        let outcomes = events.iter().map(|_| None).collect();
        let todo = order(&events).into();
        let (depths_max, in_flight, tries, failed_on) = (None, 0, 0, 0);
        let job = IngestJob { events, todo, outcomes, depths_max, in_flight, tries, failed_on, reply };
        self.ingests.insert(self.last_ingest, job);
        self.turns.push_back(self.last_ingest);
    }

    /// The call whose turn it is.
    pub(super) fn next_turn(&self) -> Option<u64> {
        self.turns.front().copied()
    }

    /// Prepares the next event, or the next outliers, of a call.
    pub(super) async fn ingest_step(&mut self, call: u64) {
        self.wants_quiet = false;
        let Some(mut job) = self.ingests.remove(&call) else {
            self.turns.retain(|turn| *turn != call);
            return;
        };
        let stepped = self.prepare_next(call, &mut job).await;
        self.turns.retain(|turn| *turn != call);
        if let Err(error) = stepped {
            // It may have changed halfway.
            self.writer = None;
            let _ = job.reply.send(Err(error.into()));
            return;
        }
        let waits = !job.todo.is_empty();
        if waits && self.wants_quiet {
            self.turns.push_front(call);
        } else if waits {
            self.turns.push_back(call);
        }
        self.keep_or_answer(call, job);
    }

    fn keep_or_answer(&mut self, call: u64, job: IngestJob) {
        if !job.todo.is_empty() || job.in_flight > 0 {
            self.ingests.insert(call, job);
            return;
        }
        let answers = job.events.into_iter().zip(job.outcomes).filter_map(|(incoming, outcome)| {
            Some(Ingested { event_id: incoming.event.pdu.event_id.clone(), outcome: outcome? })
        });
        // A caller that has gone away does not want to know.
        let _ = job.reply.send(Ok(answers.collect()));
    }

    async fn prepare_next(&mut self, call: u64, job: &mut IngestJob) -> Result<(), Error> {
        let writer = self.loaded().await?;
        let places = job.next();
        let Some(first) = places.first().copied() else { return Ok(()) };
        let Some(incoming) = job.events.get(first) else { return Ok(()) };
        if incoming.placement == Placement::Outlier {
            let outliers: Vec<&Incoming> = places.iter().filter_map(|place| job.events.get(*place)).collect();
            let (outcomes, prepared) = writer.ingest_outliers(&outliers).await?;
            let part: Part = places.into_iter().zip(outcomes).collect();
            job.todo.drain(..part.len());
            match prepared {
                Some(prepared) => {
                    job.in_flight = job.in_flight.saturating_add(1);
                    self.submit(Purpose::Ingest(call, part), prepared);
                }
                None => part.into_iter().for_each(|(place, outcome)| job.settle(place, outcome)),
            }
            return Ok(());
        }
        if job.depths_max.is_none() {
            let order: Vec<usize> = job.todo.iter().copied().collect();
            job.depths_max = Some(writer.depths_max(&job.events, &order).await?);
        }
        let depth_max = job.depths_max.as_ref().and_then(|depths| depths.get(&first)).copied();
        match writer.ingest(incoming, depth_max).await? {
            Placed::Settled(outcome) => job.settle(first, outcome),
            Placed::Later => {
                self.wants_quiet = true;
                return Ok(());
            }
            Placed::New(outcome, prepared) => {
                job.in_flight = job.in_flight.saturating_add(1);
                self.submit(Purpose::Ingest(call, vec![(first, outcome)]), *prepared);
            }
        }
        job.todo.pop_front();
        Ok(())
    }

    pub(super) fn finish_ingest(&mut self, call: u64, part: Part, outcome: Result<Position, CommitError>) {
        let Some(mut job) = self.ingests.remove(&call) else { return };
        job.in_flight = job.in_flight.saturating_sub(1);
        match outcome {
            Ok(_) => part.into_iter().for_each(|(place, outcome)| job.settle(place, outcome)),
            // An earlier commit failed; what was built on it is built anew.
            Err(CommitError::Conflict(_)) if job.tries < TRIES_MAX => {
                if job.failed_on != self.loads {
                    job.tries = job.tries.saturating_add(1);
                    job.failed_on = self.loads;
                }
                let mut again: Vec<usize> = part.into_iter().map(|(place, _)| place).collect();
                again.extend(job.todo.iter().copied());
                let order = order(&job.events);
                again.sort_by_key(|place| order.iter().position(|ordered| ordered == place));
                job.todo = again.into();
                if !job.todo.is_empty() && !self.turns.contains(&call) {
                    self.turns.push_back(call);
                }
            }
            Err(error) => {
                self.turns.retain(|turn| *turn != call);
                let error = match error {
                    CommitError::Conflict(_) => IngestError::Busy,
                    other => IngestError::Storage(other.into()),
                };
                let _ = job.reply.send(Err(error));
                return;
            }
        }
        self.keep_or_answer(call, job);
    }
}
