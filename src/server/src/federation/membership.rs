//! Memberships that need other servers: joins, knocks, leaves and invitations of rooms or users elsewhere.
//!
//! What concerns only this server goes to the rooms' service. What needs the network is done in a task of its own, so
//! that it ends cleanly when the client goes away; a row says that a join is under way, so that a restart ends it too.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId, RoomVersionId, ServerName, UserId,
};
use serde_json::value::RawValue;

use super::{
    client::{EVENTS, FederationClient},
    policy::Policy,
    verify::Verifier,
};
use crate::{
    clock::Clock,
    database::Database,
    identity::Identity,
    numbers::RoomNumber,
    rooms::{Room, Rooms, ingest::Verified},
    tasks::Tasks,
    users::Users,
};

mod error;
mod invite;
mod join;
mod knock;
mod leave;
mod partial;
mod path;
mod resume;
mod summary;
mod template;
mod third_party;

pub use error::RemoteError;
pub use template::TemplateError;
pub use third_party::Bound;

/// Versions of rooms that users of this server may join. Events of versions 1 and 2 are not built here.
const VERSIONS: [RoomVersionId; 10] = [
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];
/// Servers that are asked for one thing.
const SERVERS_MAX: usize = 20;

/// What the service is made from.
#[derive(Clone, Debug)]
pub struct RemoteMembershipSources {
    /// The rows.
    pub database: Database,
    /// Rooms.
    pub rooms: Rooms,
    /// Users.
    pub users: Users,
    /// The server's name and signing key.
    pub identity: Identity,
    /// The time.
    pub clock: Clock,
    /// Where background tasks are started.
    pub tasks: Tasks,
    /// Other servers; none if federation is off.
    pub remote: Option<Remote>,
}

/// The ways to other servers.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Requests to them.
    pub client: FederationClient,
    /// Checks of their events.
    pub verifier: Verifier,
    /// Who may be spoken to.
    pub policy: Policy,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RemoteMembership(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: RemoteMembershipSources,
    /// One join of a room at a time: the second finds the room here.
    flights: Mutex<HashMap<OwnedRoomId, Weak<tokio::sync::Mutex<()>>>>,
    /// Rooms whose state is being fetched.
    completing: Mutex<HashSet<RoomNumber>>,
}

impl RemoteMembership {
    /// Makes the service, and ends the joins that were under way when the server was stopped.
    pub fn start(sources: RemoteMembershipSources) -> Self {
        let service =
            Self(Arc::new(Inner { sources, flights: Mutex::default(), completing: Mutex::default() }));
        if service.0.sources.remote.is_some() {
            service.start_resuming();
            service.resume_completing();
        }
        service
    }

    /// The room that a path names, and servers that may know it.
    pub async fn resolve(
        &self,
        name: &RoomOrAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RemoteError> {
        if let Ok(room_id) = <&RoomId>::try_from(name) {
            return Ok((room_id.to_owned(), Vec::new()));
        }
        let unknown = RemoteError::NotFound("This server knows no such room alias");
        let sources = &self.0.sources;
        if let Some(number) = sources.rooms.resolve_alias(name.as_str()).await? {
            return Ok((sources.rooms.get(number).await?.room_id.clone(), Vec::new()));
        }
        let Ok(alias) = <&RoomAliasId>::try_from(name) else { return Err(unknown) };
        let server = alias.server_name().to_owned();
        let Some(remote) = sources.remote.as_ref().filter(|_| server != sources.identity.server_name())
        else {
            return Err(unknown);
        };
        let found = remote.client.resolve_alias(alias).await?;
        let mut servers = found.servers;
        servers.push(server);
        Ok((found.room_id, servers))
    }

    async fn in_flight<T>(&self, room_id: &RoomId, work: impl Future<Output = T>) -> T {
        let flight = {
            let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.strong_count() > 0);
            let known = flights.get(room_id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let flight = Arc::new(tokio::sync::Mutex::new(()));
                flights.insert(room_id.to_owned(), Arc::downgrade(&flight));
                flight
            })
        };
        let _turn = flight.lock().await;
        work.await
    }

    /// The servers to ask, in order: without this one, those that may not be spoken to, and repetitions.
    fn candidates(&self, wanted: impl IntoIterator<Item = OwnedServerName>) -> Vec<OwnedServerName> {
        let Some(remote) = &self.0.sources.remote else { return Vec::new() };
        let mut candidates: Vec<OwnedServerName> = Vec::new();
        for server in wanted {
            if candidates.len() < SERVERS_MAX
                && !candidates.contains(&server)
                && server != self.0.sources.identity.server_name()
                && remote.policy.allows(&server)
            {
                candidates.push(server);
            }
        }
        candidates
    }

    fn remote(&self) -> Result<&Remote, RemoteError> {
        self.0.sources.remote.as_ref().ok_or(RemoteError::Refused)
    }

    /// Servers that told a user of a room that nobody here is in.
    async fn told_by(&self, room: &Room, user: &UserId) -> Result<Vec<OwnedServerName>, RemoteError> {
        let sources = &self.0.sources;
        let Some(user) = sources.users.number(user).await? else { return Ok(Vec::new()) };
        let mut servers: Vec<OwnedServerName> =
            sources.rooms.outside(room.number, user).await?.via.into_iter().collect();
        if let Some(member) = sources.rooms.member(room.number, user).await? {
            let event = sources.rooms.events().load(room.number, member.event).await?;
            servers.push(event.pdu(room)?.sender.server_name().to_owned());
        }
        Ok(servers)
    }
}

impl Remote {
    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        server: &ServerName,
        path: &str,
    ) -> Result<T, RemoteError> {
        let answer = self.client.send_json(server, http::Method::GET, path, None, EVENTS).await?;
        read(&answer)
    }

    async fn put<T: serde::de::DeserializeOwned>(
        &self,
        server: &ServerName,
        path: &str,
        body: &RawValue,
    ) -> Result<T, RemoteError> {
        let answer = self.client.send_json(server, http::Method::PUT, path, Some(body), EVENTS).await?;
        read(&answer)
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &RawValue) -> Result<T, RemoteError> {
    serde_json::from_str(answer.get()).map_err(|error| RemoteError::BadAnswer(error.to_string()))
}

/// A built event as JSON.
fn raw(json: &[u8]) -> Result<Box<RawValue>, RemoteError> {
    serde_json::from_slice(json).map_err(|error| RemoteError::BadAnswer(error.to_string()))
}

/// Vouches for an event that was built here.
fn own(signed: allod_matrix::event::build::Signed) -> Verified {
    Verified::vouch(Arc::new(signed.pdu), signed.json.into())
}
