//! Which threads a user follows (MSC4306).
//!
//! A subscription is made by hand, or by a client of its own accord because of an event in the thread. Who has unsubscribed
//! is subscribed of its own accord only because of a later event.

use std::{fmt, str::FromStr};

use allod_matrix::relation::relates_to;
use allod_storage::{CommitError, Position};
use ruma::{EventId, OwnedEventId, OwnedRoomId};

use crate::{
    database::{Database, Error, Range, Write},
    log::Happened,
    numbers::{EventNumber, RoomNumber, UserNumber},
    rooms::{Rooms, access::View},
    tables::{
        Stamped,
        threads::{ThreadSubscription, ThreadSubscriptionChange, ThreadSubscriptionRow},
    },
};

/// How often a write is tried again that another one got in the way of.
const ATTEMPTS_MAX: usize = 16;

/// Why a subscription was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// There is no such event, or the user may not see it.
    #[error("no such thread")]
    NotFound,
    /// The event that is the cause is not in the thread.
    #[error("the event is not in the thread")]
    NotInThread,
    /// The user has unsubscribed since the event that is the cause.
    #[error("unsubscribed since")]
    Unsubscribed,
    /// Too many changes at once.
    #[error("the subscription is being changed by too many others")]
    Busy,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// A change of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// The room.
    pub room: RoomNumber,
    /// The root of the thread.
    pub root: EventNumber,
    /// When it was made.
    pub position: Position,
    /// What it is now.
    pub now: ThreadSubscriptionRow,
}

/// The same by the names that clients know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedChange {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The root of the thread.
    pub root: OwnedEventId,
    /// When it was made.
    pub position: Position,
    /// What it is now.
    pub now: ThreadSubscriptionRow,
}

/// A page of changes, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesPage {
    /// The changes.
    pub changes: Vec<NamedChange>,
    /// Where going back goes on, if there are older ones.
    pub more: Option<ChangesToken>,
}

/// A point before which the changes of a user's subscriptions are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangesToken(pub Position);

/// The text is no token of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token of changes of subscriptions")]
pub struct BadChangesToken;

impl fmt::Display for ChangesToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "h{}", self.0)
    }
}

impl FromStr for ChangesToken {
    type Err = BadChangesToken;

    fn from_str(text: &str) -> Result<Self, BadChangesToken> {
        let number = text.strip_prefix('h').and_then(|number| number.parse().ok());
        number.map(|number| Self(Position::new(number))).ok_or(BadChangesToken)
    }
}

/// The service.
#[derive(Clone, Debug)]
pub struct ThreadSubscriptions {
    database: Database,
    rooms: Rooms,
}

type Key = (UserNumber, RoomNumber, EventNumber);

impl ThreadSubscriptions {
    /// Over the rooms that threads are in.
    pub fn new(database: Database, rooms: Rooms) -> Self {
        Self { database, rooms }
    }

    /// Whether the viewer is subscribed, and if so whether of its own accord.
    pub async fn get(
        &self,
        view: &View,
        root: &EventId,
    ) -> Result<Option<ThreadSubscriptionRow>, SubscriptionError> {
        let key = self.key(view, root).await?;
        let row = self.database.get::<ThreadSubscription>(&key).await?;
        Ok(row.map(|row| row.value).filter(|row| row.subscribed))
    }

    /// Subscribes the viewer; of its own accord if there is a `cause`, an event in the thread.
    pub async fn subscribe(
        &self,
        view: &View,
        root: &EventId,
        cause: Option<&EventId>,
    ) -> Result<(), SubscriptionError> {
        let key = self.key(view, root).await?;
        let caused_at = match cause {
            Some(cause) => Some(self.position_in_thread(view, root, cause).await?),
            None => None,
        };
        for _ in 0..ATTEMPTS_MAX {
            let before = self.database.get::<ThreadSubscription>(&key).await?;
            match (&before, caused_at) {
                (Some(row), Some(_)) if row.value.subscribed => return Ok(()),
                (Some(row), None) if row.value.subscribed && !row.value.automatic => return Ok(()),
                (Some(row), Some(at)) if at <= row.position => return Err(SubscriptionError::Unsubscribed),
                _ => {}
            }
            let after = ThreadSubscriptionRow { subscribed: true, automatic: cause.is_some() };
            if self.replace(&key, before.as_ref(), after).await? {
                return Ok(());
            }
        }
        Err(SubscriptionError::Busy)
    }

    /// Unsubscribes the viewer, if they are subscribed.
    pub async fn unsubscribe(&self, view: &View, root: &EventId) -> Result<(), SubscriptionError> {
        let key = self.key(view, root).await?;
        for _ in 0..ATTEMPTS_MAX {
            let before = self.database.get::<ThreadSubscription>(&key).await?;
            if !before.as_ref().is_some_and(|row| row.value.subscribed) {
                return Ok(());
            }
            let after = ThreadSubscriptionRow { subscribed: false, automatic: false };
            if self.replace(&key, before.as_ref(), after).await? {
                return Ok(());
            }
        }
        Err(SubscriptionError::Busy)
    }

    /// A user's changes after `since` and up to `upto`, the newest first, at most `limit`: one a thread, the last. A thread
    /// that changed again after `upto` is left to the next sync.
    pub async fn changes(
        &self,
        user: UserNumber,
        since: Position,
        upto: Position,
        limit: usize,
    ) -> Result<Vec<SubscriptionChange>, Error> {
        if since >= upto {
            return Ok(Vec::new());
        }
        let range = Range::<ThreadSubscriptionChange>::between(&(user, since.next()), &(user, upto.next()));
        let changed = self.database.scan(&range.reversed().limit(limit)).await?;
        let keys: Vec<Key> =
            changed.rows.iter().map(|((user, _, room, root), ())| (*user, *room, *root)).collect();
        let rows = self.database.get_all::<ThreadSubscription>(&keys).await?;
        let changes = keys.into_iter().zip(rows).filter_map(|((_, room, root), row)| {
            let row = row.filter(|row| row.position <= upto)?;
            Some(SubscriptionChange { room, root, position: row.position, now: row.value })
        });
        Ok(changes.collect())
    }

    /// A page of a user's changes after `since` and before a point, or up to the newest, at most `limit` of them.
    pub async fn history(
        &self,
        user: UserNumber,
        since: Option<Position>,
        before: Option<ChangesToken>,
        limit: usize,
    ) -> Result<ChangesPage, Error> {
        let upto = before.map_or(u64::MAX, |ChangesToken(before)| before.get()).saturating_sub(1);
        self.page(user, since.unwrap_or_default(), Position::new(upto), limit).await
    }

    /// A page of a user's changes after `since` and up to `upto`, at most `limit` of them.
    pub async fn page(
        &self,
        user: UserNumber,
        since: Position,
        upto: Position,
        limit: usize,
    ) -> Result<ChangesPage, Error> {
        let mut changes = self.changes(user, since, upto, limit.saturating_add(1)).await?;
        let more = changes.len() > limit;
        changes.truncate(limit);
        let more = changes.last().filter(|_| more).map(|change| ChangesToken(change.position));
        let mut named = Vec::with_capacity(changes.len());
        for SubscriptionChange { room, root, position, now } in changes {
            let root = self.rooms.events().load(room, root).await?.id()?;
            let room_id = self.rooms.get(room).await?.room_id.clone();
            named.push(NamedChange { room_id, root, position, now });
        }
        Ok(ChangesPage { changes: named, more })
    }

    async fn key(&self, view: &View, root: &EventId) -> Result<Key, SubscriptionError> {
        let event = self.rooms.visible_event(view, root).await?.ok_or(SubscriptionError::NotFound)?;
        Ok((view.caller.user, view.room.number, event.number))
    }

    async fn position_in_thread(
        &self,
        view: &View,
        root: &EventId,
        event_id: &EventId,
    ) -> Result<Position, SubscriptionError> {
        let event = self.rooms.visible_event(view, event_id).await?.ok_or(SubscriptionError::NotInThread)?;
        let relation = relates_to(&event.pdu(&view.room)?.content).relation;
        let in_thread =
            relation.is_some_and(|relation| relation.rel_type == "m.thread" && *relation.event_id == *root);
        if in_thread { Ok(event.position) } else { Err(SubscriptionError::NotInThread) }
    }

    /// Writes a row over the one that was read; `false` if that had changed.
    async fn replace(
        &self,
        key: &Key,
        before: Option<&Stamped<ThreadSubscriptionRow>>,
        after: ThreadSubscriptionRow,
    ) -> Result<bool, SubscriptionError> {
        let (user, room, root) = *key;
        let mut write = Write::new();
        match before {
            Some(before) => {
                write.equals::<ThreadSubscription>(key, before);
                write.delete::<ThreadSubscriptionChange>(&(user, before.position, room, root));
            }
            None => drop(write.absent::<ThreadSubscription>(key)),
        }
        write.put::<ThreadSubscription>(key, &Stamped::pending(after));
        write.put::<ThreadSubscriptionChange>(&(user, Position::PENDING, room, root), &());
        write.log(Happened::UserData { user });
        match self.database.commit(write).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict(_)) => Ok(false),
            Err(error) => Err(SubscriptionError::Storage(error.into())),
        }
    }
}
