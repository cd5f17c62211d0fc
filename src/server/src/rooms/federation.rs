//! Reading a room for another server: which servers may take part, what each may see, and walks over the graph.
//!
//! Every look-up is bound to a room: an event of another room is not found.

use std::{
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use allod_matrix::{event::redact, server_acl::ServerAcl, visibility};
use bytes::Bytes;
use roaring::RoaringBitmap;
use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName, UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};

use super::{Room, Rooms, event::StoredEvent};
use crate::{
    database::{Corrupt, Error, Range},
    numbers::EventNumber,
    tables::rooms::{EventByName, EventStatus, Membership, Room as RoomTable, StateRoot},
};

/// Events that are loaded together on a walk.
const CHUNK_EVENTS: usize = 500;
/// Users whose ids are looked at together.
const CHUNK_USERS: usize = 1_000;
/// Most events that a walk for one answer passes.
const WALK_EVENTS_MAX: usize = 2_000;

/// What states say to one server; those of neighbouring events are mostly the same.
#[derive(Debug)]
pub struct ServerSights<'a> {
    server: &'a ServerName,
    seen: HashMap<StateRoot, Sight>,
}

#[derive(Clone, Debug)]
struct Sight {
    visibility: HistoryVisibility,
    memberships: Arc<[MembershipState]>,
}

impl<'a> ServerSights<'a> {
    /// What this server may see.
    pub fn of(server: &'a ServerName) -> Self {
        Self { server, seen: HashMap::new() }
    }
}

impl Rooms {
    /// Whether the room's access control list lets a server take part.
    pub async fn allows_server(&self, room: &Room, server: &ServerName) -> Result<bool, Error> {
        let root = self.current_root(room.number).await?;
        let Some(number) = self.core.states.get(room, root, "m.room.server_acl", "").await? else {
            return Ok(true);
        };
        let event = self.core.events.load(room.number, number).await?;
        Ok(ServerAcl::parse(&event.pdu(room)?.content).is_allowed(server))
    }

    /// The servers whose users have joined the room, read anew; while members are missing, also those of which we were
    /// told.
    pub async fn servers_in(&self, room: &Room) -> Result<BTreeSet<OwnedServerName>, Error> {
        let mut servers = self.servers_with(room, Membership::Join).await?;
        if let Some(told) = self.told_servers(room.number) {
            // Of this server we know better.
            let own = self.core.identity.server_name();
            servers.extend(told.iter().filter(|server| *server != own).cloned());
        }
        Ok(servers)
    }

    /// The servers with users of this membership of the room.
    pub(crate) async fn servers_with(
        &self,
        room: &Room,
        membership: Membership,
    ) -> Result<BTreeSet<OwnedServerName>, Error> {
        let joined = self.members(room.number, membership).await?;
        let mut servers = BTreeSet::new();
        for chunk in joined.chunks(CHUNK_USERS) {
            let ids = self.core.users.ids(chunk).await?;
            servers.extend(ids.into_iter().flatten().map(|user_id| user_id.server_name().to_owned()));
        }
        Ok(servers)
    }

    /// The rooms in which there is an event with this id.
    pub async fn rooms_with(&self, event_id: &EventId) -> Result<Vec<Arc<Room>>, Error> {
        let name = self.core.database.hash("event", event_id.as_str());
        let mut found = Vec::new();
        let mut range = Range::<RoomTable>::whole();
        loop {
            let page = self.core.database.scan(&range).await?;
            let keys: Vec<_> = page.rows.iter().map(|(room, _)| (*room, name)).collect();
            for ((room, _), row) in keys.iter().zip(self.core.database.get_all::<EventByName>(&keys).await?) {
                if row.is_some() {
                    found.push(self.get(*room).await?);
                }
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.continued_after(last),
                _ => return Ok(found),
            }
        }
    }

    /// An event of this room, whatever became of it.
    pub async fn event(&self, room: &Room, event_id: &EventId) -> Result<Option<Arc<StoredEvent>>, Error> {
        match self.core.events.number(room, event_id).await? {
            Some(number) => self.core.events.get(room.number, number).await,
            None => Ok(None),
        }
    }

    /// Which of these events are not here, in whatever form.
    pub async fn absent(&self, room: &Room, event_ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, Error> {
        let ids: Vec<&EventId> = event_ids.iter().map(|event_id| &**event_id).collect();
        let numbers = self.core.events.numbers(room, &ids).await?;
        let absent = event_ids.iter().zip(numbers).filter(|(_, number)| number.is_none());
        Ok(absent.map(|(event_id, _)| event_id.clone()).collect())
    }

    /// Events as a server may have them: redacted where none of its users could see them.
    pub async fn as_seen_by(
        &self,
        room: &Room,
        sights: &mut ServerSights<'_>,
        events: &[Arc<StoredEvent>],
    ) -> Result<Vec<Bytes>, Error> {
        let mut seen = Vec::with_capacity(events.len());
        for event in events {
            if self.is_visible_to(room, sights, event).await? {
                seen.push(event.json.clone());
                continue;
            }
            let redacted = redact(&event.json, &room.rules.redaction, None);
            let damaged = |_| Error::Corrupt("EventJson", Corrupt("event does not parse"));
            seen.push(Bytes::from(redacted.map_err(damaged)?));
        }
        Ok(seen)
    }

    /// Whether some user of a server may see an event.
    pub async fn is_visible_to(
        &self,
        room: &Room,
        sights: &mut ServerSights<'_>,
        event: &StoredEvent,
    ) -> Result<bool, Error> {
        let sight = self.server_sight(room, sights, event.record.state_before).await?;
        let mut memberships = sight.memberships.to_vec();
        if event.record.kind == "m.room.member" && is_of(event.record.state_key.as_deref(), sights.server) {
            // Their own membership they may always see; it counts before or after.
            memberships.extend(event.pdu(room)?.membership());
        }
        Ok(visibility::is_visible_to_server(&sight.visibility, memberships))
    }

    async fn server_sight(
        &self,
        room: &Room,
        sights: &mut ServerSights<'_>,
        root: StateRoot,
    ) -> Result<Sight, Error> {
        if let Some(sight) = sights.seen.get(&root) {
            return Ok(sight.clone());
        }
        let number = self.core.states.get(room, root, "m.room.history_visibility", "").await?;
        let pdu = match number {
            Some(number) => Some(self.core.events.load(room.number, number).await?.pdu(room)?),
            None => None,
        };
        let visibility = visibility::history_visibility(pdu.as_deref());
        let mut memberships = Vec::new();
        if matches!(visibility, HistoryVisibility::Invited | HistoryVisibility::Joined) {
            for event in self.state_of(room, root, Some("m.room.member")).await? {
                if is_of(event.record.state_key.as_deref(), sights.server) {
                    memberships.extend(event.pdu(room)?.membership());
                }
            }
        }
        let sight = Sight { visibility, memberships: memberships.into() };
        sights.seen.insert(root, sight.clone());
        Ok(sight)
    }

    /// All events of a state, or those of one type.
    pub async fn state_of(
        &self,
        room: &Room,
        root: StateRoot,
        kind: Option<&str>,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let entries = self.core.states.all(room, root, kind).await?;
        let mut numbers: Vec<_> = entries.into_iter().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        let mut events = Vec::with_capacity(numbers.len());
        for chunk in numbers.chunks(CHUNK_EVENTS) {
            events.extend(self.core.events.load_many(room.number, chunk).await?);
        }
        if let Some(kind) = kind {
            events.retain(|event| event.record.kind == kind);
        }
        Ok(events)
    }

    /// One piece of a state.
    pub async fn state_event_of(
        &self,
        room: &Room,
        root: StateRoot,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        match self.core.states.get(room, root, kind, state_key).await? {
            Some(number) => self.core.events.get(room.number, number).await,
            None => Ok(None),
        }
    }

    /// The events that allow these, and those that allow them, and so on; without these themselves, unless one allows
    /// another.
    pub async fn auth_chain(
        &self,
        room: &Room,
        events: &[Arc<StoredEvent>],
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let mut known = RoaringBitmap::new();
        let mut next: Vec<EventNumber> = Vec::new();
        let mut visit = |event: &StoredEvent, next: &mut Vec<EventNumber>| {
            next.extend(event.record.auth_events.iter().filter(|number| known.insert(number.0)));
        };
        for event in events {
            visit(event, &mut next);
        }
        let mut chain = Vec::new();
        while !next.is_empty() {
            let chunk: Vec<_> = next.drain(..next.len().min(CHUNK_EVENTS)).collect();
            let loaded = self.core.events.load_many(room.number, &chunk).await?;
            for event in &loaded {
                visit(event, &mut next);
            }
            chain.extend(loaded);
        }
        Ok(chain)
    }

    /// At most `limit` events from these backwards, these included, the deepest first.
    pub async fn walk_back(
        &self,
        room: &Room,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let start = self.numbers_of(room, from).await?;
        self.walk(room, start, limit, is_history).await
    }

    /// At most `limit` events between `earliest` and `latest`, neither of them included, the oldest first: from the
    /// latest backwards, and none that is less deep than `min_depth`.
    pub async fn between(
        &self,
        room: &Room,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: usize,
        min_depth: u64,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let ends: HashSet<EventNumber> = self.numbers_of(room, earliest).await?.into_iter().collect();
        let latest: Vec<EventNumber> = self.numbers_of(room, latest).await?;
        let mut start = Vec::new();
        for event in self.core.events.load_many(room.number, &latest).await? {
            start.extend(event.record.prev_events.iter().copied());
        }
        let wanted = |event: &StoredEvent| {
            is_history(event) && !ends.contains(&event.number) && event.record.depth >= min_depth
        };
        start.retain(|number| !latest.contains(number));
        let mut events = self.walk(room, start, limit, wanted).await?;
        events.reverse();
        Ok(events)
    }

    /// Goes back along `prev_events`, always to the deepest event that was not visited yet. What is not wanted is not
    /// passed.
    async fn walk(
        &self,
        room: &Room,
        start: Vec<EventNumber>,
        limit: usize,
        wanted: impl Fn(&StoredEvent) -> bool,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let mut queued: HashSet<EventNumber> = HashSet::new();
        let mut queue: BinaryHeap<(u64, EventNumber)> = BinaryHeap::new();
        let mut found = Vec::new();
        let mut arrived = start;
        let mut passed = 0_usize;
        loop {
            arrived.retain(|number| queued.insert(*number));
            for event in self.core.events.load_many(room.number, &arrived).await? {
                queue.push((event.record.depth, event.number));
            }
            passed = passed.saturating_add(1);
            let Some((_, number)) = queue.pop().filter(|_| found.len() < limit && passed < WALK_EVENTS_MAX)
            else {
                return Ok(found);
            };
            let event = self.core.events.load(room.number, number).await?;
            arrived = Vec::new();
            if wanted(&event) {
                arrived.extend(event.record.prev_events.iter().copied());
                found.push(event);
            }
        }
    }

    async fn numbers_of(&self, room: &Room, event_ids: &[OwnedEventId]) -> Result<Vec<EventNumber>, Error> {
        let ids: Vec<&EventId> = event_ids.iter().map(|event_id| &**event_id).collect();
        Ok(self.core.events.numbers(room, &ids).await?.into_iter().flatten().collect())
    }
}

/// Whether an event has its place in the graph. One that was soft-failed is handed on where another refers to it.
fn is_history(event: &StoredEvent) -> bool {
    match event.record.status {
        EventStatus::Timeline | EventStatus::SoftFailed => true,
        EventStatus::Outlier | EventStatus::Rejected => false,
    }
}

fn is_of(user_id: Option<&str>, server: &ServerName) -> bool {
    user_id.and_then(|id| <&UserId>::try_from(id).ok()).is_some_and(|user_id| user_id.server_name() == server)
}
