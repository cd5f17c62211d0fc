//! Fetching the state of rooms that were joined before all of it was here: a task a room, which goes on after a restart
//! where it was, and asks one server after the other until the room is whole.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid>

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Remote, RemoteError, RemoteMembership, path};
use crate::{
    numbers::RoomNumber,
    rooms::{
        Room,
        ingest::Verified,
        partial::{Completion, StatedState},
    },
};

/// The first pause after no server had the state.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
/// The longest.
const PAUSE_LONGEST: Duration = Duration::from_secs(600);
/// How often a room that nobody here is in any more is tried.
const TRIES_OUTSIDE: u32 = 3;
/// More events than this are not fetched one by one.
const SINGLY_MAX: usize = 50;

/// The answer to `state_ids`.
#[derive(Deserialize)]
struct StateIds {
    pdu_ids: Vec<OwnedEventId>,
    #[serde(default)]
    auth_chain_ids: Vec<OwnedEventId>,
}

/// The answer to `state`.
#[derive(Deserialize)]
struct State {
    pdus: Vec<Box<RawValue>>,
    #[serde(default)]
    auth_chain: Vec<Box<RawValue>>,
}

/// The answer to `event`.
#[derive(Deserialize)]
struct Single {
    pdus: Vec<Box<RawValue>>,
}

impl RemoteMembership {
    /// Goes on with all rooms that are not whole.
    pub(super) fn resume_completing(&self) {
        let service = self.clone();
        self.0.sources.tasks.spawn("resume partial rooms", async move {
            match service.0.sources.rooms.partial_rooms().await {
                Ok(rooms) => rooms.into_iter().for_each(|(room, _)| service.start_completing(room)),
                Err(error) => tracing::warn!(%error, "rooms stay partial until the next start"),
            }
        });
    }

    /// Starts making a room whole, if it is not and no task does so.
    pub(super) fn start_completing(&self, number: RoomNumber) {
        if !self.0.sources.rooms.is_partial(number) || !self.completing().insert(number) {
            return;
        }
        let service = self.clone();
        let stopping = self.0.sources.tasks.stopping().clone();
        self.0.sources.tasks.spawn("partial room", async move {
            let mut pause = PAUSE_FIRST;
            let mut tries = 0_u32;
            loop {
                tries = tries.saturating_add(1);
                let done = tokio::select! {
                    done = service.complete(number, tries) => done,
                    () = stopping.cancelled() => return,
                };
                match done {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::info!(room = number.0, %error, "a room is not whole yet"),
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stopping.cancelled() => return,
                }
                pause = pause.saturating_mul(2).min(PAUSE_LONGEST);
            }
            service.completing().remove(&number);
            // A join may have come in between.
            if let Ok(Some(_)) = service.0.sources.rooms.partial_room(number).await {
                service.start_completing(number);
            }
        });
    }

    fn completing(&self) -> std::sync::MutexGuard<'_, std::collections::HashSet<RoomNumber>> {
        self.0.completing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks all servers once for what a room lacks; whether nothing remains to be done.
    async fn complete(&self, number: RoomNumber, tries: u32) -> Result<bool, RemoteError> {
        let rooms = &self.0.sources.rooms;
        let Some(record) = rooms.partial_room(number).await? else { return Ok(true) };
        let room = rooms.get(number).await?;
        let mut servers: Vec<OwnedServerName> = ServerName::parse(&record.via).into_iter().collect();
        if let Some(told) = rooms.told_servers(number) {
            servers.extend(told.iter().cloned());
        }
        let servers = self.candidates(servers);
        let mut states = BTreeMap::new();
        let mut wanted: BTreeSet<OwnedEventId> = rooms.missing_states(number).await?.into_iter().collect();
        loop {
            for event_id in std::mem::take(&mut wanted) {
                let Some(state) = self.stated(&room, &servers, &event_id).await? else {
                    return self.give_up_outside(&room, tries).await;
                };
                states.insert(event_id, state);
            }
            match rooms.complete(&room, states.clone()).await? {
                Completion::Done => {
                    tracing::info!(room_id = %room.room_id, "all of the room's state is here");
                    return Ok(true);
                }
                Completion::Missing(more) => wanted.extend(more),
            }
        }
    }

    /// Whether to let go of a room that nobody here is in any more, so that nobody answers for it.
    async fn give_up_outside(&self, room: &Room, tries: u32) -> Result<bool, RemoteError> {
        let rooms = &self.0.sources.rooms;
        if tries < TRIES_OUTSIDE || rooms.has_local_member(room).await? {
            return Ok(false);
        }
        tracing::info!(room_id = %room.room_id, "a room that was left stays partial");
        rooms.abandon(room.number).await?;
        Ok(true)
    }

    /// The state after an event that is not here, by the first server that has it.
    async fn stated(
        &self,
        room: &Arc<Room>,
        servers: &[OwnedServerName],
        event_id: &EventId,
    ) -> Result<Option<StatedState>, RemoteError> {
        for server in servers {
            match self.stated_by(room, server, event_id).await {
                Ok(state) => return Ok(Some(state)),
                Err(error @ (RemoteError::Storage(_) | RemoteError::Interrupted)) => return Err(error),
                Err(error) => {
                    tracing::info!(room_id = %room.room_id, %server, %error, "a server does not state the room's state");
                }
            }
        }
        Ok(None)
    }

    async fn stated_by(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<StatedState, RemoteError> {
        let (rooms, remote) = (&self.0.sources.rooms, self.remote()?);
        let ids: StateIds = remote.get(server, &path::state("state_ids", &room.room_id, event_id)).await?;
        let event_id = event_id.to_owned();
        let all: Vec<OwnedEventId> =
            ids.pdu_ids.iter().chain(&ids.auth_chain_ids).chain([&event_id]).cloned().collect();
        let absent = rooms.absent(room, &all).await?;
        let fetched = remote.fetch_all(room, server, &event_id, absent).await?;
        rooms.adopt_outliers(room, fetched).await?;
        let absent: BTreeSet<OwnedEventId> = rooms.absent(room, &all).await?.into_iter().collect();
        let before: Vec<OwnedEventId> = ids.pdu_ids.into_iter().filter(|id| !absent.contains(id)).collect();
        if absent.contains(&event_id) || !self.has_create(room, &before).await? {
            return Err(RemoteError::BadAnswer("the state is none".to_owned()));
        }
        Ok(StatedState { before, event: event_id })
    }

    async fn has_create(&self, room: &Room, state: &[OwnedEventId]) -> Result<bool, RemoteError> {
        let rooms = &self.0.sources.rooms;
        let root = rooms.current_root(room.number).await?;
        let create = rooms.state_event_of(room, root, "m.room.create", "").await?;
        Ok(create.is_some_and(|create| state.iter().any(|event_id| *event_id == create.record.event_id)))
    }
}

impl Remote {
    /// Fetches events of the state before an event, and that event: one by one if they are few.
    async fn fetch_all(
        &self,
        room: &Room,
        server: &ServerName,
        event_id: &OwnedEventId,
        absent: Vec<OwnedEventId>,
    ) -> Result<Vec<Verified>, RemoteError> {
        let (room_id, rules) = (&room.room_id, &room.rules);
        if absent.len() <= SINGLY_MAX {
            return self.fetch(server, room_id, rules, &absent).await;
        }
        let whole: State = self.get(server, &path::state("state", room_id, event_id)).await?;
        let mut fetched = self.verified(room_id, rules, &[whole.auth_chain, whole.pdus].concat()).await?;
        if absent.contains(event_id) {
            let single: Single = self.get(server, &path::event(event_id)).await?;
            fetched.extend(self.verified(room_id, rules, &single.pdus).await?);
        }
        Ok(fetched)
    }
}
