//! Invitations of users of this server by other servers.
//!
//! This server's signature goes only under the invitation of a user of its own that was checked field by field, as it
//! came from the inviter's server (CVE-2025-68667: an endpoint that signed whatever came).
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use std::sync::Arc;

use allod_matrix::{auth::References, event::countersign, stripped};
use ruma::{
    CanonicalJsonObject, EventId, OwnedUserId, RoomId, RoomVersionId, ServerName,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::Inbound;
use crate::{
    database::Error,
    federation::verify::Verifier,
    invite_rules,
    rooms::{
        Room,
        ingest::{Incoming, IngestError, IngestOutcome, Placement, Verified},
        outside::OutsideMember,
    },
    tables::rooms::{EventStatus, Membership},
};

/// Why an invitation is not taken.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// This server does not speak the room's version.
    #[error("this server does not speak this room version")]
    Version(RoomVersionId),
    /// It is not what it should be.
    #[error("{0}")]
    Invalid(String),
    /// The user does not want to be invited by this one.
    #[error("the user does not take invitations from you")]
    Blocked,
    /// There is no such user here.
    #[error("there is no such user")]
    UnknownUser,
    /// The room or the user does not take it.
    #[error("{0}")]
    Forbidden(String),
    /// The room's task did not take it.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// An invitation as it comes.
#[derive(Clone, Copy, Debug)]
pub struct Invitation<'a> {
    /// The room of the path.
    pub room_id: &'a RoomId,
    /// The event's id of the path.
    pub event_id: &'a EventId,
    /// The room's version.
    pub version: &'a RoomVersionId,
    /// The event.
    pub event: &'a RawValue,
    /// What the invited user is shown of the room.
    pub shown: &'a [Box<RawValue>],
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    sender: OwnedUserId,
    state_key: OwnedUserId,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    membership: String,
}

impl Inbound {
    /// Takes an invitation, and returns it with this server's signature.
    pub async fn invite(
        &self,
        origin: &ServerName,
        invitation: Invitation<'_>,
    ) -> Result<Box<RawValue>, InviteError> {
        let version = invitation.version;
        let rules = version.rules().filter(|rules| rules.event_id_format != EventIdFormatVersion::V1);
        let rules = rules.ok_or_else(|| InviteError::Version(version.clone()))?;
        let fields = check_fields(origin, &invitation, &rules)?;
        let room = self.0.rooms.find(invitation.room_id).await?;
        if let Some(room) = &room {
            self.check_room(origin, room, version).await?;
        }
        self.invited(&fields).await?;
        if let Some(reason) = self.0.rooms.refusal(invitation.room_id) {
            return Err(InviteError::Forbidden(reason.to_owned()));
        }
        self.verified(&invitation, &rules, invitation.event).await?;
        check_create(&invitation, &rules)?;

        let invalid = |error: &dyn std::fmt::Display| InviteError::Invalid(error.to_string());
        let mut object: CanonicalJsonObject =
            serde_json::from_str(invitation.event.get()).map_err(|error| invalid(&error))?;
        let (name, key) = (self.0.identity.server_name(), self.0.identity.key());
        countersign(&mut object, name, &rules, key).map_err(|error| invalid(&error))?;
        let signed = to_raw_value(&object).map_err(|error| invalid(&error))?;
        let event = self.verified(&invitation, &rules, &signed).await?;
        self.note(origin, &invitation, room, fields.state_key, event).await?;
        Ok(signed)
    }

    /// Stores an invitation: in the room, if somebody of this server is there, else beside it.
    async fn note(
        &self,
        origin: &ServerName,
        invitation: &Invitation<'_>,
        room: Option<Arc<Room>>,
        user_id: OwnedUserId,
        event: Verified,
    ) -> Result<(), InviteError> {
        if let Some(room) = room
            && self.0.rooms.has_local_member(&room).await?
        {
            let answers = self.0.rooms.ingest(&room, vec![Incoming::new(event, Placement::Live)]).await?;
            // What it builds on comes with the room's other events, and this once more among them.
            return match answers.into_iter().next().map(|answer| answer.outcome) {
                Some(IngestOutcome::Stored {
                    status: EventStatus::Rejected | EventStatus::SoftFailed,
                    reason,
                    ..
                }) => Err(InviteError::Forbidden(reason.unwrap_or_default())),
                _ => Ok(()),
            };
        }
        // What is known of a room that nobody here is in any more may be long past, a ban too: the room's servers judge.
        let stripped = stripped::accept(invitation.shown.iter().map(|event| &**event));
        let member = OutsideMember {
            room_id: invitation.room_id.to_owned(),
            version: invitation.version.clone(),
            user: user_id,
            event,
            stripped,
            via: origin.to_owned(),
        };
        self.0.rooms.set_outside(member).await?;
        Ok(())
    }

    /// What a server says about users of this server in a room that nobody here is in: that an invitation is taken back,
    /// or a knock refused.
    pub(super) async fn hear_from_outside(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        events: &[Box<RawValue>],
    ) -> Result<(), Error> {
        let Some(room) = self.0.rooms.find(room_id).await? else { return Ok(()) };
        for raw in events {
            let Ok(fields) = serde_json::from_str::<Fields>(raw.get()) else { continue };
            let is_end = fields.kind == "m.room.member"
                && matches!(fields.content.membership.as_str(), "leave" | "ban")
                && self.0.users.is_local(&fields.state_key);
            if !is_end || fields.sender.server_name() != origin {
                continue;
            }
            if !self.may_end(&room, &fields).await? {
                continue;
            }
            let checked = self.0.verifier.check_one(room_id, &room.rules, raw, References::Limited).await?;
            let Ok(event) = checked else { continue };
            let member = OutsideMember {
                room_id: room_id.to_owned(),
                version: room.version.clone(),
                user: fields.state_key,
                event,
                stripped: Vec::new(),
                via: origin.to_owned(),
            };
            self.0.rooms.set_outside(member).await?;
        }
        Ok(())
    }

    /// Whether somebody may end what a user of this server waits for: an invitation only who sent it, since nobody here
    /// can tell what power others have in the room; a knock anybody there.
    async fn may_end(&self, room: &Room, fields: &Fields) -> Result<bool, Error> {
        let Some(user) = self.0.users.number(&fields.state_key).await? else { return Ok(false) };
        let Some(member) = self.0.rooms.member(room.number, user).await? else { return Ok(false) };
        match member.membership {
            Membership::Knock => Ok(true),
            Membership::Invite => {
                let invite = self.0.rooms.events().load(room.number, member.event).await?;
                Ok(self.0.users.number(&fields.sender).await? == Some(invite.record.sender))
            }
            Membership::Join | Membership::Leave | Membership::Ban => Ok(false),
        }
    }

    async fn check_room(
        &self,
        origin: &ServerName,
        room: &Room,
        version: &RoomVersionId,
    ) -> Result<(), InviteError> {
        if room.version != *version {
            return Err(InviteError::Invalid("the room is of another version".to_owned()));
        }
        if !self.0.rooms.allows_server(room, origin).await? {
            let why = "the room's access control list keeps your server out";
            return Err(InviteError::Forbidden(why.to_owned()));
        }
        Ok(())
    }

    /// The invited user, if there is an account that can be invited.
    async fn invited(&self, fields: &Fields) -> Result<(), InviteError> {
        if !self.0.users.is_local(&fields.state_key) {
            return Err(InviteError::Invalid("the invited user is not of this server".to_owned()));
        }
        let user = self.0.users.number(&fields.state_key).await?.ok_or(InviteError::UnknownUser)?;
        let account = self.0.users.account(user).await?.ok_or(InviteError::UnknownUser)?;
        if account.deactivated_ms.is_some() {
            return Err(InviteError::UnknownUser);
        }
        match self.0.rooms.invite_rules(user).await?.judge(&fields.sender) {
            invite_rules::Verdict::Block => Err(InviteError::Blocked),
            _ => Ok(()),
        }
    }

    async fn verified(
        &self,
        invitation: &Invitation<'_>,
        rules: &RoomVersionRules,
        event: &RawValue,
    ) -> Result<Verified, InviteError> {
        let checked =
            self.0.verifier.check_one(invitation.room_id, rules, event, References::Limited).await?;
        checked.map_err(|error| InviteError::Invalid(error.to_string()))
    }
}

fn check_fields(
    origin: &ServerName,
    invitation: &Invitation<'_>,
    rules: &RoomVersionRules,
) -> Result<Fields, InviteError> {
    let invalid = |what: &str| InviteError::Invalid(what.to_owned());
    let fields: Fields =
        serde_json::from_str(invitation.event.get()).map_err(|_| invalid("the event is no membership"))?;
    if fields.kind != "m.room.member" || fields.content.membership != "invite" {
        return Err(invalid("the event is no invitation"));
    }
    if fields.sender.server_name() != origin {
        return Err(invalid("the sender is not of your server"));
    }
    if Verifier::event_id(invitation.event, rules).as_deref() != Some(invitation.event_id) {
        return Err(invalid("the event has another id"));
    }
    Ok(fields)
}

/// Where a room's id is the hash of its create event, one that is shown must be that.
fn check_create(invitation: &Invitation<'_>, rules: &RoomVersionRules) -> Result<(), InviteError> {
    #[derive(Deserialize)]
    struct Shown {
        #[serde(rename = "type")]
        kind: String,
        hashes: Option<serde::de::IgnoredAny>,
    }
    if rules.event_format.require_room_create_room_id {
        return Ok(());
    }
    for event in invitation.shown {
        let Ok(shown) = serde_json::from_str::<Shown>(event.get()) else { continue };
        if shown.kind != "m.room.create" || shown.hashes.is_none() {
            continue;
        }
        let named = Verifier::event_id(event, rules);
        let named = named.as_ref().and_then(|event_id| event_id.as_str().strip_prefix('$'));
        if named != Some(invitation.room_id.strip_sigil()) {
            return Err(InviteError::Invalid("the create event is another room's".to_owned()));
        }
    }
    Ok(())
}
