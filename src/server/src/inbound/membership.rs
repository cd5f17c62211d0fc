//! Joins, leaves and knocks of users of other servers through this one: the template, and the signed event that comes
//! back.
//!
//! What comes back is checked field by field before anything else is done with it, and this server's signature is added
//! to a join only after that, in the name of a user of its own who may let others in.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::{collections::BTreeSet, sync::Arc};

use allod_matrix::{auth::References, event::countersign, stripped};
use ruma::{CanonicalJsonObject, EventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{Inbound, serve::ServeError, standing::Standing};
use crate::{
    database::Error,
    numbers::{EventNumber, UserNumber},
    rooms::{
        Room,
        event::StoredEvent,
        ingest::{Incoming, IngestError, IngestOutcome, Placement, ToldBy, Verified},
        membership,
        template::TemplateError,
    },
    tables::rooms::{EventStatus, Membership},
};

/// Why a user of another server does not come in, or go, this way.
#[derive(Debug, thiserror::Error)]
pub enum ThroughError {
    /// The server has no business in the room.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The user is not the asking server's.
    #[error("the user is not of your server")]
    OtherServersUser,
    /// The asking server does not speak the room's version.
    #[error("the room's version is {0}, which your server does not speak")]
    Version(RoomVersionId),
    /// There is no such event.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The event is not what it should be.
    #[error("{0}")]
    Invalid(String),
    /// The room's rules forbid it.
    #[error("{0}")]
    Forbidden(String),
    /// The room did not take it.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// A template and what its signer must know.
#[derive(Clone, Debug)]
pub struct Template {
    /// The room's version.
    pub version: RoomVersionId,
    /// The event, unsigned.
    pub event: Map<String, Value>,
}

/// What a joining server is told.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The join, with this server's signature if it needs that.
    pub event: Box<RawValue>,
    /// The state before it.
    pub state: Vec<Arc<StoredEvent>>,
    /// What allows that.
    pub auth_chain: Vec<Arc<StoredEvent>>,
    /// The servers in the room.
    pub servers: Vec<String>,
    /// Whether members were left out of the state.
    pub members_omitted: bool,
}

/// An event that a user of another server sends into a room, on its way through this server.
struct Through {
    room: Arc<Room>,
    raw: Box<RawValue>,
}

/// Members whose events go with a state that leaves the others out.
const HEROES: usize = 5;

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    sender: OwnedUserId,
    state_key: Option<OwnedUserId>,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    membership: String,
    join_authorised_via_users_server: Option<OwnedUserId>,
}

impl Inbound {
    /// A member event for a user of the asking server to sign. `versions` are those that it speaks; `None` does not ask.
    pub async fn template(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        membership: Membership,
        versions: Option<&[RoomVersionId]>,
    ) -> Result<Template, ThroughError> {
        let room = self.room_open_to(server, room_id).await?;
        if user_id.server_name() != server {
            return Err(ThroughError::OtherServersUser);
        }
        if versions.is_some_and(|versions| !versions.contains(&room.version)) {
            return Err(ThroughError::Version(room.version.clone()));
        }
        let event = self.0.rooms.template(&room, user_id, membership).await?;
        Ok(Template { version: room.version.clone(), event })
    }

    /// Takes a signed join, and tells what the joining server needs to take part.
    pub async fn join_through(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: &RawValue,
        omit_members: bool,
    ) -> Result<Joined, ThroughError> {
        let mut through = self.through(server, room_id, event_id, event, Membership::Join).await?;
        self.countersign(&mut through).await?;
        let stored = self.take(&through, event_id).await?;
        let rooms = &self.0.rooms;
        let state = rooms.state_of(&through.room, stored.record.state_before, None).await?;
        let servers = servers_in(&through.room, &state)?;
        if !omit_members {
            let auth_chain = rooms.auth_chain(&through.room, &state).await?;
            return Ok(Joined { event: through.raw, state, auth_chain, servers, members_omitted: false });
        }
        let state = without_members(state, stored.record.sender);
        let mut needed = state.clone();
        needed.push(stored);
        let mut auth_chain = rooms.auth_chain(&through.room, &needed).await?;
        let shown: BTreeSet<EventNumber> = state.iter().map(|event| event.number).collect();
        auth_chain.retain(|event| !shown.contains(&event.number));
        Ok(Joined { event: through.raw, state, auth_chain, servers, members_omitted: true })
    }

    /// Takes a signed leave.
    pub async fn leave_through(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: &RawValue,
    ) -> Result<(), ThroughError> {
        let through = self.through(server, room_id, event_id, event, Membership::Leave).await?;
        self.take(&through, event_id).await?;
        Ok(())
    }

    /// Takes a signed knock, and shows what somebody at the door may see of the room.
    pub async fn knock_through(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: &RawValue,
    ) -> Result<Vec<Arc<StoredEvent>>, ThroughError> {
        let through = self.through(server, room_id, event_id, event, Membership::Knock).await?;
        self.take(&through, event_id).await?;
        let root = self.0.rooms.current_root(through.room.number).await?;
        let mut shown = Vec::new();
        for (kind, state_key) in stripped::keys(None) {
            shown.extend(self.0.rooms.state_event_of(&through.room, root, kind, &state_key).await?);
        }
        Ok(shown)
    }

    /// A room that a server may come into. Not one of which members are missing: it could not be shown.
    async fn room_open_to(&self, server: &ServerName, room_id: &RoomId) -> Result<Arc<Room>, ThroughError> {
        match self.standing(server, room_id).await? {
            Standing::Allowed(room) | Standing::Outside(room) if self.0.rooms.is_partial(room.number) => {
                Err(ServeError::UnknownRoom.into())
            }
            Standing::Allowed(room) | Standing::Outside(room) => Ok(room),
            Standing::Denied => Err(ServeError::Denied.into()),
            Standing::Unknown => Err(ServeError::UnknownRoom.into()),
        }
    }

    /// The event, if it is what the endpoint is for: the user's own membership, of a user of the asking server.
    async fn through(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: &RawValue,
        membership: Membership,
    ) -> Result<Through, ThroughError> {
        let room = self.room_open_to(server, room_id).await?;
        let invalid = |what: &str| ThroughError::Invalid(what.to_owned());
        let fields: Fields =
            serde_json::from_str(event.get()).map_err(|_| invalid("the event is no membership"))?;
        if fields.kind != "m.room.member" || fields.content.membership != membership.as_str() {
            return Err(invalid("the event is another one than this endpoint takes"));
        }
        if fields.state_key.as_ref() != Some(&fields.sender) {
            return Err(invalid("the event is about somebody else than its sender"));
        }
        if fields.sender.server_name() != server {
            return Err(invalid("the sender is not of your server"));
        }
        let named = crate::federation::verify::Verifier::event_id(event, &room.rules);
        if named.as_deref() != Some(event_id) {
            return Err(invalid("the event has another id"));
        }
        Ok(Through { room, raw: event.to_owned() })
    }

    /// Adds this server's signature to a join that needs it: one in the name of a local user, whom this server itself
    /// would name.
    async fn countersign(&self, through: &mut Through) -> Result<(), ThroughError> {
        let fields: Fields = serde_json::from_str(through.raw.get())
            .map_err(|_| ThroughError::Invalid("the event is no membership".to_owned()))?;
        let Some(authoriser) = fields.content.join_authorised_via_users_server else { return Ok(()) };
        if authoriser.server_name() != self.0.users.server_name() {
            return Ok(());
        }
        // The signatures and the room are checked before this one leaves: `take` refuses the event otherwise.
        if self.0.rooms.authoriser_for(&through.room, &fields.sender).await?.is_none() {
            return Err(ThroughError::Invalid("nobody has to let this user in".to_owned()));
        }
        let invalid = |error: &dyn std::fmt::Display| ThroughError::Invalid(error.to_string());
        let mut object: CanonicalJsonObject =
            serde_json::from_str(through.raw.get()).map_err(|error| invalid(&error))?;
        let (name, key) = (self.0.identity.server_name(), self.0.identity.key());
        countersign(&mut object, name, &through.room.rules, key).map_err(|error| invalid(&error))?;
        through.raw = to_raw_value(&object).map_err(|error| invalid(&error))?;
        Ok(())
    }

    /// Checks signatures, hands the event to the room, and on to the other servers.
    async fn take(&self, through: &Through, event_id: &EventId) -> Result<Arc<StoredEvent>, ThroughError> {
        let room = &through.room;
        let checked =
            self.0.verifier.check_one(&room.room_id, &room.rules, &through.raw, References::Limited).await?;
        let event: Verified = checked.map_err(|error| ThroughError::Invalid(error.to_string()))?;
        let mut incoming = Incoming::new(event, Placement::Live);
        incoming.told_by = ToldBy::Us;
        let answers = self.0.rooms.ingest(room, vec![incoming]).await?;
        let outcome = answers.into_iter().next().map(|answer| answer.outcome);
        match outcome {
            Some(
                IngestOutcome::Known { status: EventStatus::Timeline, .. }
                | IngestOutcome::Stored { status: EventStatus::Timeline, .. },
            ) => {}
            Some(IngestOutcome::Stored { reason, .. }) => {
                return Err(ThroughError::Forbidden(
                    reason.unwrap_or_else(|| "the event is refused".to_owned()),
                ));
            }
            Some(IngestOutcome::Known { .. }) => {
                return Err(ThroughError::Forbidden("the event was refused before".to_owned()));
            }
            Some(IngestOutcome::Missing(_)) | None => {
                return Err(ThroughError::Invalid("the event builds on others that are not here".to_owned()));
            }
        }
        let event = self.0.rooms.event(room, event_id).await?;
        event.ok_or_else(|| ThroughError::Invalid("the event has another id".to_owned()))
    }
}

/// The servers whose users have joined in a state.
fn servers_in(room: &Room, state: &[Arc<StoredEvent>]) -> Result<Vec<String>, Error> {
    let mut servers = BTreeSet::new();
    for event in state.iter().filter(|event| event.record.kind == "m.room.member") {
        let joined = membership::of(&*event.pdu(room)?) == Some(Membership::Join);
        let user_id = event.record.state_key.as_deref().and_then(|id| <&UserId>::try_from(id).ok());
        servers.extend(user_id.filter(|_| joined).map(|user_id| user_id.server_name().to_string()));
    }
    Ok(servers.into_iter().collect())
}

/// A state with those members only that a client names a room without a name after, and the one who joins.
fn without_members(mut state: Vec<Arc<StoredEvent>>, joining: UserNumber) -> Vec<Arc<StoredEvent>> {
    let names = ["m.room.name", "m.room.canonical_alias"];
    let is_named = state.iter().any(|event| names.contains(&event.record.kind.as_str()));
    let mut heroes = if is_named { 0 } else { HEROES };
    state.retain(|event| {
        if event.record.kind != "m.room.member" {
            return true;
        }
        let is_kept = heroes > 0 || event.record.sender == joining;
        heroes = heroes.saturating_sub(1);
        is_kept
    });
    state
}
