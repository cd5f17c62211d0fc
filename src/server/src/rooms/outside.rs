//! Rooms that nobody here is in: what a local user's membership of one is, and what they were shown of it.
//!
//! Such an event stands in no graph: its number has no look-up by id, so that nothing can build on what could not be
//! checked. When the room is joined, its events come in anew and take its place.

use std::sync::Arc;

use allod_matrix::{event::pdu::Pdu, stripped::Stripped};
use allod_storage::{CommitError, Position};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, ServerName};

use super::{Room, Rooms, ingest::Verified, membership};
use crate::{
    database::{Corrupt, Error, Range, Write},
    log::Happened,
    numbers::{EventNumber, RoomNumber, UserNumber},
    tables::{
        Stamped,
        outbox::{OutsideRow, OutsideState},
        rooms::{
            EventJson, EventMeta, EventRecord, EventStatus, HeadRecord, HeadVersion, MemberRecord,
            Membership, MembershipChange, Room as RoomTable, RoomByName, RoomHead, RoomMember, RoomRecord,
            StateRoot, UserMembershipChange, UserRoom, UserRoomRecord,
        },
    },
};

/// A local user's membership of a room that nobody here is in, as another server tells of it.
#[derive(Clone, Debug)]
pub struct OutsideMember {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The local user.
    pub user: OwnedUserId,
    /// The user's member event, its signatures checked.
    pub event: Verified,
    /// What the user is shown of the room.
    pub stripped: Vec<Stripped>,
    /// The server that tells of it.
    pub via: OwnedServerName,
}

/// What a user knows of a room that they are not in.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// The server that told of it.
    pub via: Option<OwnedServerName>,
    /// Stripped state events as JSON.
    pub state: Vec<String>,
}

/// The rows of one change of an outside membership.
struct Change<'a> {
    member: &'a OutsideMember,
    membership: Membership,
    user: UserNumber,
    sender: UserNumber,
    before: Option<Membership>,
}

impl Rooms {
    /// Notes what a local user's membership of a room is that nobody here is in, and tells the user's clients. Does
    /// nothing where somebody is: the room itself says it then.
    pub async fn set_outside(&self, member: OutsideMember) -> Result<Arc<Room>, Error> {
        let pdu = &member.event.pdu;
        let bad = Error::Corrupt("OutsideState", Corrupt("the event is no membership"));
        let membership = membership::of(pdu).ok_or(bad)?;
        let user = self.core.users.number_or_new(&member.user).await?;
        let sender = self.core.users.number_or_new(&pdu.sender).await?;
        loop {
            let mut write = Write::new();
            let found = self.find(&member.room_id).await?;
            let (number, version, mut head) = if let Some(room) = &found {
                if self.has_local_member(room).await? {
                    return Ok(Arc::clone(room));
                }
                let version = self.core.database.get::<HeadVersion>(&room.number).await?;
                (room.number, version, self.head(room.number).await?)
            } else {
                let head = HeadRecord { next_event: 1, ..HeadRecord::default() };
                (self.new_outside_room(&member, sender, &mut write).await?, None, head)
            };
            let row = self.core.database.get::<UserRoom>(&(user, number)).await?;
            if let (Some(row), Some(room)) = (&row, &found)
                && self.is_event(room, row.value.event, pdu).await?
            {
                return Ok(Arc::clone(room));
            }
            match version {
                Some(version) => write.equals::<HeadVersion>(&number, &version),
                None => write.absent::<HeadVersion>(&number),
            };
            let before = row.map(|row| row.value.membership);
            let change = Change { member: &member, membership, user, sender, before };
            put_change(&mut write, number, EventNumber(head.next_event), &change);
            head.next_event = head.next_event.saturating_add(1);
            write.put::<RoomHead>(&number, &Stamped::pending(head));
            write.put::<HeadVersion>(&number, &version.unwrap_or_default().saturating_add(1));
            match self.core.database.commit(write).await {
                Ok(_) => return self.get(number).await,
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What a user was shown of a room that they are not in.
    pub async fn outside(&self, room: RoomNumber, user: UserNumber) -> Result<Outside, Error> {
        let rows = self.core.database.scan_all(Range::<OutsideState>::prefix(&(room, user))).await?;
        let mut outside = Outside::default();
        for (_, row) in rows {
            match row {
                OutsideRow::Via(server) => outside.via = ServerName::parse(server).ok(),
                OutsideRow::Event(json) => outside.state.push(json),
            }
        }
        Ok(outside)
    }

    async fn is_event(&self, room: &Room, number: EventNumber, pdu: &Pdu) -> Result<bool, Error> {
        let event = self.core.events.get(room.number, number).await?;
        Ok(event.is_some_and(|event| event.record.event_id == pdu.event_id.as_str()))
    }

    async fn new_outside_room(
        &self,
        member: &OutsideMember,
        sender: UserNumber,
        write: &mut Write,
    ) -> Result<RoomNumber, Error> {
        let number = RoomNumber(self.core.numbers.next());
        let create = member.stripped.iter().find(|event| event.kind == "m.room.create");
        let creator = create.and_then(|event| {
            let event: serde_json::Value = serde_json::from_slice(&event.json).ok()?;
            OwnedUserId::try_from(event.get("sender")?.as_str()?).ok()
        });
        let creator = match creator {
            Some(creator) => self.core.users.number_or_new(&creator).await?,
            None => sender,
        };
        let record = RoomRecord {
            room_id: member.room_id.to_string(),
            version: member.version.to_string(),
            creator,
            created_ms: self.core.clock.now_ms(),
        };
        let name = self.core.database.hash("room", member.room_id.as_str());
        write.absent::<RoomByName>(&name);
        write.put::<RoomByName>(&name, &number);
        write.put::<RoomTable>(&number, &record);
        Ok(number)
    }
}

fn put_change(write: &mut Write, room: RoomNumber, event: EventNumber, change: &Change<'_>) {
    let Change { member, membership, user, sender, before } = change;
    let (pdu, json) = (&member.event.pdu, &member.event.json);
    let (user, sender, membership) = (*user, *sender, *membership);
    let record = EventRecord {
        event_id: pdu.event_id.to_string(),
        kind: pdu.kind.clone(),
        state_key: pdu.state_key.clone(),
        sender,
        status: EventStatus::Outlier,
        reason: None,
        depth: 0,
        origin_server_ts: pdu.origin_server_ts.get().into(),
        state_before: StateRoot::default(),
        state_after: StateRoot::default(),
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        replaces: None,
        transaction: None,
    };
    write.put::<EventJson>(&(room, event), json);
    write.put::<EventMeta>(&(room, event), &Stamped::pending(record));
    write.put::<RoomMember>(&(room, user), &Stamped::pending(MemberRecord { membership, event }));
    let row = UserRoomRecord { membership, event, sender, forgotten: false };
    write.put::<UserRoom>(&(user, room), &Stamped::pending(row));
    let moved = MembershipChange { room, membership, before: *before, event, sender };
    write.put::<UserMembershipChange>(&(user, Position::PENDING), &moved);
    write.delete_prefix::<OutsideState>(&(room, user));
    let via = OutsideRow::Via(member.via.to_string());
    let events = member.stripped.iter().filter_map(|event| String::from_utf8(event.json.clone()).ok());
    for (index, row) in (0_u32..).zip(std::iter::once(via).chain(events.map(OutsideRow::Event))) {
        write.put::<OutsideState>(&(room, user, index), &row);
    }
    write.log(Happened::Membership { room, user });
}

#[cfg(test)]
mod tests {
    use allod_matrix::stripped;
    use ruma::{RoomVersionId, owned_server_name, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::rooms::testing::{Remote, Server};

    fn member(remote: &Remote, event: &ruma::OwnedEventId) -> OutsideMember {
        let name = to_raw_value(&json!({
            "type": "m.room.name", "state_key": "", "sender": "@bob:remote.test", "content": { "name": "Den" },
        }));
        OutsideMember {
            room_id: remote.room_id.clone(),
            version: remote.version.clone(),
            user: user_id!("@alice:example.org").to_owned(),
            event: remote.verified(event),
            stripped: stripped::accept([&*name.unwrap()]),
            via: owned_server_name!("remote.test"),
        }
    }

    #[tokio::test]
    async fn an_invitation_from_outside_is_known_once_and_can_be_followed() {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(RoomVersionId::V11);
        let invite =
            remote.member("@bob:remote.test", &[events.last().unwrap()], "@alice:example.org", "invite");
        let alice = server.caller("alice").await;
        let room = server.rooms.set_outside(member(&remote, &invite)).await.unwrap();
        let head = server.fixture.store.head();
        server.rooms.set_outside(member(&remote, &invite)).await.unwrap();
        assert_eq!(server.fixture.store.head(), head, "the same invitation was stored twice");
        let memberships = server.rooms.memberships_of(alice.user).await.unwrap();
        assert_eq!(memberships[&room.number], Membership::Invite);
        let outside = server.rooms.outside(room.number, alice.user).await.unwrap();
        assert_eq!(outside.via.unwrap(), "remote.test");
        assert!(outside.state[0].contains("Den"), "{:?}", outside.state);
        assert_eq!(server.rooms.events().number(&room, &invite).await.unwrap(), None);

        let (room, join) = server.adopt(&mut remote, &[&invite]).await;
        assert!(server.rooms.is_joined(room.number, alice.user).await.unwrap());
        let state = server.state(&room).await;
        assert_eq!(state[&("m.room.member".to_owned(), "@alice:example.org".to_owned())], join);
        server.say(&room, "alice", "hello").await;
    }

    #[tokio::test]
    async fn a_room_known_from_outside_can_be_left_there() {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(RoomVersionId::V12);
        let invite =
            remote.member("@bob:remote.test", &[events.last().unwrap()], "@alice:example.org", "invite");
        let leave = remote.member("@alice:example.org", &[&invite], "@alice:example.org", "leave");
        let alice = server.caller("alice").await;
        let room = server.rooms.set_outside(member(&remote, &invite)).await.unwrap();
        server.rooms.set_outside(member(&remote, &leave)).await.unwrap();
        let memberships = server.rooms.memberships_of(alice.user).await.unwrap();
        assert_eq!(memberships[&room.number], Membership::Leave);
    }
}
