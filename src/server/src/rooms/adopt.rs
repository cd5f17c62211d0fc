//! Coming to know a room through another server: the first events, and the state, of a room that somebody here joins.

use std::{collections::BTreeSet, sync::Arc};

use allod_matrix::{auth, event::pdu::Pdu};
use allod_storage::CommitError;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId, UserId};

use super::{
    Room, Rooms,
    ingest::{Incoming, IngestError, IngestOutcome, Placement, Verified},
};
use crate::{
    database::{Error, Write},
    numbers::RoomNumber,
    tables::{
        Stamped,
        partial::PartialRecord,
        rooms::{
            EventStatus, HeadRecord, HeadVersion, Membership, Room as RoomTable, RoomByName, RoomHead,
            RoomRecord,
        },
    },
};

/// A room as the server through which it is joined shows it; every event of it verified.
#[derive(Clone, Debug)]
pub struct Adopt {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The state before the join.
    pub state: Vec<Verified>,
    /// The auth chains of that state.
    pub auth_chain: Vec<Verified>,
    /// The join.
    pub event: Verified,
    /// Where members are left out of `state`: who says so, and which servers are in the room.
    pub partial: Option<PartialState>,
}

/// A state without its members (MSC3706).
#[derive(Clone, Debug)]
pub struct PartialState {
    /// The server that let us in.
    pub via: OwnedServerName,
    /// The servers in the room, as it says.
    pub servers: BTreeSet<OwnedServerName>,
}

/// Why a room was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The server does not know this room version.
    #[error("this room version is not supported")]
    Unsupported,
    /// What the other server shows is no room that could be joined so.
    #[error("{0}")]
    Invalid(String),
    /// The room's rules do not let the user in.
    #[error("{0}")]
    Forbidden(String),
    /// Events that the join itself needs are not among those given.
    #[error("the other server left out what the join needs")]
    Missing(Vec<OwnedEventId>),
    /// The events could not be handed in.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// Users who are given their numbers at once.
const CHUNK_USERS: usize = 1_000;
/// Outliers handed in at once.
const CHUNK_OUTLIERS: usize = 2_000;

impl Rooms {
    /// Makes a room known, with all its state, and places the join of the local user.
    ///
    /// Interrupted, it leaves a room that nobody is in; adopting it again goes on where it stopped. What was known of a
    /// room that nobody here is joined to any more no longer counts for its current state.
    pub async fn adopt(&self, adopt: Adopt) -> Result<Arc<Room>, AdoptError> {
        let Adopt { room_id, version, state, auth_chain, event, partial } = adopt;
        let create = state.iter().find(|event| event.pdu.is("m.room.create", ""));
        let Some(create) = create else {
            return Err(AdoptError::Invalid("the room has no create event".to_owned()));
        };
        let named =
            auth::room_version(&create.pdu).map_err(|error| AdoptError::Invalid(error.to_string()))?;
        if named != version {
            return Err(AdoptError::Invalid("the room is of another version".to_owned()));
        }
        if version.rules().is_none() {
            return Err(AdoptError::Unsupported);
        }
        let room = self.adopted_room(&room_id, &version, &create.pdu).await?;
        // In this order: whoever joins meanwhile changes the ends.
        let ends = self.head(room.number).await?.extremities;
        let stale = if self.has_local_member(&room).await? { None } else { Some(ends) };

        let state_ids: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id.clone()).collect();
        let held = self.adopt_outliers(&room, state.into_iter().chain(auth_chain).collect()).await?;
        let state_ids = state_ids.into_iter().filter(|event_id| held.contains(event_id)).collect();
        let mut join = Incoming { state: Some(state_ids), stale, ..Incoming::new(event, Placement::Live) };
        let is_partial = partial.is_some();
        if let Some(PartialState { via, servers }) = partial {
            self.begin_partial(room.number, &servers).await?;
            let since_ms = self.core.clock.now_ms();
            join.partial = Some(PartialRecord { via: via.to_string(), since_ms });
        }
        let outcome = self.ingest(&room, vec![join]).await;
        if is_partial {
            self.settle_partial(room.number).await?;
        }
        let outcome = outcome?.pop().map(|ingested| ingested.outcome);
        match outcome {
            Some(
                IngestOutcome::Stored { status: EventStatus::Timeline, .. }
                | IngestOutcome::Known { status: EventStatus::Timeline, .. },
            ) => Ok(room),
            Some(IngestOutcome::Stored { reason, .. }) => {
                Err(AdoptError::Forbidden(reason.unwrap_or_else(|| "the join was refused".to_owned())))
            }
            Some(IngestOutcome::Missing(missing)) => {
                Err(AdoptError::Missing([missing.auth, missing.state, missing.prev].concat()))
            }
            Some(IngestOutcome::Known { .. }) | None => {
                Err(AdoptError::Invalid("the join was refused before".to_owned()))
            }
        }
    }

    /// The room with its rows; made if it is new.
    async fn adopted_room(
        &self,
        room_id: &ruma::RoomId,
        version: &RoomVersionId,
        create: &Pdu,
    ) -> Result<Arc<Room>, AdoptError> {
        loop {
            let record = RoomRecord {
                room_id: room_id.to_string(),
                version: version.to_string(),
                creator: self.core.users.number_or_new(&create.sender).await?,
                created_ms: self.core.clock.now_ms(),
            };
            if let Some(room) = self.find(room_id).await? {
                return self.corrected_room(room, &record).await;
            }
            let number = RoomNumber(self.core.numbers.next());
            let mut write = Write::new();
            let name = self.core.database.hash("room", room_id.as_str());
            write.absent::<RoomByName>(&name);
            write.put::<RoomByName>(&name, &number);
            write.put::<RoomTable>(&number, &record);
            let head = HeadRecord { next_event: 1, ..HeadRecord::default() };
            write.put::<RoomHead>(&number, &Stamped::pending(head));
            write.put::<HeadVersion>(&number, &1);
            match self.core.database.commit(write).await {
                // Two users may join at once.
                Ok(_) | Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(Error::from(error).into()),
            }
        }
    }

    /// A room that is known. What is known of one without events may be wrong: whoever sent an invitation may have said
    /// anything.
    async fn corrected_room(&self, room: Arc<Room>, record: &RoomRecord) -> Result<Arc<Room>, AdoptError> {
        if room.version.as_str() == record.version && room.creator == record.creator {
            return Ok(room);
        }
        if !self.head(room.number).await?.extremities.is_empty() {
            return Err(AdoptError::Invalid("the room was of another version".to_owned()));
        }
        let mut write = Write::new();
        write.put::<RoomTable>(&room.number, record);
        self.core.database.commit(write).await.map_err(Error::from)?;
        let corrected = Arc::new(self.core.room_of(room.number, record)?);
        self.core.rooms.insert(room.number, Arc::clone(&corrected));
        // A task that still has the other version ends when its inbox closes.
        self.lock_awake().remove(&room.number);
        Ok(corrected)
    }

    /// Gives users numbers, many in a commit; one by one it would be a commit for each.
    async fn number_users<'a>(&self, events: impl Iterator<Item = &'a Verified>) -> Result<(), Error> {
        let mut users: Vec<&UserId> = Vec::new();
        for event in events {
            users.push(&event.pdu.sender);
            if event.pdu.kind == "m.room.member"
                && let Some(user_id) = event.pdu.state_key.as_deref()
                && let Ok(user_id) = <&UserId>::try_from(user_id)
            {
                users.push(user_id);
            }
        }
        users.sort_unstable();
        users.dedup();
        for chunk in users.chunks(CHUNK_USERS) {
            self.core.users.numbers_or_new(chunk).await?;
        }
        Ok(())
    }

    /// Stores events as outliers; returns those that are part of the room, without what is refused or hangs in the air.
    pub(crate) async fn adopt_outliers(
        &self,
        room: &Arc<Room>,
        events: Vec<Verified>,
    ) -> Result<std::collections::HashSet<OwnedEventId>, AdoptError> {
        self.number_users(events.iter()).await?;
        let mut events: Vec<Option<Incoming>> =
            events.into_iter().map(|event| Some(Incoming::new(event, Placement::Outlier))).collect();
        let order = super::ingest::order(&events.iter().flatten().cloned().collect::<Vec<_>>());
        let mut held = std::collections::HashSet::new();
        for places in order.chunks(CHUNK_OUTLIERS) {
            let chunk = places.iter().filter_map(|place| events.get_mut(*place)?.take()).collect();
            for ingested in self.ingest(room, chunk).await? {
                match ingested.outcome {
                    IngestOutcome::Stored { status, .. } | IngestOutcome::Known { status, .. }
                        if status != EventStatus::Rejected =>
                    {
                        held.insert(ingested.event_id);
                    }
                    _ => {}
                }
            }
        }
        Ok(held)
    }

    /// Whether somebody of this server is joined.
    pub(crate) async fn has_local_member(&self, room: &Room) -> Result<bool, Error> {
        let joined = self.members(room.number, Membership::Join).await?;
        for chunk in joined.chunks(CHUNK_USERS) {
            let ids = self.core.users.ids(chunk).await?;
            if ids.iter().flatten().any(|user_id| self.is_ours(user_id)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
