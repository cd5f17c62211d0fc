//! Delivering: what waits for a pusher goes to its gateway, one after the other, the oldest first.

use std::sync::{Arc, atomic::Ordering};
use std::time::Duration;

use allod_storage::Position;

use super::{Inner, PushFailure, book::Outcome};
use crate::{
    database::{Error, Range, Write},
    tables::push::{Pusher, PusherKey, PusherRow, QueuedPush, QueuedPushRow},
};

/// A notification that no gateway took for this long says nothing new any more.
const USEFUL_MS: u64 = 24 * 3_600_000;
/// A notification that a gateway calls wrong so often is given up.
pub(super) const REFUSALS_MAX: u32 = 5;
/// Rows read at once.
const PAGE_ROWS: usize = 50;
/// How long the task sleeps at most, for clocks that are set.
const SLEEP_MS_MAX: u64 = 60_000;

/// What became of a notification.
enum Sent {
    /// It is done with.
    Done,
    /// It waits.
    Waits,
    /// The pusher is gone.
    Gone,
}

impl Inner {
    /// Starts the task that looks who is due.
    pub(super) fn start_deliveries(self: &Arc<Self>) {
        let (inner, stopping) = (Arc::clone(self), self.sources.tasks.stopping().clone());
        self.sources.tasks.spawn("push deliveries", async move {
            loop {
                let now_ms = inner.sources.clock.now_ms();
                loop {
                    let next = inner.book().take(now_ms);
                    let Some(key) = next else { break };
                    inner.start_delivery(key);
                }
                let next_ms = inner.book().next_ms().filter(|next_ms| *next_ms > now_ms);
                let wait_ms = next_ms.map_or(SLEEP_MS_MAX, |next| next.saturating_sub(now_ms));
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(wait_ms.clamp(1, SLEEP_MS_MAX))) => {}
                    () = inner.woken.notified() => {}
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    fn start_delivery(self: &Arc<Self>, key: PusherKey) {
        let (inner, stopping) = (Arc::clone(self), self.sources.tasks.stopping().clone());
        self.delivering.fetch_add(1, Ordering::AcqRel);
        self.sources.tasks.spawn("push delivery", async move {
            let outcome = tokio::select! {
                outcome = inner.deliver(&key) => outcome.unwrap_or_else(|error| {
                    tracing::warn!(%error, "notifications cannot be read or written; trying again");
                    Outcome::Failed
                }),
                () = stopping.cancelled() => Outcome::Failed,
            };
            let now_ms = inner.sources.clock.now_ms();
            inner.book().done(key, outcome, now_ms, &inner.sources.random);
            inner.delivering.fetch_sub(1, Ordering::AcqRel);
            inner.woken.notify_one();
        });
    }

    /// Sends all that waits for a pusher, and how much is unread if that has become less.
    async fn deliver(&self, key: &PusherKey) -> Result<Outcome, Error> {
        let database = &self.sources.database;
        let Some(pusher) = database.get::<Pusher>(key).await? else {
            // It went with its device, which what was queued at the same moment must follow.
            self.remove(key).await?;
            return Ok(Outcome::Done);
        };
        if let Some(address) = pusher.mail_address() {
            return self.deliver_mail(key, address).await;
        }
        loop {
            let page = database.scan(&Range::<QueuedPush>::prefix(key).limit(PAGE_ROWS)).await?;
            if page.rows.is_empty() {
                break;
            }
            for ((.., at), row) in page.rows {
                match self.send(key, &pusher, at, &row).await? {
                    Sent::Done => self.done_with(key, at).await?,
                    Sent::Waits => return Ok(Outcome::Failed),
                    Sent::Gone => return Ok(Outcome::Done),
                }
            }
        }
        self.send_count(key, &pusher).await
    }

    /// Sends one notification, unless it says nothing new.
    async fn send(
        &self,
        key: &PusherKey,
        pusher: &PusherRow,
        at: Position,
        row: &QueuedPushRow,
    ) -> Result<Sent, Error> {
        let now_ms = self.sources.clock.now_ms();
        let is_old = row.at_ms.saturating_add(USEFUL_MS) < now_ms;
        if is_old || self.book().was_taken(key, at) {
            return Ok(Sent::Done);
        }
        let Some((body, unread)) = self.notification(key.0, pusher, at, row).await? else {
            return Ok(Sent::Done);
        };
        match self.sources.gateway.notify(&pusher.url, body).await {
            Ok(rejected) if rejected.contains(&pusher.pushkey) => {
                tracing::info!(
                    app_id = pusher.app_id,
                    "a gateway rejected a push key; the pusher is removed"
                );
                self.remove(key).await?;
                Ok(Sent::Gone)
            }
            Ok(_) => {
                self.book().taken(key, at);
                self.told.insert(*key, unread);
                Ok(Sent::Done)
            }
            Err(failure) => Ok(self.refused(key, pusher, &failure)),
        }
    }

    fn refused(&self, key: &PusherKey, pusher: &PusherRow, failure: &PushFailure) -> Sent {
        let failures = self.book().failures(key);
        if failures == 0 {
            tracing::info!(app_id = pusher.app_id, %failure, "a gateway took no notification; trying again later");
        }
        match failure {
            PushFailure::Refused(_) if failures >= REFUSALS_MAX => {
                tracing::warn!(app_id = pusher.app_id, %failure, "a notification is given up");
                Sent::Done
            }
            PushFailure::Refused(_) | PushFailure::Unreachable(_) => Sent::Waits,
        }
    }

    async fn done_with(&self, key: &PusherKey, at: Position) -> Result<(), Error> {
        let row = (key.0, key.1, key.2, at);
        let mut write = Write::new();
        write.delete::<QueuedPush>(&row);
        self.sources.database.commit(write).await?;
        Ok(())
    }

    /// Tells how much is unread, if the pusher was told otherwise.
    async fn send_count(&self, key: &PusherKey, pusher: &PusherRow) -> Result<Outcome, Error> {
        let unread = self.unread(key.0).await?;
        if self.told.get(key).unwrap_or_default() == unread {
            return Ok(Outcome::Done);
        }
        match self.sources.gateway.notify(&pusher.url, Self::count(pusher, unread)).await {
            Ok(rejected) if rejected.contains(&pusher.pushkey) => {
                self.remove(key).await?;
                Ok(Outcome::Done)
            }
            Ok(_) => {
                self.told.insert(*key, unread);
                Ok(Outcome::Done)
            }
            Err(failure) => {
                tracing::debug!(%failure, "a gateway was not told how much is unread");
                Ok(Outcome::Failed)
            }
        }
    }
}
