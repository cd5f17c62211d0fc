//! Members: the room's list, its counts, and local users' lists of rooms.

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId};

use super::{Check, Damage, PAGE_ROWS, Stop};
use crate::{
    database::Range,
    numbers::{EventNumber, UserNumber},
    rooms::membership,
    tables::{
        Stamped,
        rooms::{EventStatus, MemberRecord, Membership, RoomHead, RoomMember, UserRoom, UserRoomRecord},
        whereabouts::RemoteUserRoom,
    },
};

/// What the current state says of a member.
struct Says {
    user_id: OwnedUserId,
    record: MemberRecord,
    sender: UserNumber,
}

impl Check {
    pub(super) async fn check_members(&mut self) -> Result<(), Stop> {
        if self.head.extremities.is_empty() || (self.nodes_damaged && !self.repair) {
            return Ok(());
        }
        let said = self.said_of_members().await?;
        self.check_counts(&said);
        self.check_room_members(&said).await?;
        self.check_rooms_of_users(&said).await?;
        self.check_whereabouts(&said).await
    }

    async fn said_of_members(&mut self) -> Result<BTreeMap<UserNumber, Says>, Stop> {
        let entries = self.core.states.all(&self.room, self.head.root, Some("m.room.member")).await?;
        let mut said = BTreeMap::new();
        for chunk in entries.chunks(PAGE_ROWS) {
            let numbers: Vec<_> = chunk.iter().map(|(_, number)| *number).collect();
            let events = self.core.events.get_many(self.room.number, &numbers).await?;
            let mut found = Vec::with_capacity(events.len());
            for event in events.into_iter().flatten().filter(|event| event.record.kind == "m.room.member") {
                let state_key = event.record.state_key.clone().unwrap_or_default();
                let Ok(user_id) = OwnedUserId::try_from(state_key) else { continue };
                let membership = membership::of(&*event.pdu(&self.room)?).unwrap_or(Membership::Leave);
                let record = MemberRecord { membership, event: event.number };
                found.push(Says { user_id, record, sender: event.record.sender });
            }
            let ids: Vec<&UserId> = found.iter().map(|says| &*says.user_id).collect();
            let users = self.core.users.numbers_or_new(&ids).await?;
            said.extend(users.into_iter().zip(found));
        }
        Ok(said)
    }

    fn check_counts(&mut self, said: &BTreeMap<UserNumber, Says>) {
        let count = |membership| {
            let of_kind = said.values().filter(|says| says.record.membership == membership).count();
            u32::try_from(of_kind).unwrap_or(u32::MAX)
        };
        let (joined, invited) = (count(Membership::Join), count(Membership::Invite));
        if (joined, invited) != (self.head.joined, self.head.invited)
            && self.find(Damage::Counts, "numbers of members", true)
        {
            (self.head.joined, self.head.invited) = (joined, invited);
            self.write.put::<RoomHead>(&self.room.number, &Stamped::pending(self.head.clone()));
        }
    }

    async fn check_room_members(&mut self, said: &BTreeMap<UserNumber, Says>) -> Result<(), Stop> {
        let room = self.room.number;
        let rows = self.core.database.scan_all(Range::<RoomMember>::prefix(&room)).await?;
        let rows: BTreeMap<UserNumber, MemberRecord> =
            rows.into_iter().map(|((_, user), row)| (user, row.value)).collect();
        for (user, row) in &rows {
            if !said.contains_key(user)
                && !self.is_from_outside(row.event)
                && self.find(Damage::Members, self.name_of(row.event), true)
            {
                self.write.delete::<RoomMember>(&(room, *user));
            }
        }
        for (user, says) in said {
            let row = rows.get(user);
            let outside = row.is_some_and(|row| self.is_from_outside(row.event));
            if row != Some(&says.record)
                && !outside
                && self.find(Damage::Members, says.user_id.as_str(), true)
            {
                self.write.put::<RoomMember>(&(room, *user), &Stamped::pending(says.record));
                self.changed.push(says.record.event);
                self.flush_some().await?;
            }
        }
        Ok(())
    }

    async fn check_rooms_of_users(&mut self, said: &BTreeMap<UserNumber, Says>) -> Result<(), Stop> {
        let room = self.room.number;
        let local: Vec<_> =
            said.iter().filter(|(_, says)| self.core.identity.is_ours(&says.user_id)).collect();
        let keys: Vec<_> = local.iter().map(|(user, _)| (**user, room)).collect();
        let rows = self.core.database.get_all::<UserRoom>(&keys).await?;
        for ((user, says), row) in local.into_iter().zip(rows) {
            let row = row.map(|row| row.value);
            let forgotten = row.is_some_and(|row| row.forgotten);
            let MemberRecord { membership, event } = says.record;
            let right = UserRoomRecord { membership, event, sender: says.sender, forgotten };
            let outside = row.is_some_and(|row| self.is_from_outside(row.event));
            if row != Some(right) && !outside && self.find(Damage::Members, says.user_id.as_str(), true) {
                self.write.put::<UserRoom>(&(*user, room), &Stamped::pending(right));
                self.changed.push(event);
                self.flush_some().await?;
            }
        }
        Ok(())
    }

    /// Other servers' users by whom the room is not found. What is found too much means nothing.
    async fn check_whereabouts(&mut self, said: &BTreeMap<UserNumber, Says>) -> Result<(), Stop> {
        let room = self.room.number;
        let is_there = |says: &Says| {
            says.record.membership == Membership::Join && !self.core.identity.is_ours(&says.user_id)
        };
        let there: Vec<_> = said.iter().filter(|(_, says)| is_there(says)).collect();
        let keys: Vec<_> = there.iter().map(|(user, _)| (**user, room)).collect();
        let rows = self.core.database.get_all::<RemoteUserRoom>(&keys).await?;
        for (((_, says), key), row) in there.into_iter().zip(&keys).zip(rows) {
            if row.is_none() && self.find(Damage::Members, says.user_id.as_str(), true) {
                self.write.put::<RemoteUserRoom>(key, &());
                self.flush_some().await?;
            }
        }
        Ok(())
    }

    /// Whether a membership is by an event that never got a place in the room: an invitation from elsewhere, a knock.
    fn is_from_outside(&self, event: EventNumber) -> bool {
        self.facts.get(event).is_some_and(|fact| fact.status == EventStatus::Outlier)
    }
}
