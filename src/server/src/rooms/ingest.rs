//! Events that were not built here: what other servers send, and what is fetched from them.
//!
//! The caller has checked format, signatures and hashes, and has fetched what the events build on; the room's task checks
//! them against the rules of authorisation, computes the state around them, and stores them
//! (<https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>). What is missing is named in
//! the answer, for the caller to fetch: the task waits for no network.

use std::{collections::HashMap, sync::Arc};

use allod_matrix::event::pdu::Pdu;
use bytes::Bytes;
use ruma::OwnedEventId;
use tokio::sync::oneshot;

use super::{Room, Rooms, task::Message};
use crate::{
    database::{Error, Range},
    numbers::{EventNumber, RoomNumber},
    tables::{
        partial::PartialRecord,
        rooms::{BackwardExtremity, EventStatus, Timeline},
    },
};

/// Most events of one call.
pub const EVENTS_MAX: usize = 10_000;

/// An event whose format, signatures and content hash were checked.
#[derive(Clone, Debug)]
pub struct Verified {
    pub(crate) pdu: Arc<Pdu>,
    pub(crate) json: Bytes,
}

impl Verified {
    /// Says that the event's format and signatures were checked, and that `json` (canonical, in federation format, with
    /// all its signatures) is redacted if the content hash did not fit.
    pub fn vouch(pdu: Arc<Pdu>, json: Bytes) -> Self {
        Self { pdu, json }
    }

    /// The event.
    pub fn pdu(&self) -> &Arc<Pdu> {
        &self.pdu
    }

    /// Its federation format.
    pub fn json(&self) -> &Bytes {
        &self.json
    }
}

/// Where an event belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At the end of the room, new to clients.
    Live,
    /// In the room's past: clients find it when they scroll back.
    Backfilled,
    /// Nowhere: it is known because others name it as state or as what allows them.
    Outlier,
}

/// Who hands an event on to the servers in its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldBy {
    /// Its sender's server.
    Sender,
    /// This server: whoever sent it came through it.
    Us,
}

/// An event to be stored.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The event.
    pub event: Verified,
    /// Where it belongs.
    pub placement: Placement,
    /// The state before it, for an event whose `prev_events` are missing; all of these events must be here. Ignored where
    /// the state can be computed.
    pub state: Option<Vec<OwnedEventId>>,
    /// Why the event is to be soft-failed even if the rules let it pass: its policy server does not vouch for it.
    pub soft_fail: Option<String>,
    /// Who hands the event on to the others in the room, once it is in the timeline.
    pub told_by: ToldBy,
    /// The newest ends of a room that nobody here is in any more: where they still are what they were, nothing of the
    /// room's state before counts.
    pub(super) stale: Option<Vec<EventNumber>>,
    /// Members are left out of `state`: the room is partial from this join on, until the whole state is here.
    pub(super) partial: Option<PartialRecord>,
}

impl Incoming {
    /// An event that follows what is here.
    pub fn new(event: Verified, placement: Placement) -> Self {
        Self {
            event,
            placement,
            state: None,
            soft_fail: None,
            told_by: ToldBy::Sender,
            stale: None,
            partial: None,
        }
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingested {
    /// Its id.
    pub event_id: OwnedEventId,
    /// What became of it.
    pub outcome: IngestOutcome,
}

/// What became of an event that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngestOutcome {
    /// It was here already, and stays as it is.
    Known {
        /// Its number.
        number: EventNumber,
        /// What it is.
        status: EventStatus,
    },
    /// It is here now.
    Stored {
        /// Its number.
        number: EventNumber,
        /// What it is.
        status: EventStatus,
        /// Why it is not in the timeline.
        reason: Option<String>,
    },
    /// It is not here, because others must come first.
    Missing(Missing),
}

/// Events that must be here before another can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Those that it follows; they are needed with their state, so not as outliers.
    pub prev: Vec<OwnedEventId>,
    /// Those that allow it.
    pub auth: Vec<OwnedEventId>,
    /// Those that the given state consists of.
    pub state: Vec<OwnedEventId>,
}

/// Why events could not be handed in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The room has more waiting than it can hold; try again soon.
    #[error("the room is busy")]
    Busy,
    /// More than [`EVENTS_MAX`] events.
    #[error("too many events at once")]
    TooMany,
    /// The server is stopping, or the room's task failed.
    #[error("the server could not finish")]
    Interrupted,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Rooms {
    /// Stores events of other servers. The answers stand in the order of the events; within a call, events come after
    /// those that they build on, in whatever order they are given.
    pub async fn ingest(
        &self,
        room: &Arc<Room>,
        events: Vec<Incoming>,
    ) -> Result<Vec<Ingested>, IngestError> {
        if events.len() > EVENTS_MAX {
            return Err(IngestError::TooMany);
        }
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        self.tell(room, Message::Ingest { events, reply }).map_err(|full| match full {
            super::NotTold::Busy => IngestError::Busy,
            super::NotTold::Stopping => IngestError::Interrupted,
        })?;
        answer.await.map_err(|_| IngestError::Interrupted)?
    }

    /// The newest ends of the room, which its next event cites.
    pub async fn forward_extremities(&self, room: &Room) -> Result<Vec<OwnedEventId>, Error> {
        let head = self.head(room.number).await?;
        let events = self.core.events.load_many(room.number, &head.extremities).await?;
        events.iter().map(|event| event.id()).collect()
    }

    /// At most `limit` events that are missing in the room's history, and how deep in it those stand that cite them; the
    /// deepest first.
    pub async fn backward_extremities(
        &self,
        room: &Room,
        limit: usize,
    ) -> Result<Vec<(OwnedEventId, u64)>, Error> {
        let rows = self.core.database.scan_all(Range::<BackwardExtremity>::prefix(&room.number)).await?;
        let mut deepest: HashMap<String, u64> = HashMap::new();
        for (_, gap) in rows {
            let depth = deepest.entry(gap.event_id).or_default();
            *depth = gap.depth.max(*depth);
        }
        let parsed =
            deepest.into_iter().filter_map(|(id, depth)| Some((OwnedEventId::try_from(id).ok()?, depth)));
        let mut gaps: Vec<_> = parsed.collect();
        gaps.sort_by(|(left_id, left), (right_id, right)| (right, left_id).cmp(&(left, right_id)));
        gaps.truncate(limit);
        Ok(gaps)
    }
}

impl Rooms {
    /// How deep in the room this server's own part of its history begins: what is missing before that was there before
    /// this server came.
    pub async fn depth_of_beginning(&self, room: &Room) -> Result<u64, Error> {
        let first = Range::<Timeline>::prefix(&room.number).limit(1);
        let Some((_, first)) = self.core.database.scan(&first).await?.rows.pop() else { return Ok(u64::MAX) };
        Ok(self.core.events.load(room.number, first).await?.record.depth)
    }

    /// At most `limit` events that are missing in the part of the history that this server took part in, the deepest
    /// first, and how deep those stand that cite them.
    pub async fn open_gaps(&self, room: &Room, limit: usize) -> Result<Vec<(OwnedEventId, u64)>, Error> {
        let beginning = self.depth_of_beginning(room).await?;
        let mut gaps = self.backward_extremities(room, usize::MAX).await?;
        gaps.retain(|(_, depth)| *depth > beginning);
        gaps.truncate(limit);
        Ok(gaps)
    }

    /// The rooms that miss anything of their history.
    pub async fn rooms_with_gaps(&self) -> Result<Vec<RoomNumber>, Error> {
        let mut rooms = Vec::new();
        let mut range = Range::<BackwardExtremity>::whole().limit(1);
        loop {
            let page = self.core.database.scan(&range).await?;
            let Some(((room, ..), _)) = page.rows.first() else { return Ok(rooms) };
            rooms.push(*room);
            range = Range::<BackwardExtremity>::after(&(), room).limit(1);
        }
    }
}

/// The order in which events can be taken: each behind those of them that it builds on, otherwise as given.
pub(super) fn order(events: &[Incoming]) -> Vec<usize> {
    let places: HashMap<&OwnedEventId, usize> =
        events.iter().enumerate().map(|(place, incoming)| (&incoming.event.pdu.event_id, place)).collect();
    let parents_of = |place: usize| -> Vec<usize> {
        let Some(incoming) = events.get(place) else { return Vec::new() };
        let pdu = &incoming.event.pdu;
        let prev = pdu.prev_events.iter().filter(|_| incoming.placement != Placement::Outlier);
        let state = incoming.state.iter().flatten();
        prev.chain(&pdu.auth_events).chain(state).filter_map(|id| places.get(id).copied()).collect()
    };
    let mut ordered = Vec::with_capacity(events.len());
    let mut seen = vec![false; events.len()];
    // Depth first, with a stack of its own: a chain may be as long as the call.
    for start in 0..events.len() {
        let mut stack = vec![(start, false)];
        while let Some((place, parents_done)) = stack.pop() {
            if parents_done {
                ordered.push(place);
                continue;
            }
            let Some(seen) = seen.get_mut(place).filter(|seen| !**seen) else { continue };
            *seen = true;
            stack.push((place, true));
            stack.extend(parents_of(place).into_iter().rev().map(|parent| (parent, false)));
        }
    }
    ordered
}

#[cfg(test)]
mod tests;
