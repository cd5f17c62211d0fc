//! Joining: here if somebody of this server is in the room, through another server if not.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::sync::Arc;

use allod_matrix::{auth::References, event::build::Signed};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedServerName, RoomId, RoomOrAliasId, RoomVersionId,
    ServerName, room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Remote, RemoteError, RemoteMembership, VERSIONS, path, raw,
    template::{Template, Wanted},
};
use crate::{
    database::Write,
    federation::client::{ClientError, EVENTS},
    rooms::{
        AppendError, Room,
        adopt::{Adopt, AdoptError, PartialState},
        ingest::Verified,
        membership::MembershipError,
        send::Caller,
    },
    tables::{
        outbox::{RemoteJoin, RemoteJoinRecord},
        rooms::Membership,
    },
};

/// How often events are fetched that an answer left out.
const FETCHES_MAX: usize = 3;
/// Events that are fetched at once.
const FETCHED_MAX: usize = 50;

/// The answer to `make_join`, and its like.
#[derive(Deserialize)]
pub(super) struct Made {
    pub(super) room_version: Option<RoomVersionId>,
    pub(super) event: Box<RawValue>,
}

/// The answer to `send_join`.
#[derive(Deserialize)]
struct Joined {
    #[serde(default)]
    auth_chain: Vec<Box<RawValue>>,
    #[serde(default)]
    state: Vec<Box<RawValue>>,
    #[serde(default)]
    event: Option<Box<RawValue>>,
    #[serde(default)]
    members_omitted: bool,
    #[serde(default)]
    servers_in_room: Vec<String>,
}

#[derive(Deserialize)]
struct Fetched {
    #[serde(default)]
    pdus: Vec<Box<RawValue>>,
}

impl RemoteMembership {
    /// Joins the caller to a room. What `content` says goes into the member event.
    pub async fn join(
        &self,
        name: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        caller: &Caller,
        content: Map<String, Value>,
    ) -> Result<Arc<Room>, RemoteError> {
        let (room_id, known_by) = self.resolve(name).await?;
        let via = [via, known_by].concat();
        match self.join_here(&room_id, caller, &content).await? {
            Here::Joined(room) => Ok(room),
            Here::Refused(error) if self.0.sources.remote.is_none() => Err(error),
            Here::Refused(error) => {
                let servers = self.servers_to_ask(&room_id, caller, via).await?;
                if servers.is_empty() {
                    return Err(error);
                }
                match self.spawn_join(&room_id, servers, caller, &content).await {
                    // Why this server does not let them in says more than that others do not know the room.
                    Err(other) if error.is_refusal() && !other.says_more() => Err(error),
                    joined => joined,
                }
            }
            Here::Unsure => {
                let servers = self.servers_to_ask(&room_id, caller, via).await?;
                match self.spawn_join(&room_id, servers, caller, &content).await {
                    // Nobody who knows better is there.
                    Err(other) if !other.says_more() => {
                        Ok(self.0.sources.rooms.join(&room_id, caller, content).await?)
                    }
                    joined => joined,
                }
            }
        }
    }

    /// Joins through one of these servers, in a task that goes on when the client goes away: halfway in is nowhere.
    async fn spawn_join(
        &self,
        room_id: &RoomId,
        servers: Vec<OwnedServerName>,
        caller: &Caller,
        content: &Map<String, Value>,
    ) -> Result<Arc<Room>, RemoteError> {
        let (service, room_id, caller, content) =
            (self.clone(), room_id.to_owned(), caller.clone(), content.clone());
        let work = async move { service.join_through(&room_id, &servers, &caller, &content).await };
        let joined = self.0.sources.tasks.spawn("remote join", work).await;
        joined.map_err(|_| RemoteError::Interrupted)?
    }

    /// Joins where the room is here already.
    async fn join_here(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        content: &Map<String, Value>,
    ) -> Result<Here, RemoteError> {
        let rooms = &self.0.sources.rooms;
        let Some(room) = rooms.find(room_id).await? else {
            return Ok(Here::Refused(MembershipError::UnknownRoom.into()));
        };
        if !rooms.has_local_member(&room).await? {
            if self.is_banned_lately(&room, caller).await? {
                return Err(RemoteError::Forbidden("You are banned from the room".to_owned()));
            }
            return Ok(Here::Refused(MembershipError::UnknownRoom.into()));
        }
        // That they are banned may be among what is not here yet.
        if rooms.is_partial(room.number) && !rooms.is_joined(room.number, caller.user).await? {
            return Ok(Here::Unsure);
        }
        match rooms.join(room_id, caller, content.clone()).await {
            Ok(room) => Ok(Here::Joined(room)),
            // Another server may be able to vouch for them.
            Err(error @ MembershipError::Append(AppendError::Forbidden(_)))
                if self.has_restricted_joins(&room).await? =>
            {
                Ok(Here::Refused(error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a ban is known that is no older than the last time that somebody here was in the room.
    async fn is_banned_lately(&self, room: &Room, caller: &Caller) -> Result<bool, RemoteError> {
        let rooms = &self.0.sources.rooms;
        let member = rooms.member(room.number, caller.user).await?;
        Ok(rooms.is_partial(room.number) && member.is_some_and(|member| member.membership == Membership::Ban))
    }

    async fn has_restricted_joins(&self, room: &Room) -> Result<bool, RemoteError> {
        let rules = self.0.sources.rooms.current_content(room, "m.room.join_rules", "").await?;
        let rule = rules.as_ref().and_then(|rules| rules.get("join_rule")?.as_str());
        Ok(matches!(rule, Some("restricted" | "knock_restricted")))
    }

    /// Those that the caller names, that know the alias or that invited; without these, those in the room as far as that is
    /// known; without any, the one that the room's id names.
    async fn servers_to_ask(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        mut named: Vec<OwnedServerName>,
    ) -> Result<Vec<OwnedServerName>, RemoteError> {
        let sources = &self.0.sources;
        let room = sources.rooms.find(room_id).await?;
        if let Some(room) = &room {
            named.extend(self.told_by(room, &caller.user_id).await?);
        }
        let mut servers = self.candidates(named);
        if let (Some(room), true) = (&room, servers.is_empty()) {
            let members = sources.rooms.members(room.number, Membership::Join).await?;
            let members: Vec<_> = members.into_iter().take(FETCHED_MAX).collect();
            let ids = sources.users.ids(&members).await?;
            let ids = ids.into_iter().flatten();
            servers = self.candidates(ids.map(|user_id| user_id.server_name().to_owned()));
        }
        if servers.is_empty() {
            servers = self.candidates(room_id.server_name().map(ToOwned::to_owned));
        }
        Ok(servers)
    }

    pub(super) async fn join_through(
        &self,
        room_id: &RoomId,
        servers: &[OwnedServerName],
        caller: &Caller,
        content: &Map<String, Value>,
    ) -> Result<Arc<Room>, RemoteError> {
        self.in_flight(room_id, async {
            // Somebody else may have brought the room here meanwhile.
            if let Ok(Here::Joined(room)) = self.join_here(room_id, caller, content).await {
                return Ok(room);
            }
            let key = (caller.user, self.0.sources.database.hash("remote join", room_id.as_str()));
            let mut best: Option<RemoteError> = None;
            // Servers that believe that the user is in the room.
            let mut told = Vec::new();
            for server in servers {
                let one = One { room_id, server, caller, content };
                let joined = self.join_through_one(one, servers, &mut told).await;
                match joined {
                    Ok(room) => {
                        self.forget_join(&key).await?;
                        return Ok(room);
                    }
                    Err(error) => {
                        tracing::info!(%room_id, %server, %error, "joining through a server failed");
                        let is_final = error.is_final();
                        if best.as_ref().is_none_or(|best| best.weight() < error.weight()) {
                            best = Some(error);
                        }
                        if is_final {
                            break;
                        }
                    }
                }
            }
            if !told.is_empty() {
                self.withdraw(room_id, &told, caller).await?;
            }
            self.forget_join(&key).await?;
            Err(best.unwrap_or(RemoteError::NotFound("No server is known that knows the room")))
        })
        .await
    }

    async fn join_through_one(
        &self,
        One { room_id, server, caller, content }: One<'_>,
        servers: &[OwnedServerName],
        told: &mut Vec<OwnedServerName>,
    ) -> Result<Arc<Room>, RemoteError> {
        let (sources, remote) = (&self.0.sources, self.remote()?);
        let wanted = Wanted { room_id, user_id: &caller.user_id, membership: Membership::Join, server };
        let made: Made =
            remote.get(server, &path::make("make_join", room_id, &caller.user_id, &VERSIONS)).await?;
        let version = supported(made.room_version)?;
        let rules = version.rules().ok_or_else(|| RemoteError::IncompatibleVersion(version.to_string()))?;
        let template = Template::read(&made.event, wanted)?;
        let own_content =
            sources.rooms.own_member_content(Membership::Join, caller.user, content.clone()).await?;
        let signed = template.build(wanted, own_content, &rules, &sources.identity, sources.clock.now())?;
        self.remember_join(room_id, server, servers, caller).await?;
        // Who has the members already does without them only if nobody is left to keep them right.
        let omit_members = match sources.rooms.find(room_id).await? {
            Some(room) => {
                sources.rooms.is_partial(room.number) || !sources.rooms.has_local_member(&room).await?
            }
            None => true,
        };
        let joined = remote.send_join(server, room_id, &signed, omit_members).await?;
        told.push(server.to_owned());
        self.take_over(server, room_id, &version, signed, joined).await
    }

    /// Checks what the other server shows of the room, and makes it known here.
    async fn take_over(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        version: &RoomVersionId,
        signed: Signed,
        joined: Joined,
    ) -> Result<Arc<Room>, RemoteError> {
        let (sources, remote) = (&self.0.sources, self.remote()?);
        let rules = version.rules().ok_or_else(|| RemoteError::IncompatibleVersion(version.to_string()))?;
        let event_id = signed.pdu.event_id.clone();
        let event = match &joined.event {
            Some(theirs) => remote.countersigned(room_id, &rules, &signed, theirs).await?,
            None => super::own(signed),
        };
        let state = remote.verified(room_id, &rules, &joined.state).await?;
        let auth_chain = remote.verified(room_id, &rules, &joined.auth_chain).await?;
        let state: Vec<Verified> =
            state.into_iter().filter(|event| event.pdu().event_id != event_id).collect();
        let (room_id, version) = (room_id.to_owned(), version.clone());
        let partial = joined.members_omitted.then(|| PartialState {
            via: server.to_owned(),
            servers: joined.servers_in_room.iter().filter_map(|it| ServerName::parse(it).ok()).collect(),
        });
        let mut adopt = Adopt { room_id, version, state, auth_chain, event, partial };
        for _ in 0..FETCHES_MAX {
            match sources.rooms.adopt(adopt.clone()).await {
                Ok(room) => {
                    self.start_completing(room.number);
                    return Ok(room);
                }
                Err(AdoptError::Missing(missing)) if !missing.is_empty() => {
                    let fetched = remote.fetch(server, &adopt.room_id, &rules, &missing).await?;
                    if fetched.is_empty() {
                        return Err(AdoptError::Missing(missing).into());
                    }
                    adopt.auth_chain.extend(fetched);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(RemoteError::BadAnswer("it does not show what the join needs".to_owned()))
    }

    async fn remember_join(
        &self,
        room_id: &RoomId,
        server: &ServerName,
        servers: &[OwnedServerName],
        caller: &Caller,
    ) -> Result<(), RemoteError> {
        let sources = &self.0.sources;
        let others = servers.iter().filter(|other| *other != server).map(ToString::to_string);
        let record = RemoteJoinRecord {
            room_id: room_id.to_string(),
            servers: std::iter::once(server.to_string()).chain(others).collect(),
            since_ms: sources.clock.now_ms(),
        };
        let mut write = Write::new();
        let key = (caller.user, sources.database.hash("remote join", room_id.as_str()));
        write.put::<RemoteJoin>(&key, &record);
        sources.database.commit(write).await.map_err(crate::database::Error::from)?;
        Ok(())
    }

    pub(super) async fn forget_join(
        &self,
        key: &(crate::numbers::UserNumber, crate::numbers::Hash128),
    ) -> Result<(), RemoteError> {
        let database = &self.0.sources.database;
        if database.get::<RemoteJoin>(key).await?.is_some() {
            let mut write = Write::new();
            write.delete::<RemoteJoin>(key);
            database.commit(write).await.map_err(crate::database::Error::from)?;
        }
        Ok(())
    }
}

/// One attempt to join through a server.
#[derive(Clone, Copy)]
struct One<'a> {
    room_id: &'a RoomId,
    server: &'a ServerName,
    caller: &'a Caller,
    content: &'a Map<String, Value>,
}

/// What became of joining without other servers.
enum Here {
    Joined(Arc<Room>),
    Refused(RemoteError),
    /// Members are missing here: another server knows better.
    Unsure,
}

/// The version that a template is for; servers that name none have rooms of version 1 or 2.
pub(super) fn supported(version: Option<RoomVersionId>) -> Result<RoomVersionId, RemoteError> {
    let version = version.unwrap_or(RoomVersionId::V1);
    if VERSIONS.contains(&version) {
        Ok(version)
    } else {
        Err(RemoteError::IncompatibleVersion(version.to_string()))
    }
}

impl Remote {
    /// Hands a signed join to a server; to an old one in the first version of the endpoint.
    async fn send_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        signed: &Signed,
        omit_members: bool,
    ) -> Result<Joined, RemoteError> {
        let event = raw(&signed.json)?;
        let mut path = path::send("send_join", 2, room_id, &signed.pdu.event_id);
        if omit_members {
            path.push_str("?omit_members=true");
        }
        match self.client.send_json(server, http::Method::PUT, &path, Some(&event), EVENTS).await {
            Ok(answer) => super::read(&answer),
            Err(ClientError::Status { status, errcode, .. })
                if errcode == "M_UNRECOGNIZED" && status.is_client_error() =>
            {
                let path = path::send("send_join", 1, room_id, &signed.pdu.event_id);
                let answer =
                    self.client.send_json(server, http::Method::PUT, &path, Some(&event), EVENTS).await?;
                let (_, joined): (u16, Joined) = super::read(&answer)?;
                Ok(joined)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Those of the events whose signatures are good.
    pub(super) async fn verified(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        events: &[Box<RawValue>],
    ) -> Result<Vec<Verified>, RemoteError> {
        let checked = self.verifier.check(room_id, rules, events, References::Unlimited).await?;
        Ok(checked.into_iter().filter_map(Result::ok).collect())
    }

    /// The event as it was built here, with the signatures that the other server added to its copy of it.
    pub(super) async fn countersigned(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        signed: &Signed,
        theirs: &RawValue,
    ) -> Result<Verified, RemoteError> {
        let merged = merge_signatures(&signed.json, theirs)?;
        match self.verifier.check_one(room_id, rules, &merged, References::Limited).await? {
            Ok(event) if event.pdu().event_id == signed.pdu.event_id => Ok(event),
            Ok(_) => Err(RemoteError::BadAnswer("it signed another event".to_owned())),
            Err(error) => Err(RemoteError::BadAnswer(error.to_string())),
        }
    }

    pub(super) async fn fetch(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        missing: &[ruma::OwnedEventId],
    ) -> Result<Vec<Verified>, RemoteError> {
        let mut fetched = Vec::new();
        for event_id in missing.iter().take(FETCHED_MAX) {
            let event_id: &EventId = event_id;
            let answer: Fetched = self.get(server, &path::event(event_id)).await?;
            let events = self.verified(room_id, rules, &answer.pdus).await?;
            fetched.extend(events.into_iter().filter(|event| event.pdu().event_id == event_id));
        }
        Ok(fetched)
    }
}

/// Puts other servers' signatures of a copy into the event that was built here: nothing else of the copy is used.
fn merge_signatures(own: &[u8], copy: &RawValue) -> Result<Box<RawValue>, RemoteError> {
    let malformed = |error: serde_json::Error| RemoteError::BadAnswer(error.to_string());
    let mut event: CanonicalJsonObject = serde_json::from_slice(own).map_err(malformed)?;
    let mut copy: CanonicalJsonObject = serde_json::from_str(copy.get()).map_err(malformed)?;
    if let (Some(CanonicalJsonValue::Object(ours)), Some(CanonicalJsonValue::Object(theirs))) =
        (event.get_mut("signatures"), copy.remove("signatures"))
    {
        for (server, signatures) in theirs {
            ours.entry(server).or_insert(signatures);
        }
    }
    serde_json::value::to_raw_value(&event).map_err(malformed)
}
