//! Sending transactions: one at a time to each application service, again and again until it is taken.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::Method;

use super::{Inner, State};
use crate::{
    bridges::Bridge,
    database::{Error, Range, Write},
    retry,
    tables::{
        appservices::{AppserviceQueue, AppserviceTransaction, QueuedItem, TransactionRow},
        inbox::ToDeviceMessage,
    },
};
use allod_storage::Position;

/// Rows of a transaction.
const TRANSACTION_ROWS_MAX: usize = 100;
/// The first pause after a transaction was not taken.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);
/// How long is waited after a failure of the machine.
const STORAGE_PAUSE: Duration = Duration::from_secs(5);

/// A row of the queue.
pub(super) type Queued = ((crate::numbers::Hash128, Position, u32), QueuedItem);

/// What became of a step.
enum Step {
    /// Something was sent.
    Sent,
    /// There is nothing to send.
    Idle,
    /// It was not taken.
    Failed,
}

impl Inner {
    /// Starts the task that sends to the application service at a place.
    pub(super) fn start_deliveries(self: &Arc<Self>, place: usize) {
        let (inner, stopping) = (Arc::clone(self), self.sources.tasks.stopping().clone());
        self.sources.tasks.spawn("application service", async move {
            let mut failures = 0_u32;
            loop {
                let step = tokio::select! {
                    step = inner.deliver(place) => step,
                    () = stopping.cancelled() => return,
                };
                let Some(state) = inner.states.get(place) else { return };
                let pause = match step {
                    Ok(Step::Sent) => {
                        failures = 0;
                        continue;
                    }
                    Ok(Step::Idle) => None,
                    Ok(Step::Failed) => {
                        failures = failures.saturating_add(1);
                        Some(retry::pause(failures, FIRST, LONGEST, &inner.sources.random))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "what an application service is to be sent cannot be read; trying again");
                        Some(STORAGE_PAUSE)
                    }
                };
                state.idle.store(true, Ordering::Release);
                let goes_on = async {
                    match pause {
                        // What comes in the meantime does not end the pause.
                        Some(pause) => drop(tokio::time::timeout(pause, state.spoke.notified()).await),
                        None => state.woken.notified().await,
                    }
                };
                tokio::select! {
                    () = goes_on => {}
                    () = stopping.cancelled() => return,
                }
                state.idle.store(false, Ordering::Release);
            }
        });
    }

    /// Sends the next transaction.
    async fn deliver(&self, place: usize) -> Result<Step, Error> {
        let Some((state, bridge)) = self.one(place) else { return Ok(Step::Idle) };
        if bridge.registration.url.is_none() {
            return Ok(Step::Idle);
        }
        let typing = std::mem::take(&mut *state.typing());
        let Some((row, queued)) = self.begin(state, !typing.is_empty()).await? else {
            return Ok(Step::Idle);
        };
        let body = self.body(bridge, &queued, &typing).await?;
        let Some(body) = body else {
            self.end(state, row, &queued).await?;
            return Ok(Step::Sent);
        };
        let path = format!("/_matrix/app/v1/transactions/{}", row.begun);
        match self.sources.transport.call(bridge, Method::PUT, &path, Some(body)).await {
            Ok(called) if called.status.is_success() => {
                self.end(state, row, &queued).await?;
                Ok(Step::Sent)
            }
            Ok(called) => {
                tracing::info!(appservice = bridge.registration.id, status = %called.status, "a transaction was not taken");
                Ok(Step::Failed)
            }
            Err(error) => {
                tracing::info!(appservice = bridge.registration.id, %error, "a transaction did not arrive");
                Ok(Step::Failed)
            }
        }
    }

    /// The transaction under way, or a new one if there is something for it; written before it is sent.
    async fn begin(
        &self,
        state: &State,
        has_ephemeral: bool,
    ) -> Result<Option<(TransactionRow, Vec<Queued>)>, Error> {
        let database = &self.sources.database;
        let mut row = database.get::<AppserviceTransaction>(&state.hash).await?.unwrap_or_default();
        if let Some((position, index)) = row.last {
            let last = (state.hash, Position::new(position), index);
            let upto = (state.hash, Position::new(position), index.saturating_add(1));
            let range = Range::<AppserviceQueue>::between(&state.hash, &upto);
            let mut queued = database.scan(&range).await?.rows;
            queued.retain(|(key, _)| *key <= last);
            return Ok(Some((row, queued)));
        }
        let range = Range::<AppserviceQueue>::prefix(&state.hash).limit(TRANSACTION_ROWS_MAX);
        let queued = database.scan(&range).await?.rows;
        if queued.is_empty() && !has_ephemeral {
            return Ok(None);
        }
        row.begun = row.begun.saturating_add(1);
        row.last = queued.last().map(|((_, position, index), _)| (position.get(), *index));
        let mut write = Write::new();
        write.put::<AppserviceTransaction>(&state.hash, &row);
        database.commit(write).await?;
        Ok(Some((row, queued)))
    }

    /// The transaction was taken: its rows go, and the messages to devices that it brought.
    async fn end(&self, state: &State, row: TransactionRow, queued: &[Queued]) -> Result<(), Error> {
        let mut write = Write::new();
        for (key, item) in queued {
            write.delete::<AppserviceQueue>(key);
            if let QueuedItem::ToDevice { user, device } = item {
                write.delete_prefix::<ToDeviceMessage>(&(*user, *device, key.1));
            }
        }
        write.put::<AppserviceTransaction>(&state.hash, &TransactionRow { last: None, ..row });
        self.sources.database.commit(write).await?;
        Ok(())
    }

    /// Whether an application service wants to know of devices and keys.
    pub(super) fn wants_keys(bridge: &Bridge) -> bool {
        bridge.registration.encryption
    }
}
