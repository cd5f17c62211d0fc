//! What readers see of rooms that they are not in, or are in only just: whose invitations they are shown, and the state that
//! comes with an invitation or a knock.

use std::sync::Arc;

use allod_matrix::{event::client::stripped, stripped::keys};
use allod_storage::Position;

use super::{
    Inner,
    memberships::{UserRoomEntry, UserRooms},
};
use crate::{
    database::{Corrupt, Error},
    invite_rules::Verdict,
    numbers::{EventNumber, UserNumber},
    rooms::{Room, access::View, send::Caller},
    tables::rooms::{EventStatus, Membership, StateRoot},
};

impl Inner {
    /// Leaves out invitations of those who are ignored, and those that the user's rules for them block or ignore, also
    /// those of before there were rules.
    pub(super) async fn hide_unwanted_invites(
        &self,
        user: UserNumber,
        invited: &mut Vec<UserRoomEntry>,
    ) -> Result<(), Error> {
        if invited.is_empty() {
            return Ok(());
        }
        let ignored = self.ignored(user).await?;
        invited.retain(|entry| !ignored.users.contains(&entry.sender));
        let rules = self.sources.rooms.invite_rules(user).await?;
        if rules.is_open() {
            return Ok(());
        }
        let senders: Vec<UserNumber> = invited.iter().map(|entry| entry.sender).collect();
        let mut senders = self.sources.users.ids(&senders).await?.into_iter();
        invited.retain(|_| {
            let sender = senders.next().flatten();
            sender.is_none_or(|sender| rules.judge(&sender) == Verdict::Allow)
        });
        Ok(())
    }

    /// Whether a reader has to do with a room again that was deleted: it is known by another number then.
    pub(super) async fn is_back(&self, deleted: &Room, rooms: &UserRooms) -> Result<bool, Error> {
        let anew = self.sources.rooms.find(&deleted.room_id).await?;
        Ok(anew.is_some_and(|anew| rooms.get(anew.number).is_some()))
    }

    /// The state at an invitation or knock that its target is shown: the own member event comes last.
    pub(super) async fn stripped_state(
        &self,
        room: &Room,
        own_user: UserNumber,
        entry: &UserRoomEntry,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let sources = &self.sources;
        let own = sources.rooms.events().load(room.number, entry.event).await?;
        let damaged = || Error::Corrupt("EventJson", Corrupt("event does not parse"));
        if own.record.status == EventStatus::Outlier {
            // Nobody here is in the room: another server said what is shown.
            let state = sources.rooms.outside(room.number, own_user).await?.state;
            let mut events: Vec<Vec<u8>> = state.into_iter().map(String::into_bytes).collect();
            events.push(stripped(&own.json).map_err(|_| damaged())?);
            return Ok(events);
        }
        let sender = if entry.sender == own_user { None } else { sources.users.id(entry.sender).await? };
        let keys = keys(sender.as_deref());
        let keys: Vec<_> =
            keys.iter().map(|(kind, state_key)| room.hash_key.entry_key(kind, state_key)).collect();
        let found = sources.rooms.states().get_many(room, own.record.state_after, &keys).await?;
        let numbers: Vec<EventNumber> = found.into_iter().flatten().collect();
        let events = sources.rooms.events().load_many(room.number, &numbers).await?;
        events.iter().chain([&own]).map(|event| stripped(&event.json).map_err(|_| damaged())).collect()
    }
}

/// The reader's view of a room that they have joined.
pub(super) fn joined_view(room: Arc<Room>, caller: &Caller) -> View {
    let always = Position::new(u64::MAX);
    View {
        room,
        caller: caller.clone(),
        membership: Some(Membership::Join),
        root: StateRoot::default(),
        until: always,
        joined_until: always,
    }
}
