//! Answers about a room's graph and state to servers that are in it.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>

use std::sync::Arc;

use bytes::Bytes;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};

use super::{Inbound, standing::Standing};
use crate::{
    database::Error,
    rooms::{Room, event::StoredEvent, federation::ServerSights, read::Direction},
    tables::rooms::EventStatus,
};

/// Events in one answer about the graph.
pub const EVENTS_MAX: usize = 100;

/// Why a server gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// This server does not know the room, or is not in it.
    #[error("this server is not in the room")]
    UnknownRoom,
    /// The asking server is kept out by the room's access control list.
    #[error("the room's access control list keeps your server out")]
    Denied,
    /// The asking server is not in the room.
    #[error("your server is not in the room")]
    Outside,
    /// Members of the room are not known yet, so that nothing can be said of it.
    #[error("this server does not know all of the room's state yet")]
    Partial,
    /// The room has no such event here.
    #[error("there is no such event in the room")]
    UnknownEvent,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// The state before an event.
#[derive(Clone, Debug)]
pub struct ServedState {
    /// The state.
    pub state: Vec<Arc<StoredEvent>>,
    /// What allows it.
    pub auth_chain: Vec<Arc<StoredEvent>>,
}

/// An event that was found by its time.
#[derive(Clone, Debug)]
pub struct AtTime {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Its time.
    pub origin_server_ts: u64,
}

impl Inbound {
    /// A room that the server is in.
    pub async fn room_for(&self, server: &ServerName, room_id: &RoomId) -> Result<Arc<Room>, ServeError> {
        match self.standing(server, room_id).await? {
            Standing::Allowed(room) if self.0.rooms.is_partial(room.number) => Err(ServeError::Partial),
            Standing::Allowed(room) => Ok(room),
            Standing::Outside(_) => Err(ServeError::Outside),
            Standing::Denied => Err(ServeError::Denied),
            Standing::Unknown => Err(ServeError::UnknownRoom),
        }
    }

    /// One event, redacted if no user of the server may see it.
    pub async fn event(&self, server: &ServerName, event_id: &EventId) -> Result<Bytes, ServeError> {
        let mut refused = ServeError::UnknownEvent;
        for room in self.0.rooms.rooms_with(event_id).await? {
            match self.room_for(server, &room.room_id).await {
                Ok(room) => {
                    let event = self.held(&room, event_id).await?;
                    let mut sights = ServerSights::of(server);
                    let seen = self.0.rooms.as_seen_by(&room, &mut sights, &[event]).await?;
                    return seen.into_iter().next().ok_or(ServeError::UnknownEvent);
                }
                Err(error @ (ServeError::Storage(_) | ServeError::Denied)) => return Err(error),
                Err(error @ (ServeError::Outside | ServeError::Partial)) => refused = error,
                Err(ServeError::UnknownRoom | ServeError::UnknownEvent) => {}
            }
        }
        Err(refused)
    }

    /// The state before an event, and what allows it.
    pub async fn state_before(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<ServedState, ServeError> {
        let room = self.room_for(server, room_id).await?;
        let event = self.held(&room, event_id).await?;
        // Of an outlier the state is not known.
        if matches!(event.record.status, EventStatus::Outlier) {
            return Err(ServeError::UnknownEvent);
        }
        let state = self.0.rooms.state_of(&room, event.record.state_before, None).await?;
        let auth_chain = self.0.rooms.auth_chain(&room, &state).await?;
        Ok(ServedState { state, auth_chain })
    }

    /// What allows an event.
    pub async fn event_auth(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Vec<Bytes>, ServeError> {
        let room = self.room_for(server, room_id).await?;
        let event = self.held(&room, event_id).await?;
        let chain = self.0.rooms.auth_chain(&room, &[event]).await?;
        Ok(chain.iter().map(|event| event.json.clone()).collect())
    }

    /// Events from these backwards, these included, the newest first.
    pub async fn history(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Bytes>, ServeError> {
        let room = self.room_for(server, room_id).await?;
        let events = self.0.rooms.walk_back(&room, from, limit.min(EVENTS_MAX)).await?;
        Ok(self.0.rooms.as_seen_by(&room, &mut ServerSights::of(server), &events).await?)
    }

    /// Events between `earliest` and `latest`, the oldest first.
    pub async fn missing(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        between: (&[OwnedEventId], &[OwnedEventId]),
        limit: usize,
        min_depth: u64,
    ) -> Result<Vec<Bytes>, ServeError> {
        let room = self.room_for(server, room_id).await?;
        let (earliest, latest) = between;
        let limit = limit.min(EVENTS_MAX);
        let events = self.0.rooms.between(&room, earliest, latest, limit, min_depth).await?;
        Ok(self.0.rooms.as_seen_by(&room, &mut ServerSights::of(server), &events).await?)
    }

    /// The event nearest to a time that some user of the server may see.
    pub async fn at_time(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        at_ms: u64,
        direction: Direction,
    ) -> Result<AtTime, ServeError> {
        let room = self.room_for(server, room_id).await?;
        let event = self.0.rooms.event_at_time_for(&room, server, at_ms, direction).await?;
        let event = event.ok_or(ServeError::UnknownEvent)?;
        let event_id = OwnedEventId::try_from(event.record.event_id.as_str());
        let event_id = event_id.map_err(|_| ServeError::UnknownEvent)?;
        Ok(AtTime { event_id, origin_server_ts: event.record.origin_server_ts })
    }

    /// An event of this room that is fit to be shown.
    async fn held(&self, room: &Room, event_id: &EventId) -> Result<Arc<StoredEvent>, ServeError> {
        let event = self.0.rooms.event(room, event_id).await?.ok_or(ServeError::UnknownEvent)?;
        match event.record.status {
            EventStatus::Timeline | EventStatus::SoftFailed | EventStatus::Outlier => Ok(event),
            EventStatus::Rejected => Err(ServeError::UnknownEvent),
        }
    }
}
