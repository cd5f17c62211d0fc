//! Making a partial room whole, between everything else that happens in it.

use std::collections::BTreeMap;

use allod_storage::{CommitError, Position};
use ruma::OwnedEventId;
use tokio::sync::oneshot;

use super::{Purpose, RoomTask};
use crate::rooms::{
    ingest::IngestError,
    partial::{Completion, StatedState},
    writer::Wholeness,
};

/// The states after events that are not here.
pub(super) type Stated = BTreeMap<OwnedEventId, StatedState>;
/// Who waits for it.
pub(super) type Reply = oneshot::Sender<Result<Completion, IngestError>>;

/// A call that makes the room whole.
pub(super) struct CompleteJob {
    pub(super) states: Box<Stated>,
    pub(super) reply: Reply,
}

impl RoomTask {
    /// Makes the room whole once nothing is in flight; whether that comes before anything else.
    pub(super) async fn complete_step(&mut self) -> bool {
        if self.completions.is_empty() {
            return false;
        }
        if !self.pipeline.is_empty() {
            self.wants_quiet = true;
            return true;
        }
        let Some(job) = self.completions.pop_front() else { return false };
        self.wants_quiet = !self.completions.is_empty();
        let completed = match self.loaded().await {
            Ok(writer) => writer.complete(&job.states).await,
            Err(error) => Err(error),
        };
        let answer = match completed {
            Ok(Wholeness::Done(prepared)) => {
                self.submit(Purpose::Complete(job), *prepared);
                return true;
            }
            Ok(Wholeness::Already) => Ok(Completion::Done),
            Ok(Wholeness::Missing(missing)) => Ok(Completion::Missing(missing)),
            Err(error) => {
                // It may have changed halfway.
                self.writer = None;
                Err(error.into())
            }
        };
        // A caller that has gone away does not want to know.
        let _ = job.reply.send(answer);
        true
    }

    pub(super) fn finish_complete(&mut self, job: CompleteJob, outcome: Result<Position, CommitError>) {
        let answer = match outcome {
            Ok(position) => {
                self.core.partials.completed(self.room.number, position);
                Ok(Completion::Done)
            }
            Err(CommitError::Conflict(_)) => Err(IngestError::Busy),
            Err(other) => Err(IngestError::Storage(other.into())),
        };
        let _ = job.reply.send(answer);
    }
}
