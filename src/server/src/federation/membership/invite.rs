//! Inviting users of other servers: their server signs the invitation before it is part of the room.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use std::sync::Arc;

use allod_matrix::{event::build::Signed, stripped};
use ruma::{RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{RemoteError, RemoteMembership, path, raw};
use crate::{
    config::Refusable,
    federation::policy::Direction,
    rooms::{
        AppendError, Room,
        ingest::{Incoming, IngestOutcome, Placement},
        membership::MembershipOptions,
        send::Caller,
    },
    tables::rooms::EventStatus,
};

#[derive(Serialize)]
struct Body<'a> {
    room_version: &'a str,
    event: &'a RawValue,
    invite_room_state: &'a [Box<RawValue>],
}

#[derive(Deserialize)]
struct Invited {
    event: Box<RawValue>,
}

impl RemoteMembership {
    /// Invites a user, of whatever server.
    pub async fn invite(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        target: &UserId,
        options: &MembershipOptions,
    ) -> Result<(), RemoteError> {
        let sources = &self.0.sources;
        let Some(remote) = sources.remote.as_ref().filter(|_| !sources.rooms.is_ours(target)) else {
            sources.rooms.invite(room_id, caller, target, options).await?;
            return Ok(());
        };
        let asked = remote.policy.may_talk_to(target.server_name(), Direction::Outbound);
        asked.map_err(|_| RemoteError::Refused)?;
        let invites = remote.policy.permits(target.server_name(), Refusable::Invites, Direction::Outbound);
        invites.map_err(|_| RemoteError::Refused)?;
        sources.rooms.check_entry(room_id)?;
        let room = sources.rooms.known(room_id).await?;
        if !sources.rooms.is_joined(room.number, caller.user).await? {
            return Err(AppendError::Forbidden("you are not in this room".to_owned()).into());
        }
        let signed = sources.rooms.invitation(&room, caller, target, options).await?;
        let (service, room, target) = (self.clone(), Arc::clone(&room), target.to_owned());
        let work = async move { service.send_invitation(&room, &target, signed).await };
        sources.tasks.spawn("remote invite", work).await.map_err(|_| RemoteError::Interrupted)?
    }

    pub(super) async fn send_invitation(
        &self,
        room: &Arc<Room>,
        target: &UserId,
        signed: Signed,
    ) -> Result<(), RemoteError> {
        let (sources, remote) = (&self.0.sources, self.remote()?);
        let event = raw(&signed.json)?;
        let shown = self.shown_to_invited(room, &signed).await?;
        let body = Body { room_version: room.version.as_str(), event: &event, invite_room_state: &shown };
        let body = serde_json::value::to_raw_value(&body)
            .map_err(|error| RemoteError::BadAnswer(error.to_string()))?;
        let path = path::send("invite", 2, &room.room_id, &signed.pdu.event_id);
        let invited: Invited = remote.put(target.server_name(), &path, &body).await?;
        let event = remote.countersigned(&room.room_id, &room.rules, &signed, &invited.event).await?;
        let incoming = Incoming::new(event, Placement::Live);
        let outcome = sources.rooms.ingest(room, vec![incoming]).await?.pop().map(|event| event.outcome);
        match outcome {
            Some(
                IngestOutcome::Stored { status: EventStatus::Timeline, .. } | IngestOutcome::Known { .. },
            ) => Ok(()),
            // The room changed while the other server was asked.
            Some(IngestOutcome::Stored { reason, .. }) => {
                Err(AppendError::Forbidden(reason.unwrap_or_else(|| "not allowed any more".to_owned()))
                    .into())
            }
            Some(IngestOutcome::Missing(_)) | None => Err(AppendError::Busy.into()),
        }
    }

    /// What the invited user is shown of the room: whole events since MSC4311.
    async fn shown_to_invited(
        &self,
        room: &Room,
        signed: &Signed,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        let rooms = &self.0.sources.rooms;
        let mut shown = Vec::new();
        for (kind, state_key) in stripped::keys(Some(&signed.pdu.sender)) {
            if let Some(event) = rooms.current_event(room, kind, &state_key).await? {
                shown.push(raw(&event.json)?);
            }
        }
        Ok(shown)
    }
}
