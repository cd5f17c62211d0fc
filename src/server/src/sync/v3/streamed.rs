//! Answers about many rooms are sent while they are made: the first byte goes early, and what is in memory does not grow
//! with the account.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{SyncRequest, filter::SyncFilter};
use crate::sync::{
    Sync,
    json::{Json, Part},
    token::SyncToken,
};

/// Answers that show more rooms whole than these are sent while they are made.
pub(super) const ROOMS_MIN: u64 = 100;
/// Parts that wait for a client that reads slowly, each of some hundred kilobytes at most.
const PARTS_MAX: usize = 2;

/// The body of an answer.
#[derive(Debug)]
pub enum SyncBody {
    /// All of it.
    Whole(Vec<u8>),
    /// Parts that come as they are made.
    Parts(Parts),
}

/// Parts of a body, in order.
#[derive(Debug)]
pub struct Parts {
    made: mpsc::Receiver<Part>,
    ended: bool,
}

/// The answer could not be finished: storage failed, or the server stops. Whoever relays it cuts the connection.
#[derive(Debug, thiserror::Error)]
#[error("the answer could not be finished")]
pub struct Unfinished;

impl SyncBody {
    /// All of the body.
    pub async fn whole(self) -> Result<Vec<u8>, Unfinished> {
        match self {
            Self::Whole(bytes) => Ok(bytes),
            Self::Parts(mut parts) => {
                let mut bytes = Vec::new();
                while let Some(part) = parts.next().await {
                    bytes.extend_from_slice(&part?);
                }
                Ok(bytes)
            }
        }
    }
}

impl Parts {
    /// The next part; `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<Bytes, Unfinished>> {
        if self.ended {
            return None;
        }
        match self.made.recv().await {
            Some(Part::More(bytes)) => Some(Ok(bytes)),
            Some(Part::Last(bytes)) => {
                self.ended = true;
                Some(Ok(bytes))
            }
            None => {
                self.ended = true;
                Some(Err(Unfinished))
            }
        }
    }
}

impl Sync {
    /// Begins to answer in a task, which ends when nobody takes the parts any more. `since` is the client's token
    /// whatever its history, `known` if it is of this one.
    pub(super) fn stream(
        &self,
        request: SyncRequest,
        filter: SyncFilter,
        since: Option<SyncToken>,
        known: Option<SyncToken>,
    ) -> Parts {
        let (sink, made) = mpsc::channel(PARTS_MAX);
        let sync = self.clone();
        self.0.tasks.spawn("streamed sync", async move {
            let json = Json::streamed(sink.clone());
            let answer = tokio::select! {
                answer = Box::pin(sync.0.answer(&request, &filter, since, known, json)) => answer,
                () = sink.closed() => return,
                () = sync.0.stopping.cancelled() => return,
            };
            match answer {
                // Nobody listens any more, perhaps.
                Ok(answer) => drop(sink.send(Part::Last(answer.body.into())).await),
                Err(error) => tracing::error!(%error, "an answer to a sync could not be finished"),
            }
        });
        Parts { made, ended: false }
    }
}
