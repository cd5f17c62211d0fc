//! Rooms that were joined before all of their state was here (fast joins, MSC3902): which they are, who is in them, and
//! how they become whole.
//!
//! The server that lets us in leaves the members out of the state that it shows. Events are accepted on what is known
//! meanwhile, and noted; once the whole state has been fetched, the room's task computes the states around them anew, and
//! judges them anew (`writer/whole.rs`). Rows say all of that; what is asked often is in memory too.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use allod_storage::Position;
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};
use tokio::sync::{oneshot, watch};

use super::{
    Room, Rooms,
    access::{AccessError, View},
    event::StoredEvent,
    ingest::IngestError,
    send::Caller,
    task::Message,
};
use crate::{
    database::{Database, Error, Range, Write},
    numbers::{EventNumber, RoomNumber, UserNumber},
    tables::partial::{
        PartialDeviceList, PartialEvent, PartialRecord, PartialRoom, PartialServer, WholeRoom,
    },
};

/// Most servers that are remembered as being in a room.
const SERVERS_MAX: usize = 20_000;
/// Rows of servers in one commit.
const CHUNK_SERVERS: usize = 2_000;
/// Users of whom it is remembered that their devices changed meanwhile.
const DEVICE_LISTS_MAX: usize = 1_000;

/// How much of a room's state is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// All that there is, and always was.
    Whole,
    /// All, but what was shown before this position lacked members.
    WholeSince(Position),
    /// Members are missing.
    Partial,
}

/// A state as another server states it: the one before an event that is not here, and that event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedState {
    /// The events of the state; those that are not here are left out.
    pub before: Vec<OwnedEventId>,
    /// The event that is not here as part of the history, though perhaps as an outlier.
    pub event: OwnedEventId,
}

/// What came of making a room whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The room is whole.
    Done,
    /// The states after these are needed too.
    Missing(Vec<OwnedEventId>),
}

/// A room as it is in memory.
#[derive(Clone, Debug)]
enum Known {
    Partial(Arc<BTreeSet<OwnedServerName>>),
    Whole(Position),
}

/// What is in memory of such rooms.
#[derive(Debug)]
pub(super) struct Partials {
    known: Mutex<HashMap<RoomNumber, Known>>,
    /// Counts rooms that have become whole.
    completions: watch::Sender<u64>,
}

impl Partials {
    /// Reads the rows.
    pub(super) async fn open(database: &Database) -> Result<Self, Error> {
        let mut known = HashMap::new();
        for (room, whole) in database.scan_all(Range::<WholeRoom>::whole()).await? {
            known.insert(room, Known::Whole(whole.position));
        }
        for (room, _) in database.scan_all(Range::<PartialRoom>::whole()).await? {
            known.insert(room, Known::Partial(Arc::new(servers_of(database, room).await?)));
        }
        Ok(Self { known: Mutex::new(known), completions: watch::Sender::new(0) })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<RoomNumber, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, room: RoomNumber) -> Option<Known> {
        self.known().get(&room).cloned()
    }

    /// The room was deleted: those who wait look again.
    pub(super) fn forget(&self, room: RoomNumber) {
        self.known().remove(&room);
        self.completions.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A room may have become whole: those who wait look again.
    pub(super) fn completed(&self, room: RoomNumber, at: Position) {
        self.known().insert(room, Known::Whole(at));
        self.completions.send_modify(|count| *count = count.wrapping_add(1));
    }
}

async fn servers_of(database: &Database, room: RoomNumber) -> Result<BTreeSet<OwnedServerName>, Error> {
    let rows = database.scan_all(Range::<PartialServer>::prefix(&room)).await?;
    Ok(rows.into_iter().filter_map(|(_, server)| ServerName::parse(server).ok()).collect())
}

impl Rooms {
    /// Whether members of the room may be missing. Never no where they are; yes for a moment longer than they are.
    pub fn is_partial(&self, room: RoomNumber) -> bool {
        matches!(self.core.partials.get(room), Some(Known::Partial(_)))
    }

    /// The servers that are in a room of which members are missing, as far as we were told.
    pub fn told_servers(&self, room: RoomNumber) -> Option<Arc<BTreeSet<OwnedServerName>>> {
        match self.core.partials.get(room)? {
            Known::Partial(servers) => Some(servers),
            Known::Whole(_) => None,
        }
    }

    /// How much of a room's state is here, exactly.
    pub async fn completeness(&self, room: RoomNumber) -> Result<Completeness, Error> {
        match self.core.partials.get(room) {
            None => Ok(Completeness::Whole),
            Some(Known::Whole(at)) => Ok(Completeness::WholeSince(at)),
            Some(Known::Partial(_)) => {
                // What is in memory follows a moment later.
                if self.core.database.get::<PartialRoom>(&room).await?.is_some() {
                    return Ok(Completeness::Partial);
                }
                let whole = self.core.database.get::<WholeRoom>(&room).await?;
                Ok(whole.map_or(Completeness::Whole, |whole| Completeness::WholeSince(whole.position)))
            }
        }
    }

    /// Ends when all of the room's state is here, at once if it is, or when the server stops.
    pub async fn wait_whole(&self, room_id: &RoomId) -> Result<(), Error> {
        let Some(room) = self.find(room_id).await? else { return Ok(()) };
        let mut completions = self.core.partials.completions.subscribe();
        let stopping = self.core.tasks.stopping();
        while self.completeness(room.number).await? == Completeness::Partial {
            tokio::select! {
                // The sender lives as long as the service.
                _ = completions.changed() => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
        Ok(())
    }

    /// The caller's view of a room, and a piece of the state that they may see. A member who is not known is waited for.
    pub async fn whole_state_event(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        kind: &str,
        state_key: &str,
    ) -> Result<(View, Option<Arc<StoredEvent>>), AccessError> {
        let view = self.view(room_id, caller).await?;
        let found = self.state_event(&view, kind, state_key).await?;
        if found.is_some() || kind != "m.room.member" || !self.is_partial(view.room.number) {
            return Ok((view, found));
        }
        self.wait_whole(room_id).await?;
        let view = self.view(room_id, caller).await?;
        let found = self.state_event(&view, kind, state_key).await?;
        Ok((view, found))
    }

    /// The rooms of which members are missing, with what is known of them.
    pub async fn partial_rooms(&self) -> Result<Vec<(RoomNumber, PartialRecord)>, Error> {
        self.core.database.scan_all(Range::<PartialRoom>::whole()).await
    }

    /// What is known of a room of which members are missing.
    pub async fn partial_room(&self, room: RoomNumber) -> Result<Option<PartialRecord>, Error> {
        self.core.database.get::<PartialRoom>(&room).await
    }

    /// The events whose states another server has to state, so that the room can become whole.
    pub async fn missing_states(&self, room: RoomNumber) -> Result<Vec<OwnedEventId>, Error> {
        let rows = self.core.database.scan_all(Range::<PartialEvent>::prefix(&room)).await?;
        let missing = rows.into_iter().flat_map(|(_, record)| record.missing);
        let missing: BTreeSet<_> = missing.filter_map(|id| OwnedEventId::try_from(id).ok()).collect();
        Ok(missing.into_iter().collect())
    }

    /// Remembers the servers in a room that is being joined without its members, before it is.
    pub(super) async fn begin_partial(
        &self,
        room: RoomNumber,
        servers: &BTreeSet<OwnedServerName>,
    ) -> Result<(), Error> {
        let database = &self.core.database;
        let mut all = servers_of(database, room).await?;
        if !self.is_partial(room) {
            all.clear();
        }
        all.extend(servers.iter().take(SERVERS_MAX).cloned());
        let mut write = Write::new();
        write.delete_prefix::<PartialServer>(&room);
        for (index, server) in (0_u32..).zip(&all) {
            write.put::<PartialServer>(&(room, index), &server.to_string());
            if usize::try_from(index).unwrap_or_default().checked_rem(CHUNK_SERVERS) == Some(0) {
                database.commit(std::mem::take(&mut write)).await?;
            }
        }
        database.commit(write).await?;
        self.core.partials.known().insert(room, Known::Partial(Arc::new(all)));
        Ok(())
    }

    /// Looks again whether a room whose join may have failed is partial at all.
    pub(super) async fn settle_partial(&self, room: RoomNumber) -> Result<(), Error> {
        if self.core.database.get::<PartialRoom>(&room).await?.is_none() {
            match self.core.database.get::<WholeRoom>(&room).await? {
                Some(whole) => self.core.partials.completed(room, whole.position),
                None => drop(self.core.partials.known().remove(&room)),
            }
        }
        Ok(())
    }

    /// Makes a room whole by the states after the events that its joins follow. All events of them that could be had are
    /// in the room, as outliers.
    pub async fn complete(
        &self,
        room: &Arc<Room>,
        states: BTreeMap<OwnedEventId, StatedState>,
    ) -> Result<Completion, IngestError> {
        let (reply, answer) = oneshot::channel();
        self.tell(room, Message::Complete { states: Box::new(states), reply }).map_err(
            |told| match told {
                super::NotTold::Busy => IngestError::Busy,
                super::NotTold::Stopping => IngestError::Interrupted,
            },
        )?;
        answer.await.map_err(|_| IngestError::Interrupted)?
    }

    /// Gives up making a room whole that nobody here is in any more. What is stored of its past stays as it is.
    pub async fn abandon(&self, room: RoomNumber) -> Result<(), Error> {
        let mut write = Write::new();
        write.delete::<PartialRoom>(&room);
        write.delete_prefix::<PartialEvent>(&room);
        write.delete_prefix::<PartialServer>(&room);
        write.delete_prefix::<PartialDeviceList>(&room);
        self.core.database.commit(write).await?;
        // The room's task must not go on with what it knew.
        self.lock_awake().remove(&room);
        self.settle_partial(room).await
    }

    /// Whether a server is said to be in some room of which members are missing.
    pub fn is_in_partial_room(&self, server: &ServerName) -> bool {
        let known = self.core.partials.known();
        known.values().any(|known| matches!(known, Known::Partial(servers) if servers.contains(server)))
    }

    /// Remembers that the devices or keys of a user changed, for the rooms of which it is not known whether the user is in
    /// them.
    pub async fn note_device_list(&self, origin: &ServerName, user: UserNumber) -> Result<(), Error> {
        let told: Vec<RoomNumber> = {
            let known = self.core.partials.known();
            let partial = known
                .iter()
                .filter(|(_, known)| matches!(known, Known::Partial(servers) if servers.contains(origin)));
            partial.map(|(room, _)| *room).collect()
        };
        let mut write = Write::new();
        for room in told {
            let range = Range::<PartialDeviceList>::prefix(&room).limit(DEVICE_LISTS_MAX);
            let full = self.core.database.scan(&range).await?.rows.len() >= DEVICE_LISTS_MAX;
            if !full && self.member(room, user).await?.is_none() {
                write.put::<PartialDeviceList>(&(room, user), &());
            }
        }
        if !write.is_empty() {
            self.core.database.commit(write).await?;
        }
        Ok(())
    }

    /// The joins through which a whole room was partial, and the servers that were told of then: whom to tell what they
    /// may have missed.
    pub(crate) async fn was_partial(
        &self,
        room: RoomNumber,
    ) -> Result<(Vec<EventNumber>, BTreeSet<OwnedServerName>), Error> {
        let whole = self.core.database.get::<WholeRoom>(&room).await?;
        let joins = whole.map(|whole| whole.value.joins).unwrap_or_default();
        Ok((joins, servers_of(&self.core.database, room).await?))
    }
}
