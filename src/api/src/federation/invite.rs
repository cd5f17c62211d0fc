//! Invitations of users of this server.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use allod_server::config::Refusable;
use allod_server::inbound::invite::{Invitation, InviteError};
use http::StatusCode;
use ruma::{
    RoomVersionId,
    api::{
        error::{ErrorKind, IncompatibleRoomVersionErrorData},
        federation::membership::{
            RawStrippedState,
            create_invite::{v1, v2},
        },
    },
};
use serde_json::value::RawValue;

use super::{inbound, permit};
use crate::{
    app::App,
    auth::Origin,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(create_invite).endpoint(create_invite_v1)
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
async fn create_invite(app: App, origin: Origin, request: v2::Request) -> Result<v2::Response> {
    permit(&app, &origin, Refusable::Invites)?;
    let shown: Vec<Box<RawValue>> = request.invite_room_state.into_iter().filter_map(shown).collect();
    let invitation = Invitation {
        room_id: &request.room_id,
        event_id: &request.event_id,
        version: &request.room_version,
        event: &request.event,
        shown: &shown,
    };
    Ok(v2::Response::new(inbound(&app)?.invite(&origin, invitation).await?))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`: for rooms of versions 1 and 2, which are not taken.
async fn create_invite_v1(_: App, _: Origin, _: v1::Request) -> Result<v1::Response> {
    Err(InviteError::Version(RoomVersionId::V1).into())
}

#[allow(deprecated, reason = "servers of older versions of the specification send the stripped form")]
fn shown(event: RawStrippedState) -> Option<Box<RawValue>> {
    match event {
        RawStrippedState::Stripped(event) => Some(event.into_json()),
        RawStrippedState::Pdu(event) => Some(event),
        _ => None,
    }
}

impl From<InviteError> for Error {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::Version(version) => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::IncompatibleRoomVersion(IncompatibleRoomVersionErrorData::new(version)),
                "This server does not speak the room's version",
            ),
            InviteError::Invalid(why) => Self::invalid_param(why),
            InviteError::Blocked => Self::invite_blocked(),
            InviteError::UnknownUser => Self::not_found(error.to_string()),
            InviteError::Forbidden(why) => Self::forbidden(why),
            InviteError::Ingest(error) => error.into(),
            InviteError::Storage(error) => error.into(),
        }
    }
}
