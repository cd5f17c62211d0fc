//! Room membership.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-membership>

use std::sync::Arc;

use allod_server::{
    federation::membership::RemoteError,
    rooms::{
        AppendError, BuildError, Room,
        membership::{MembershipError, MembershipOptions},
    },
};
use http::StatusCode;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomOrAliasId, RoomVersionId,
    api::{
        client::{
            knock::knock_room::v3 as knock,
            membership::{
                ban_user::v3 as ban,
                forget_room::v3 as forget,
                invite_user::v3::{self as invite, InvitationRecipient},
                join_room_by_id::v3 as join_by_id,
                join_room_by_id_or_alias::v3 as join,
                kick_user::v3 as kick,
                leave_room::v3 as leave,
                unban_user::v3 as unban,
            },
        },
        error::{ErrorKind, IncompatibleRoomVersionErrorData},
    },
};

use serde_json::{Map, Value};

use crate::{
    app::App,
    auth::{Active, Guest, Session},
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
    wrapped::WithBody,
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(join_room_by_id)
        .endpoint(join_room_by_id_or_alias)
        .endpoint(knock_room)
        .endpoint(invite_user)
        .endpoint(leave_room)
        .endpoint(kick_user)
        .endpoint(ban_user)
        .endpoint(unban_user)
        .endpoint(forget_room)
}

fn with_reason(reason: Option<String>) -> MembershipOptions {
    MembershipOptions { reason, is_direct: None }
}

/// The id of the room that a path names by id or alias.
pub(crate) async fn room_id_of(app: &App, name: &RoomOrAliasId) -> Result<OwnedRoomId> {
    let not_found = || Error::not_found("This server knows no such room or room alias");
    if let Ok(room_id) = <&ruma::RoomId>::try_from(name) {
        return Ok(room_id.to_owned());
    }
    let number = app.rooms.resolve_alias(name.as_str()).await?.ok_or_else(not_found)?;
    Ok(app.rooms.get(number).await?.room_id.clone())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
async fn join_room_by_id(
    app: App,
    session: Guest,
    joining: WithBody<join_by_id::Request>,
) -> Result<join_by_id::Response> {
    let room_id = <&RoomOrAliasId>::from(&*joining.request.room_id);
    let room = join_any(&app, &session, room_id, Vec::new(), joining.body).await?;
    Ok(join_by_id::Response::new(room.room_id.clone()))
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
async fn join_room_by_id_or_alias(
    app: App,
    session: Guest,
    joining: WithBody<join::Request>,
) -> Result<join::Response> {
    let join::Request { room_id_or_alias, via, .. } = joining.request;
    let room = join_any(&app, &session, &room_id_or_alias, via, joining.body).await?;
    Ok(join::Response::new(room.room_id.clone()))
}

async fn join_any(
    app: &App,
    session: &Session,
    room: &RoomOrAliasId,
    via: Vec<OwnedServerName>,
    content: Map<String, Value>,
) -> Result<Arc<Room>> {
    if session.suspended {
        return Err(Error::user_suspended());
    }
    if session.guest {
        // Guests stay on this server.
        app.rooms.check_guest_access(&room_id_of(app, room).await?).await?;
    }
    let caller = caller(session);
    let room = app.memberships.join(room, via, &caller, content).await?;
    app.succession.joined(&caller, &room).await?;
    Ok(room)
}

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
async fn knock_room(app: App, session: Active, request: knock::Request) -> Result<knock::Response> {
    let knock::Request { room_id_or_alias, reason, via, .. } = request;
    let options = with_reason(reason);
    let room = app.memberships.knock(&room_id_or_alias, via, &caller(&session), &options).await?;
    Ok(knock::Response::new(room.room_id.clone()))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
async fn invite_user(app: App, session: Active, request: invite::Request) -> Result<invite::Response> {
    let InvitationRecipient::UserId(recipient) = request.recipient else {
        return Err(Error::new(
            StatusCode::BAD_REQUEST,
            ErrorKind::ThreepidDenied,
            "This server does not invite by e-mail address or telephone number",
        ));
    };
    let options = with_reason(recipient.reason);
    app.memberships.invite(&request.room_id, &caller(&session), &recipient.user_id, &options).await?;
    Ok(invite::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/leave`
async fn leave_room(app: App, session: Guest, request: leave::Request) -> Result<leave::Response> {
    let caller = caller(&session);
    if !app.server_notices.may_leave(&caller, &request.room_id).await? {
        let message = "Invitations to the room of the server's notices cannot be refused";
        return Err(Error::new(StatusCode::FORBIDDEN, ErrorKind::CannotLeaveServerNoticeRoom, message));
    }
    app.memberships.leave(&request.room_id, &caller, &with_reason(request.reason)).await?;
    Ok(leave::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/kick`
async fn kick_user(app: App, session: Active, request: kick::Request) -> Result<kick::Response> {
    let options = with_reason(request.reason);
    app.rooms.kick(&request.room_id, &caller(&session), &request.user_id, &options).await?;
    Ok(kick::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/ban`
async fn ban_user(app: App, session: Active, request: ban::Request) -> Result<ban::Response> {
    let options = with_reason(request.reason);
    app.rooms.ban(&request.room_id, &caller(&session), &request.user_id, &options).await?;
    Ok(ban::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/unban`
async fn unban_user(app: App, session: Active, request: unban::Request) -> Result<unban::Response> {
    let options = with_reason(request.reason);
    app.rooms.unban(&request.room_id, &caller(&session), &request.user_id, &options).await?;
    Ok(unban::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/forget`
async fn forget_room(app: App, session: Session, request: forget::Request) -> Result<forget::Response> {
    app.rooms.forget(&request.room_id, &caller(&session)).await?;
    Ok(forget::Response::new())
}

impl From<MembershipError> for Error {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::UnknownRoom => Self::not_found("This server does not know the room"),
            MembershipError::Forbidden(reason) => Self::forbidden(reason),
            MembershipError::GuestsForbidden => Self::guest_access_forbidden(),
            MembershipError::InviteBlocked => Self::invite_blocked(),
            MembershipError::StillIn => Self::unknown("Leave the room before you forget it"),
            MembershipError::Append(error) => error.into(),
            MembershipError::Storage(error) => error.into(),
        }
    }
}

/// What another server says is translated, never relayed: a client must not take it for something about its own session.
impl From<RemoteError> for Error {
    fn from(error: RemoteError) -> Self {
        let gateway = |message: &'static str| Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message);
        match error {
            RemoteError::Here(error) => error.into(),
            RemoteError::NotFound(reason) => Self::not_found(reason),
            RemoteError::Forbidden(reason) => Self::forbidden(reason),
            RemoteError::UnableToAuthorise => Self::forbidden(error.to_string()),
            RemoteError::IncompatibleVersion(version) => {
                let message = "The room's version is not supported by one of the servers";
                match RoomVersionId::try_from(version.as_str()) {
                    Ok(version) => {
                        let data = IncompatibleRoomVersionErrorData::new(version);
                        Self::new(StatusCode::BAD_REQUEST, ErrorKind::IncompatibleRoomVersion(data), message)
                    }
                    Err(_) => Self::new(StatusCode::BAD_REQUEST, ErrorKind::UnsupportedRoomVersion, message),
                }
            }
            RemoteError::Refused => Self::forbidden("This server does not talk to that one"),
            RemoteError::Unreachable(_) => gateway("The other server cannot be reached").because(error),
            RemoteError::BadAnswer(_) => gateway("The other server's answer is wrong").because(error),
            RemoteError::Interrupted => Self::unavailable(error),
            RemoteError::Storage(error) => error.into(),
        }
    }
}

impl From<AppendError> for Error {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Forbidden(reason) => Self::forbidden(reason),
            AppendError::Malformed(error) => match error {
                BuildError::TooLarge(_) | BuildError::FieldTooLong(_) => Self::too_large(error.to_string()),
                BuildError::NotCanonical(_)
                | BuildError::NotAnObject
                | BuildError::TooManyReferences(_)
                | BuildError::RoomId
                | BuildError::UnsupportedVersion => Self::bad_json(error.to_string()),
            },
            AppendError::UnknownTarget => Self::not_found("The event to redact is not in this room"),
            AppendError::DuplicateAnnotation => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::DuplicateAnnotation, error.to_string())
            }
            AppendError::ThreadOnRelation => Self::unknown(error.to_string()),
            AppendError::Conflict(_) => Self::unknown("Something else changed at the same time; try again"),
            AppendError::Busy => Self::limit_exceeded(std::time::Duration::from_secs(1)),
            AppendError::Interrupted => Self::unavailable("the room's task ended"),
            AppendError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
