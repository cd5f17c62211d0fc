//! The log's consumer for sync: notes in [`Activity`] what changed, and wakes who waits for it.
//!
//! It is the one consumer that needs no durable cursor: what it makes is in memory only and begins anew with the server.

use allod_storage::{Error as StorageError, Hint, LogRecord, Position, Store, Subscription};

use super::{activity::Activity, members::RoomMembers, memberships::Memberships, tail::Tails};
use crate::{log::Happened, tasks::Tasks, wake::Wakes};

/// Records read at once after having fallen behind.
const CATCH_UP_RECORDS: usize = 1000;

/// What the consumer works on.
pub(super) struct Follower {
    pub(super) store: Store,
    pub(super) activity: Activity,
    pub(super) memberships: Memberships,
    pub(super) members: RoomMembers,
    pub(super) tails: Tails,
    pub(super) wakes: Wakes,
}

impl Follower {
    /// Starts the consumer. `subscription` is older than the position that [`Activity`] was made with.
    pub(super) fn start(self, mut subscription: Subscription, tasks: &Tasks) {
        let stopping = tasks.stopping().clone();
        tasks.spawn("sync log", async move {
            loop {
                let hint = tokio::select! {
                    hint = subscription.recv() => hint,
                    () = stopping.cancelled() => return,
                };
                match hint {
                    Some(Hint::Record(record)) => self.take(record).await,
                    Some(Hint::Lagged) => self.catch_up().await,
                    None => return,
                }
            }
        });
    }

    async fn take(&self, record: LogRecord) {
        let expected = self.activity.followed().next();
        if record.position > expected {
            self.catch_up().await;
        } else if record.position == expected {
            self.apply(&record).await;
        }
    }

    /// Reads what the hints left out.
    async fn catch_up(&self) {
        loop {
            match self.read_on().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "sync cannot read the log; everything counts as changed");
                    return self.give_up();
                }
            }
        }
    }

    /// One page of the log; whether there may be more.
    async fn read_on(&self) -> Result<bool, StorageError> {
        let followed = self.activity.followed();
        let records = self.store.read_log(followed, CATCH_UP_RECORDS).await?;
        match records.first() {
            None if self.store.head() > followed => self.give_up(),
            None => return Ok(false),
            Some(first) if first.position != followed.next() => self.give_up(),
            Some(_) => {
                for record in &records {
                    self.apply(record).await;
                }
            }
        }
        Ok(true)
    }

    fn give_up(&self) {
        self.activity.restart(self.store.head());
        self.members.clear();
        self.tails.clear();
        self.wakes.wake_all();
    }

    async fn apply(&self, record: &LogRecord) {
        let at = record.position;
        let happened: Vec<Happened> = record.entries.iter().filter_map(Happened::decode).collect();
        for entry in &happened {
            self.note(*entry, at).await;
        }
        self.activity.followed_to(at);
        for entry in &happened {
            self.wake(*entry).await;
        }
    }

    async fn note(&self, happened: Happened, at: Position) {
        match happened {
            Happened::Event { room, event } => {
                self.tails.append(room, at, event);
                self.activity.event(room, at);
            }
            Happened::Membership { room, user } => {
                self.activity.membership(room, user, at);
                self.members.update(room, user).await;
            }
            Happened::UserData { user } => self.activity.user_data(user, at),
            Happened::ToDevice { user, .. } => self.activity.inbox(user, at),
            Happened::DeviceList { .. } => self.activity.device_list(at),
            Happened::Receipt { room } => self.activity.receipt(room, at),
            Happened::State { room } => self.activity.state(room, at),
            Happened::Whole { room } => {
                // Events may have been taken out of the timeline.
                self.tails.clear();
                self.activity.event(room, at);
            }
            Happened::Relay { .. } | Happened::Queued { .. } | Happened::LooseMedia => {}
        }
    }

    async fn wake(&self, happened: Happened) {
        match happened {
            Happened::Event { room, .. } | Happened::Receipt { room } | Happened::Whole { room } => {
                self.wakes.wake_room(room);
            }
            Happened::Membership { user, .. }
            | Happened::UserData { user }
            | Happened::ToDevice { user, .. } => {
                self.wakes.wake_user(user);
            }
            Happened::State { .. }
            | Happened::Relay { .. }
            | Happened::Queued { .. }
            | Happened::LooseMedia => {}
            Happened::DeviceList { user } => {
                // Those who share a room want to know, and which rooms that are is known of local users.
                match self.memberships.current(user).await {
                    Ok(rooms) => self.wakes.wake_rooms(&rooms.joined),
                    Err(_) => self.wakes.wake_all(),
                }
                self.wakes.wake_user(user);
            }
        }
    }
}
