//! What rooms know of files: which events name them, and who may read the event that a file is attached to.

use std::sync::Arc;

use ruma::{EventId, OwnedUserId, ServerName};

use super::{
    Room, Rooms, access::AccessError, event::StoredEvent, federation::ServerSights, send::Caller,
    writer::loosen,
};
use crate::{
    database::{Error, Range, Write},
    log::Happened,
    numbers::{EventNumber, Hash128, RoomNumber, UserNumber},
    tables::{
        media::{EventMedia, EventMediaRow, MediaReference},
        rooms::{EventByName, Redaction},
    },
};

/// Rows of one page.
const ROWS_AT_ONCE: usize = 500;

impl Rooms {
    /// Whether an event that can be read names a file.
    pub(crate) async fn is_named(&self, file: Hash128) -> Result<bool, Error> {
        let mut range = Range::<MediaReference>::prefix(&file).limit(ROWS_AT_ONCE);
        loop {
            let page = self.core.database.scan(&range).await?;
            for ((_, room, event), ()) in &page.rows {
                // A room that was removed may have left the row behind.
                let event = self.core.events.get(*room, *event).await?;
                if event.is_some_and(|event| event.redacted_by.is_none()) {
                    return Ok(true);
                }
            }
            let (true, Some((last, ()))) = (page.more, page.rows.last()) else { return Ok(false) };
            range = range.continued_after(last);
        }
    }

    /// Forgets what some events of a room name and carry, and has somebody look at those files; whether there may be more.
    pub(crate) async fn forget_media_of(&self, room: RoomNumber) -> Result<bool, Error> {
        let range = Range::<EventMedia>::prefix(&room).limit(ROWS_AT_ONCE);
        let page = self.core.database.scan(&range).await?;
        if page.rows.is_empty() {
            return Ok(false);
        }
        let (mut write, now_ms) = (Write::new(), self.core.clock.now_ms());
        for (key, row) in &page.rows {
            loosen(*key, *row, now_ms, &mut write);
        }
        write.log(Happened::LooseMedia);
        self.core.database.commit(write).await?;
        Ok(page.more)
    }

    /// Whether somebody has an account that was not deactivated.
    pub(crate) async fn has_account(&self, user: UserNumber) -> Result<bool, Error> {
        let account = self.core.users.account(user).await?;
        Ok(account.is_some_and(|account| account.deactivated_ms.is_none()))
    }

    /// The id of a user.
    pub(crate) async fn user_id(&self, user: UserNumber) -> Result<Option<OwnedUserId>, Error> {
        self.core.users.id(user).await
    }

    /// Whether a user may read an event, which may be of any room that they have to do with unless its room is known.
    /// The place of the event, if so.
    pub(crate) async fn readable(
        &self,
        caller: &Caller,
        room: Option<RoomNumber>,
        event_id: &EventId,
    ) -> Result<Option<(RoomNumber, EventNumber)>, Error> {
        let rooms: Vec<RoomNumber> = match room {
            Some(room) => vec![room],
            None => self.memberships_of(caller.user).await?.into_keys().collect(),
        };
        let name = self.core.database.hash("event", event_id.as_str());
        let keys: Vec<_> = rooms.into_iter().map(|room| (room, name)).collect();
        for ((room, _), number) in keys.iter().zip(self.core.database.get_all::<EventByName>(&keys).await?) {
            let Some(number) = number else { continue };
            let Some(event) = self.unredacted(*room, number).await? else { continue };
            let room = self.get(*room).await?;
            let view = match self.view(&room.room_id, caller).await {
                Ok(view) => view,
                Err(AccessError::Forbidden) => continue,
                Err(AccessError::Storage(error)) => return Err(error),
            };
            if self.visible(&view, &[event]).await?.contains(&true) {
                return Ok(Some((room.number, number)));
            }
        }
        Ok(None)
    }

    /// Whether users of another server may read an event of a room.
    pub(crate) async fn readable_by_server(
        &self,
        server: &ServerName,
        room: RoomNumber,
        event_id: &EventId,
    ) -> Result<bool, Error> {
        let room: Arc<Room> = self.get(room).await?;
        let Some(number) = self.core.events.number(&room, event_id).await? else { return Ok(false) };
        let Some(event) = self.unredacted(room.number, number).await? else { return Ok(false) };
        Ok(self.allows_server(&room, server).await?
            && self.servers_in(&room).await?.contains(server)
            && self.is_visible_to(&room, &mut ServerSights::of(server), &event).await?)
    }

    async fn unredacted(
        &self,
        room: RoomNumber,
        number: EventNumber,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        let event = self.core.events.get(room, number).await?;
        Ok(event.filter(|event| event.redacted_by.is_none() && event.is_shown()))
    }

    /// Adds to a write that another server's file is attached to an event, unless that is redacted first.
    pub(crate) fn bind_media((room, event): (RoomNumber, EventNumber), file: Hash128, write: &mut Write) {
        write.absent::<Redaction>(&(room, event));
        write.put::<EventMedia>(&(room, event, file), &EventMediaRow { attached: true });
    }
}
