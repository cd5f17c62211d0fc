//! The log's consumer: hands what happened to the servers that it concerns.

use std::sync::Arc;

use allod_storage::{Hint, LogRecord, Position, Subscription};

use super::{Inner, destination::Waiting};
use crate::{
    database::Error,
    log::Happened,
    numbers::{EventNumber, RoomNumber},
};

/// Records read at once.
const PAGE_RECORDS: usize = 500;
/// After so many records the cursor moves, even if none concerned another server.
const CHECKPOINT_RECORDS: u64 = 1_000;

/// How far the consumer is.
struct FanOut {
    inner: Arc<Inner>,
    position: Position,
    /// Records since the cursor was last moved.
    since_checkpoint: u64,
}

impl Inner {
    /// Starts the consumer. `subscription` is older than the cursor.
    pub(super) fn start_fan_out(self: &Arc<Self>, mut subscription: Subscription) {
        let position = Position::new(self.book().handed_out);
        let mut fan_out = FanOut { inner: Arc::clone(self), position, since_checkpoint: 0 };
        let stopping = self.sources.tasks.stopping().clone();
        self.sources.tasks.spawn("outbox", async move {
            fan_out.read_on().await;
            loop {
                let hint = tokio::select! {
                    hint = subscription.recv() => hint,
                    () = stopping.cancelled() => return,
                };
                match hint {
                    Some(Hint::Record(record)) if record.position == fan_out.position.next() => {
                        if !fan_out.take(&record).await {
                            return;
                        }
                    }
                    Some(Hint::Record(record)) if record.position <= fan_out.position => {}
                    Some(Hint::Record(_) | Hint::Lagged) => fan_out.read_on().await,
                    None => return,
                }
            }
        });
    }
}

impl FanOut {
    /// Reads the log up to its end.
    async fn read_on(&mut self) {
        loop {
            let store = self.inner.sources.database.store();
            let records = match store.read_log(self.position, PAGE_RECORDS).await {
                Ok(records) => records,
                Err(error) if self.inner.pause(&error.clone().into()).await => continue,
                Err(_) => return,
            };
            let Some(first) = records.first() else { return };
            if first.position > self.position.next() {
                tracing::warn!("the log was trimmed before other servers were told of all that it said");
                if !self.all_behind(self.position.next()).await {
                    return;
                }
            }
            for record in &records {
                if !self.take(record).await {
                    return;
                }
            }
        }
    }

    /// Hands out what a record says; whether the server goes on.
    async fn take(&mut self, record: &LogRecord) -> bool {
        let happened: Vec<Happened> = record.entries.iter().filter_map(Happened::decode).collect();
        let mut told = false;
        for entry in happened {
            loop {
                match self.inner.hand_out(entry, record.position).await {
                    Ok(somebody) => {
                        told |= somebody;
                        break;
                    }
                    // A damaged row must not keep everything else from being sent.
                    Err(error @ Error::Corrupt(..)) => {
                        tracing::error!(%error, "something cannot be sent to other servers");
                        break;
                    }
                    Err(error) if self.inner.pause(&error).await => {}
                    Err(_) => return false,
                }
            }
        }
        self.position = record.position;
        self.inner.book().handed_out = record.position.get();
        self.since_checkpoint = self.since_checkpoint.saturating_add(1);
        if told || self.since_checkpoint >= CHECKPOINT_RECORDS {
            self.since_checkpoint = 0;
            self.inner.checkpoint_due.notify_one();
        }
        true
    }

    /// Counts every server as behind in every room that it shares: it is not known what it missed.
    async fn all_behind(&self, from: Position) -> bool {
        loop {
            match self.inner.all_behind(from).await {
                Ok(()) => return true,
                Err(error) if self.inner.pause(&error).await => {}
                Err(_) => return false,
            }
        }
    }
}

impl Inner {
    /// Hands out one thing that happened; whether it concerned another server.
    async fn hand_out(self: &Arc<Self>, happened: Happened, at: Position) -> Result<bool, Error> {
        match happened {
            Happened::Event { room, event } => self.hand_out_event(room, event, at, false).await,
            Happened::Relay { room, event } => self.hand_out_event(room, event, at, true).await,
            Happened::Queued { server } => {
                let name = self.book().by_hash(server).cloned();
                let Some(name) = self.name_of(server, name).await? else { return Ok(false) };
                self.book().entry(&name, || server).tell_rows();
                self.start_delivery(&name);
                Ok(true)
            }
            Happened::Receipt { room } => self.hand_out_receipts(room, at).await,
            Happened::DeviceList { user } => self.announce_devices(user, at).await,
            Happened::Membership { room, user } => self.introduce_devices(room, user, at).await,
            Happened::Whole { room } => self.introduce_all(room, at).await,
            _ => Ok(false),
        }
    }

    async fn hand_out_event(
        self: &Arc<Self>,
        room: RoomNumber,
        event: EventNumber,
        at: Position,
        relayed: bool,
    ) -> Result<bool, Error> {
        let Some(stored) = self.sources.rooms.events().get(room, event).await? else { return Ok(false) };
        let room = self.sources.rooms.get(room).await?;
        let recipients = if relayed {
            self.recipients.of_relayed(&room, &stored).await?
        } else {
            self.recipients.of_event(&room, &stored).await?
        };
        let waiting = Waiting { position: at.get(), room: room.number, event };
        for server in &recipients {
            let hash = self.hash(server);
            self.book().push(server, hash, waiting);
            self.start_delivery(server);
        }
        Ok(!recipients.is_empty())
    }

    async fn all_behind(self: &Arc<Self>, from: Position) -> Result<(), Error> {
        for room in self.sources.rooms.all().await? {
            for server in &self.recipients.of_room(&room).await? {
                if server == self.sources.identity.server_name() {
                    continue;
                }
                let hash = self.hash(server);
                self.book().was_behind(server, hash, room.number, from.get());
                self.start_delivery(server);
            }
        }
        Ok(())
    }
}
