//! What users have of a room that is deleted: memberships, account data, subscriptions, what they want to send later.

use allod_storage::Position;

use crate::{
    database::{Error, Range, Write},
    log::Happened,
    numbers::{RoomNumber, UserNumber},
    rooms::{Rooms, send::Caller},
    tables::{
        deleted::{DepartedRoom, DepartedRoomRow},
        notices::NoticeRoom,
        rooms::{Membership, RoomMember, UserMembershipChange, UserRoom},
        threads::{ThreadSubscription, ThreadSubscriptionChange},
        upkeep::{DelayedEvent, DelayedEventDue, DelayedEventOwner},
        user_data::AccountData,
        whereabouts::RemoteUserRoom,
    },
};

/// Users whose ids are looked up together.
const CHUNK_USERS: usize = 1_000;

impl Rooms {
    /// Users of this server who are in a room, are invited, or knock.
    pub(crate) async fn local_members(&self, room: RoomNumber) -> Result<Vec<Caller>, Error> {
        let rows = self.core.database.scan_all(Range::<RoomMember>::prefix(&room)).await?;
        let is_member = |membership| !matches!(membership, Membership::Leave | Membership::Ban);
        let members = rows.into_iter().filter(|(_, row)| is_member(row.value.membership));
        let members: Vec<UserNumber> = members.map(|((_, user), _)| user).collect();
        let mut found = Vec::new();
        for chunk in members.chunks(CHUNK_USERS) {
            for (user, user_id) in chunk.iter().zip(self.core.users.ids(chunk).await?) {
                if let Some(user_id) = user_id.filter(|user_id| self.is_ours(user_id)) {
                    found.push(Caller { user_id, user: *user, device: None });
                }
            }
        }
        Ok(found)
    }

    /// Takes away what these users, in the order of their numbers, have of a room.
    pub(crate) async fn hide_from(
        &self,
        room: RoomNumber,
        users: &[UserNumber],
        write: &mut Write,
    ) -> Result<(), Error> {
        for (user, user_id) in users.iter().zip(self.core.users.ids(users).await?) {
            if user_id.is_some_and(|user_id| self.is_ours(&user_id)) {
                self.hide_from_local(room, *user, write).await?;
            } else {
                write.delete::<RemoteUserRoom>(&(*user, room));
            }
        }
        let (Some(first), Some(last)) = (users.first(), users.last()) else { return Ok(()) };
        if !write.is_empty() {
            // One note a table for all of them: what lies between them is rewritten with it.
            let (low, high) = ((*first, room), (*last, room));
            write.erase_between::<UserRoom>(&low, &high);
            write.erase_between::<RemoteUserRoom>(&low, &high);
            write.erase_from_to::<UserMembershipChange>(first, last);
            write.erase_from_to::<AccountData>(&low, &high);
            write.erase_from_to::<ThreadSubscription>(&low, &high);
            write.erase_from_to::<DelayedEvent>(first, last);
        }
        Ok(())
    }

    async fn hide_from_local(
        &self,
        room: RoomNumber,
        user: UserNumber,
        write: &mut Write,
    ) -> Result<(), Error> {
        let before = write.len();
        let had_to_do = self.forget_membership(room, user, write).await?;
        self.core.account_data.forget_room(user, room, write).await?;
        let database = &self.core.database;
        for (key, row) in database.scan_all(Range::<ThreadSubscription>::prefix(&(user, room))).await? {
            write.delete::<ThreadSubscription>(&key);
            write.delete::<ThreadSubscriptionChange>(&(user, row.position, room, key.2));
        }
        for (key, row) in database.scan_all(Range::<DelayedEvent>::prefix(&user)).await? {
            if row.room == room {
                write.delete::<DelayedEvent>(&key);
                write.delete::<DelayedEventDue>(&(row.since_ms.saturating_add(row.delay_ms), user, key.1));
                write.delete::<DelayedEventOwner>(&key.1);
            }
        }
        if database.get::<NoticeRoom>(&user).await? == Some(room) {
            write.delete::<NoticeRoom>(&user);
        }
        if had_to_do {
            write.log(Happened::Membership { room, user });
        }
        if write.len() > before {
            write.log(Happened::UserData { user });
        }
        Ok(())
    }

    /// The user's memberships go, but for a row that tells clients who were away; whether there were any.
    async fn forget_membership(
        &self,
        room: RoomNumber,
        user: UserNumber,
        write: &mut Write,
    ) -> Result<bool, Error> {
        let database = &self.core.database;
        let (row, member) = database.get_two::<UserRoom, RoomMember>(&(user, room), &(room, user)).await?;
        if row.is_none() && member.is_none() {
            return Ok(false);
        }
        if let Some(row) = row {
            write.delete::<UserRoom>(&(user, room));
            let is_left = matches!(row.value.membership, Membership::Leave | Membership::Ban);
            let event = self.core.events.get(room, row.value.event).await?.filter(|_| is_left);
            let at = if is_left { row.position } else { Position::PENDING };
            let departed = DepartedRoomRow {
                room,
                at_ms: event.as_ref().map_or(self.core.clock.now_ms(), |event| event.record.origin_server_ts),
                event_id: event.map(|event| event.record.event_id.clone()),
            };
            write.put::<DepartedRoom>(&(user, at), &departed);
        }
        for (key, change) in database.scan_all(Range::<UserMembershipChange>::prefix(&user)).await? {
            if change.room == room {
                write.delete::<UserMembershipChange>(&key);
            }
        }
        Ok(true)
    }
}
