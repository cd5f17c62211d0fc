//! The consumer of the log: what notifies users with pushers becomes rows.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use allod_storage::Position;
use roaring::RoaringBitmap;

use super::Inner;
use crate::{
    consumer::{Consumer, ROWS_MAX},
    database::{Error, Range, Write},
    log::Happened,
    numbers::{EventNumber, RoomNumber, UserNumber},
    tables::{
        notified::Notified,
        push::{PusherKey, QueuedPush, QueuedPushRow},
        rooms::{Membership, UserRoom},
        user_data::ReceiptChange,
    },
};

/// The consumer.
pub(super) struct Queue {
    inner: Arc<Inner>,
    /// Pushers to be told once what was found for them is durable.
    told: BTreeSet<PusherKey>,
}

impl Queue {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, told: BTreeSet::new() }
    }
}

impl Consumer for Queue {
    const NAME: &'static str = "pushers";
    const ID: u8 = 1;

    async fn take(&mut self, at: Position, happened: &[Happened], write: &mut Write) -> Result<(), Error> {
        if self.inner.register.is_empty() {
            return Ok(());
        }
        for entry in happened {
            match entry {
                Happened::Event { room, event } => self.take_event(*room, *event, at, write).await?,
                Happened::Membership { room, user } => self.take_invite(*room, *user, at, write).await?,
                Happened::Receipt { room } => self.take_receipts(*room, at).await?,
                Happened::UserData { user } => self.recount(*user),
                Happened::DeviceList { user } => {
                    self.inner.register.reload(&self.inner.sources.database, *user).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn committed(&mut self, upto: Position) {
        *self.inner.queued_upto.lock().unwrap_or_else(PoisonError::into_inner) = upto;
        if !self.told.is_empty() {
            let mut book = self.inner.book();
            for key in std::mem::take(&mut self.told) {
                book.tell(key);
            }
            drop(book);
            self.inner.woken.notify_one();
        }
    }

    async fn missed(&mut self, _upto: Position) -> Result<(), Error> {
        Ok(())
    }
}

impl Queue {
    async fn take_event(
        &mut self,
        room: RoomNumber,
        event: EventNumber,
        at: Position,
        write: &mut Write,
    ) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let Inner { sources, register, .. } = &*inner;
        let record = match sources.rooms.notified(room, event) {
            Some(record) => Some((*record).clone()),
            None => sources.database.get::<Notified>(&(room, at)).await?,
        };
        let Some(record) = record else { return Ok(()) };
        // Who writes has read.
        self.recount(record.sender);
        let users = if record.notified.everyone {
            &register.among(&*sources.sync.members().joined(room).await?) - &record.notified.named
        } else {
            register.among(&record.notified.named)
        };
        let users = users.into_iter().map(UserNumber).filter(|user| *user != record.sender).collect();
        self.put(users, (room, event), at, false, write).await
    }

    /// An invitation: whom it is for is not in the room yet.
    async fn take_invite(
        &mut self,
        room: RoomNumber,
        user: UserNumber,
        at: Position,
        write: &mut Write,
    ) -> Result<(), Error> {
        if !self.inner.register.has(user) {
            return Ok(());
        }
        let row = self.inner.sources.database.get::<UserRoom>(&(user, room)).await?;
        let Some(row) = row.filter(|row| row.position == at) else { return Ok(()) };
        if row.value.membership == Membership::Invite && row.value.sender != user {
            self.put(vec![user], (room, row.value.event), at, true, write).await?;
        }
        Ok(())
    }

    async fn put(
        &mut self,
        users: Vec<UserNumber>,
        (room, event): (RoomNumber, EventNumber),
        at: Position,
        invites: bool,
        write: &mut Write,
    ) -> Result<(), Error> {
        let row = QueuedPushRow { room, event, invites, at_ms: self.inner.sources.clock.now_ms() };
        let keys: Vec<PusherKey> =
            users.into_iter().flat_map(|user| self.inner.register.of_user(user)).collect();
        for part in keys.chunks(ROWS_MAX) {
            let mut rows = Write::new();
            for (user, device, hash) in part {
                rows.put::<QueuedPush>(&(*user, *device, *hash, at), &row);
            }
            if keys.len() > ROWS_MAX {
                // More than fits into the commit that moves the cursor.
                self.inner.sources.database.commit(rows).await?;
            } else {
                write.append(rows);
            }
        }
        self.told.extend(keys);
        Ok(())
    }

    /// Somebody read something in a room.
    async fn take_receipts(&mut self, room: RoomNumber, at: Position) -> Result<(), Error> {
        let range = Range::<ReceiptChange>::prefix(&(room, at));
        let rows = self.inner.sources.database.scan(&range).await?.rows;
        let users: RoaringBitmap = rows.iter().map(|((_, _, user, ..), _)| user.0).collect();
        for user in users {
            self.recount(UserNumber(user));
        }
        Ok(())
    }

    /// What a user has not read may be less than before, where it was anything.
    fn recount(&mut self, user: UserNumber) {
        if self.inner.register.has(user) {
            let keys = self.inner.register.of_user(user).into_iter();
            self.told.extend(keys.filter(|key| self.inner.told.get(key) != Some(0)));
        }
    }
}
