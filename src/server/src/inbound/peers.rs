//! What is asked of other servers about a room's graph. The answers are evidence: nothing in them is believed unchecked.

use std::fmt::Debug;

use futures_util::{FutureExt, future::BoxFuture};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName, UInt,
    api::{
        Direction as Way,
        federation::{
            authorization::get_event_authorization,
            backfill::get_backfill,
            event::{
                get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids,
            },
        },
    },
};
use serde_json::value::RawValue;

use crate::{
    federation::client::{ClientError, EVENTS, FederationClient},
    rooms::read::Direction,
};

/// An answer under way.
pub type Asked<'a, T> = BoxFuture<'a, Result<T, ClientError>>;

/// The state at an event: the events of it, and those that allow them.
#[derive(Clone, Debug, Default)]
pub struct StateAt<T> {
    /// The state.
    pub state: Vec<T>,
    /// The auth chains of the state.
    pub auth_chain: Vec<T>,
}

/// Other servers; a port, so that tests can answer.
pub trait Peers: Debug + Send + Sync {
    /// Events between two ends of the graph.
    fn missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        limit: u32,
    ) -> Asked<'a, Vec<Box<RawValue>>>;

    /// One event.
    fn event<'a>(&'a self, server: &'a ServerName, event_id: OwnedEventId) -> Asked<'a, Box<RawValue>>;

    /// The auth chain of an event.
    fn event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, Vec<Box<RawValue>>>;

    /// The ids of the state before an event.
    fn state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, StateAt<OwnedEventId>>;

    /// The state before an event, in whole.
    fn state<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, StateAt<Box<RawValue>>>;

    /// The event nearest to a time, in milliseconds since the epoch, and its own time.
    fn event_at_time<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        at_ms: u64,
        direction: Direction,
    ) -> Asked<'a, (OwnedEventId, u64)>;

    /// Events from these backwards, these included.
    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        from: Vec<OwnedEventId>,
        limit: u32,
    ) -> Asked<'a, Vec<Box<RawValue>>>;
}

impl Peers for FederationClient {
    fn missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        limit: u32,
    ) -> Asked<'a, Vec<Box<RawValue>>> {
        async move {
            let mut request = get_missing_events::v1::Request::new(room_id.to_owned(), earliest, latest);
            request.limit = UInt::from(limit);
            Ok(self.send_within(server, request, EVENTS).await?.events)
        }
        .boxed()
    }

    fn event<'a>(&'a self, server: &'a ServerName, event_id: OwnedEventId) -> Asked<'a, Box<RawValue>> {
        async move { Ok(self.send(server, get_event::v1::Request::new(event_id)).await?.pdu) }.boxed()
    }

    fn event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, Vec<Box<RawValue>>> {
        async move {
            let request = get_event_authorization::v1::Request::new(room_id.to_owned(), event_id);
            Ok(self.send_within(server, request, EVENTS).await?.auth_chain)
        }
        .boxed()
    }

    fn state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, StateAt<OwnedEventId>> {
        async move {
            let request = get_room_state_ids::v1::Request::new(event_id, room_id.to_owned());
            let answer = self.send_within(server, request, EVENTS).await?;
            Ok(StateAt { state: answer.pdu_ids, auth_chain: answer.auth_chain_ids })
        }
        .boxed()
    }

    fn state<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: OwnedEventId,
    ) -> Asked<'a, StateAt<Box<RawValue>>> {
        async move {
            let request = get_room_state::v1::Request::new(event_id, room_id.to_owned());
            let answer = self.send_within(server, request, EVENTS).await?;
            Ok(StateAt { state: answer.pdus, auth_chain: answer.auth_chain })
        }
        .boxed()
    }

    fn event_at_time<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        at_ms: u64,
        direction: Direction,
    ) -> Asked<'a, (OwnedEventId, u64)> {
        async move {
            let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(at_ms));
            let direction = match direction {
                Direction::Forward => Way::Forward,
                Direction::Backward => Way::Backward,
            };
            let request = get_event_by_timestamp::v1::Request::new(room_id.to_owned(), at, direction);
            let found = self.send(server, request).await?;
            Ok((found.event_id, found.origin_server_ts.get().into()))
        }
        .boxed()
    }

    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        from: Vec<OwnedEventId>,
        limit: u32,
    ) -> Asked<'a, Vec<Box<RawValue>>> {
        async move {
            let request = get_backfill::v1::Request::new(room_id.to_owned(), from, UInt::from(limit));
            Ok(self.send_within(server, request, EVENTS).await?.pdus)
        }
        .boxed()
    }
}
