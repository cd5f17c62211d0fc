//! Events that are sent later (MSC4140): by themselves when their time has come, or when someone who knows their id says so.
//!
//! A delayed event is a row. It is deleted by the very commit that puts the event into its room, so that it is sent once,
//! whatever happens in between; after a restart the task goes on with what is due.

use std::{sync::Arc, time::Duration};

use allod_storage::CommitError;
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    database::{Database, Error, Range, Write},
    numbers::{Hash128, UserNumber},
    random::Random,
    rooms::{
        Append, AppendError, Rooms,
        send::{Caller, TransactionName},
    },
    tables::{
        rooms::{Transaction, TransactionRecord},
        upkeep::{DelayedEvent, DelayedEventDue, DelayedEventOwner, DelayedEventRow},
    },
    tasks::Tasks,
    users::Users,
};

/// The longest delay: a day.
pub const DELAY_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most events of a user that wait.
const WAITING_MAX: usize = 100;
/// Events that are looked at in one step.
const STEP: usize = 100;
/// How long the task sleeps at most, for clocks that are set.
const SLEEP_MS_MAX: u64 = 60_000;
/// How long the task waits after a failure.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Letters of a delay id.
const ID_LENGTH: usize = 32;

/// Why something about a delayed event was not done.
#[derive(Debug, thiserror::Error)]
pub enum DelayError {
    /// There is no such delayed event: never was, or it has been sent or cancelled.
    #[error("no such delayed event")]
    NotFound,
    /// The caller is not in the room.
    #[error("you are not in this room")]
    NotInRoom,
    /// The delay is longer than [`DELAY_MAX`].
    #[error("the delay is too long")]
    TooLong,
    /// The user has as many waiting events as a user may.
    #[error("too many delayed events are waiting")]
    TooMany,
    /// The event was not taken.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for DelayError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

/// The event that is to be sent later.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The room.
    pub room_id: &'a RoomId,
    /// The event's type.
    pub kind: &'a str,
    /// Its state key, for a state event.
    pub state_key: Option<&'a str>,
    /// Its content.
    pub content: &'a RawValue,
    /// How long to wait.
    pub delay: Duration,
}

/// A delayed event as its sender sees it.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its room.
    pub room_id: OwnedRoomId,
    /// The rest.
    pub row: DelayedEventRow,
}

/// What can be done to a delayed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets it wait anew.
    Restart,
    /// Sends it now.
    Send,
    /// Never sends it.
    Cancel,
}

/// The service.
#[derive(Clone, Debug)]
pub struct DelayedEvents(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    rooms: Rooms,
    users: Users,
    clock: Clock,
    random: Random,
    /// Tells the task that something may be due sooner than it thinks.
    changed: Notify,
}

/// The key of a row and the row.
type Found = ((UserNumber, Hash128), DelayedEventRow);

impl DelayedEvents {
    /// Over the rooms that events are sent to.
    pub fn new(database: Database, rooms: Rooms, users: Users, clock: Clock, random: Random) -> Self {
        Self(Arc::new(Inner { database, rooms, users, clock, random, changed: Notify::new() }))
    }

    /// Starts the task that sends what is due.
    pub fn start(&self, tasks: &Tasks) {
        let (service, stopping) = (self.clone(), tasks.stopping().clone());
        tasks.spawn("delayed events", async move {
            loop {
                let pause = match service.send_due().await {
                    Ok(next_ms) => {
                        let wait_ms = next_ms.map(|next| next.saturating_sub(service.0.clock.now_ms()));
                        Duration::from_millis(wait_ms.unwrap_or(SLEEP_MS_MAX).clamp(1, SLEEP_MS_MAX))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "delayed events could not be sent; trying again");
                        BACK_OFF
                    }
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = service.0.changed.notified() => {}
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    /// Lets an event wait; its delay id. The same transaction again gets the first one's answer.
    pub async fn schedule(
        &self,
        caller: &Caller,
        wanted: Wanted<'_>,
        transaction: Option<TransactionName<'_>>,
    ) -> Result<String, DelayError> {
        let Inner { database, rooms, clock, random, .. } = &*self.0;
        let named = caller.device.zip(transaction).map(|(device, name)| {
            (device, database.hash("delayed transaction", format!("{}\0{}", name.path, name.id)))
        });
        if let Some(key) = &named
            && let Some(done) = database.get::<Transaction>(key).await?
        {
            return Ok(done.event_id);
        }
        if wanted.delay > DELAY_MAX {
            return Err(DelayError::TooLong);
        }
        let room = rooms.find(wanted.room_id).await?.ok_or(DelayError::NotInRoom)?;
        if !rooms.is_joined(room.number, caller.user).await? {
            return Err(DelayError::NotInRoom);
        }
        let waiting = Range::<DelayedEvent>::prefix(&caller.user).limit(WAITING_MAX);
        if database.scan(&waiting).await?.rows.len() >= WAITING_MAX {
            return Err(DelayError::TooMany);
        }
        let row = DelayedEventRow {
            delay_id: random.token(ID_LENGTH),
            room: room.number,
            kind: wanted.kind.to_owned(),
            state_key: wanted.state_key.map(str::to_owned),
            content: wanted.content.get().to_owned(),
            delay_ms: u64::try_from(wanted.delay.as_millis()).unwrap_or(u64::MAX),
            since_ms: clock.now_ms(),
        };
        let key = (caller.user, self.hash(&row.delay_id));
        let mut write = Write::new();
        if let Some(name) = &named {
            write.absent::<Transaction>(name);
            let done = TransactionRecord { event_id: row.delay_id.clone(), at_ms: row.since_ms };
            write.put::<Transaction>(name, &done);
        }
        write.put::<DelayedEvent>(&key, &row);
        write.put::<DelayedEventDue>(&due_key(&key, &row), &());
        write.put::<DelayedEventOwner>(&key.1, &caller.user);
        match (database.commit(write).await, named) {
            (Ok(_), _) => {
                self.0.changed.notify_one();
                Ok(row.delay_id)
            }
            // The same request came in twice at once, and the other was first.
            (Err(CommitError::Conflict(_)), Some(name)) => {
                let done = database.get::<Transaction>(&name).await?;
                done.map(|done| done.event_id).ok_or(DelayError::NotFound)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// What waits of a user, the next first.
    pub async fn waiting(&self, user: UserNumber) -> Result<Vec<Waiting>, Error> {
        let rows = self.0.database.scan_all(Range::<DelayedEvent>::prefix(&user)).await?;
        let mut waiting = Vec::with_capacity(rows.len());
        for (_, row) in rows {
            let room_id = self.0.rooms.get(row.room).await?.room_id.clone();
            waiting.push(Waiting { room_id, row });
        }
        waiting.sort_by_key(|waiting| waiting.row.since_ms.saturating_add(waiting.row.delay_ms));
        Ok(waiting)
    }

    /// Does something to a delayed event, for whoever knows its id.
    pub async fn act(&self, delay_id: &str, action: Action) -> Result<(), DelayError> {
        let found = self.find(delay_id).await?;
        match action {
            Action::Send => self.send(&found).await?,
            Action::Cancel => {
                let mut write = Write::new();
                delete(&mut write, &found);
                self.commit(write).await?;
            }
            Action::Restart => {
                let (key, row) = &found;
                let again = DelayedEventRow { since_ms: self.0.clock.now_ms(), ..row.clone() };
                let mut write = Write::new();
                write.equals::<DelayedEvent>(key, row);
                write.delete::<DelayedEventDue>(&due_key(key, row));
                write.put::<DelayedEvent>(key, &again);
                write.put::<DelayedEventDue>(&due_key(key, &again), &());
                self.commit(write).await?;
                self.0.changed.notify_one();
            }
        }
        Ok(())
    }

    /// Sends everything that is due; when the next one is, in milliseconds since the epoch.
    pub async fn send_due(&self) -> Result<Option<u64>, DelayError> {
        loop {
            let page = self.0.database.scan(&Range::<DelayedEventDue>::whole().limit(STEP)).await?;
            let Some(((next_ms, ..), ())) = page.rows.first() else { return Ok(None) };
            let now_ms = self.0.clock.now_ms();
            if *next_ms > now_ms {
                return Ok(Some(*next_ms));
            }
            for (due, ()) in page.rows.iter().filter(|(due, ())| due.0 <= now_ms) {
                let key = (due.1, due.2);
                match self.0.database.get::<DelayedEvent>(&key).await? {
                    Some(row) if due_key(&key, &row) == *due => self.send(&(key, row)).await?,
                    _ => self.forget(due).await?,
                }
            }
        }
    }

    /// Sends an event, or gives it up if its room does not take it any more.
    async fn send(&self, found: &Found) -> Result<(), DelayError> {
        let (key, row) = found;
        let room = self.0.rooms.get(row.room).await?;
        let mut extra = Write::new();
        delete(&mut extra, found);
        let Some(user_id) = self.sender(key.0).await? else { return self.commit(extra).await };
        let content = RawValue::from_string(row.content.clone());
        let content = content.map_err(|_| corrupt("the content is not JSON"))?;
        let caller = Caller { user_id, user: key.0, device: None };
        let draft = self.0.rooms.raw_draft(&caller, &row.kind, row.state_key.as_deref(), &content);
        let append = Append { extra: extra.clone(), ..Append::new(draft, key.0) };
        match self.0.rooms.append(&room, append).await {
            // State that is so already takes no event, and the rows are still there.
            Ok(_) => self.finish(extra).await,
            // Somebody else sent or cancelled it at the same time.
            Err(AppendError::Conflict(_)) => Ok(()),
            Err(error @ (AppendError::Busy | AppendError::Interrupted | AppendError::Storage(_))) => {
                Err(error.into())
            }
            Err(error) => {
                tracing::info!(%error, "a delayed event was given up, because its room does not take it");
                self.finish(extra).await
            }
        }
    }

    /// The sender's id, if they may still send.
    async fn sender(&self, user: UserNumber) -> Result<Option<OwnedUserId>, Error> {
        let account = self.0.users.account(user).await?;
        let may = account.is_some_and(|account| account.deactivated_ms.is_none() && !account.suspended);
        if may { self.0.users.id(user).await } else { Ok(None) }
    }

    /// Commits what may have happened already.
    async fn finish(&self, write: Write) -> Result<(), DelayError> {
        match self.0.database.commit(write).await {
            Ok(_) | Err(CommitError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn forget(&self, due: &(u64, UserNumber, Hash128)) -> Result<(), DelayError> {
        let mut write = Write::new();
        write.delete::<DelayedEventDue>(due);
        if self.0.database.get::<DelayedEvent>(&(due.1, due.2)).await?.is_none() {
            write.delete::<DelayedEventOwner>(&due.2);
        }
        self.commit(write).await
    }

    async fn commit(&self, write: Write) -> Result<(), DelayError> {
        match self.0.database.commit(write).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict(_)) => Err(DelayError::NotFound),
            Err(error) => Err(error.into()),
        }
    }

    async fn find(&self, delay_id: &str) -> Result<Found, DelayError> {
        let hash = self.hash(delay_id);
        let owner = self.0.database.get::<DelayedEventOwner>(&hash).await?.ok_or(DelayError::NotFound)?;
        let row = self.0.database.get::<DelayedEvent>(&(owner, hash)).await?.ok_or(DelayError::NotFound)?;
        Ok(((owner, hash), row))
    }

    fn hash(&self, delay_id: &str) -> Hash128 {
        self.0.database.hash("delay id", delay_id)
    }
}

/// Deletes a delayed event, which must still be as it was found.
fn delete(write: &mut Write, (key, row): &Found) {
    write.equals::<DelayedEvent>(key, row);
    write.delete::<DelayedEvent>(key);
    write.delete::<DelayedEventDue>(&due_key(key, row));
    write.delete::<DelayedEventOwner>(&key.1);
}

fn due_key(key: &(UserNumber, Hash128), row: &DelayedEventRow) -> (u64, UserNumber, Hash128) {
    (row.since_ms.saturating_add(row.delay_ms), key.0, key.1)
}

fn corrupt(what: &'static str) -> DelayError {
    DelayError::Storage(Error::Corrupt("DelayedEvent", crate::database::Corrupt(what)))
}
