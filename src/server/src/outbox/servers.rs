//! Which servers are in a room, in any of its states.
//!
//! The servers of one state of each room are kept; another state's follow from what differs between the two, so that an
//! event costs what it changes, and who may receive it is decided by the state at the event, whatever came later.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use quick_cache::sync::Cache;
use ruma::{OwnedServerName, UserId};

use crate::{
    database::Error,
    numbers::EventNumber,
    numbers::RoomNumber,
    rooms::{Room, Rooms, event::StoredEvent, membership},
    tables::rooms::{Membership, StateRoot},
};

/// Rooms whose servers are kept.
const ROOMS_KEPT_MAX: usize = 4_000;
/// Member events that are loaded together.
const CHUNK_EVENTS: usize = 1_000;

/// The servers of one state.
#[derive(Debug)]
struct Known {
    root: StateRoot,
    /// How many members of each server have joined; none is zero.
    counts: BTreeMap<OwnedServerName, u32>,
    names: Arc<BTreeSet<OwnedServerName>>,
}

/// Finds the servers of rooms. Cheap to clone.
#[derive(Clone)]
pub struct RoomServers {
    rooms: Rooms,
    known: Arc<Cache<RoomNumber, Arc<Known>>>,
}

impl std::fmt::Debug for RoomServers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RoomServers").finish_non_exhaustive()
    }
}

impl RoomServers {
    /// Over the rooms.
    pub fn new(rooms: Rooms) -> Self {
        Self { rooms, known: Arc::new(Cache::new(ROOMS_KEPT_MAX)) }
    }

    /// The servers with joined members now, this one among them if it has any.
    pub async fn now(&self, room: &Room) -> Result<Arc<BTreeSet<OwnedServerName>>, Error> {
        let root = self.rooms.current_root(room.number).await?;
        self.around(room, root).await
    }

    /// The servers in a room at an event with this state before it: also those of which we were told, while members of
    /// the room are missing.
    pub(super) async fn around(
        &self,
        room: &Room,
        root: StateRoot,
    ) -> Result<Arc<BTreeSet<OwnedServerName>>, Error> {
        let told = self.rooms.told_servers(room.number);
        let known = self.at(room, root).await?;
        Ok(match told {
            Some(told) => Arc::new(known.union(&told).cloned().collect()),
            None => known,
        })
    }

    /// The servers with members that have joined in this state of the room.
    pub async fn at(&self, room: &Room, root: StateRoot) -> Result<Arc<BTreeSet<OwnedServerName>>, Error> {
        let known = self.known.get(&room.number);
        if let Some(known) = known.as_ref().filter(|known| known.root == root) {
            return Ok(Arc::clone(&known.names));
        }
        let (mut counts, changes) = match known {
            Some(known) => (known.counts.clone(), self.changes(room, known.root, root).await?),
            None => (BTreeMap::new(), self.members(room, root).await?),
        };
        for (server, by) in changes {
            let count = counts.entry(server.clone()).or_default();
            *count = count.saturating_add_signed(by);
            if *count == 0 {
                counts.remove(&server);
            }
        }
        let names = Arc::new(counts.keys().cloned().collect());
        self.known.insert(room.number, Arc::new(Known { root, counts, names: Arc::clone(&names) }));
        Ok(names)
    }

    /// The servers of all who have joined, once for each of them.
    async fn members(&self, room: &Room, root: StateRoot) -> Result<Vec<(OwnedServerName, i32)>, Error> {
        let entries = self.rooms.states().all(room, root, Some("m.room.member")).await?;
        let numbers: Vec<EventNumber> = entries.into_iter().map(|(_, number)| number).collect();
        self.joined(room, numbers.into_iter().map(|number| (number, 1)).collect()).await
    }

    async fn changes(
        &self,
        room: &Room,
        before: StateRoot,
        after: StateRoot,
    ) -> Result<Vec<(OwnedServerName, i32)>, Error> {
        let mut numbers = Vec::new();
        for difference in self.rooms.states().diff(room, before, after).await? {
            numbers.extend(difference.before.map(|number| (EventNumber(number), -1)));
            numbers.extend(difference.after.map(|number| (EventNumber(number), 1)));
        }
        // What is added comes first, so that no count goes below zero in between.
        numbers.sort_by_key(|(_, by)| std::cmp::Reverse(*by));
        self.joined(room, numbers).await
    }

    /// Keeps those that are joins.
    async fn joined(
        &self,
        room: &Room,
        events: Vec<(EventNumber, i32)>,
    ) -> Result<Vec<(OwnedServerName, i32)>, Error> {
        let mut joined = Vec::new();
        for chunk in events.chunks(CHUNK_EVENTS) {
            let numbers: Vec<EventNumber> = chunk.iter().map(|(number, _)| *number).collect();
            let loaded = self.rooms.events().load_many(room.number, &numbers).await?;
            for ((_, by), event) in chunk.iter().zip(loaded) {
                if membership_stated(room, &event)? == Some(Membership::Join)
                    && let Some(server) = server_of_target(&event)
                {
                    joined.push((server, *by));
                }
            }
        }
        Ok(joined)
    }
}

/// The membership that an event states, if it is a member event.
pub(super) fn membership_stated(room: &Room, event: &StoredEvent) -> Result<Option<Membership>, Error> {
    if event.record.kind != "m.room.member" {
        return Ok(None);
    }
    Ok(membership::of(&*event.pdu(room)?))
}

/// The server of the user whom a member event is about.
pub(super) fn server_of_target(event: &StoredEvent) -> Option<OwnedServerName> {
    let user_id = event.record.state_key.as_deref()?;
    Some(<&UserId>::try_from(user_id).ok()?.server_name().to_owned())
}
