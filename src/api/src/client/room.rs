//! Rooms: creating them, and which of them one is in.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#rooms-1>

use allod_server::{
    config::Who,
    rooms::{
        create::{CreateError, CreateRoomError},
        membership::MembershipOptions,
        send::Caller,
    },
    tables::rooms::Membership,
};
use http::StatusCode;
use ruma::RoomAliasId;
use ruma::api::{
    client::{membership::joined_rooms::v3 as joined_rooms, room::create_room::v3 as create},
    error::ErrorKind,
};

use crate::{
    app::App,
    auth::{Active, Session},
    client::appservice::exclusive,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(create_room).endpoint(joined_rooms)
}

/// The caller as the rooms' service knows them.
pub(crate) fn caller(session: &Session) -> Caller {
    Caller { user_id: session.user_id.clone(), user: session.user, device: Some(session.device) }
}

/// `POST /_matrix/client/v3/createRoom`
async fn create_room(app: App, session: Active, mut request: create::Request) -> Result<create::Response> {
    if app.config.get().rooms.create == Who::Admins && !session.admin {
        return Err(Error::forbidden("Only administrators may create rooms on this server"));
    }
    if let Some(name) = &request.room_alias_name
        && let Ok(alias) = RoomAliasId::parse(format!("#{name}:{}", app.users.server_name()))
        && app.bridges.is_alias_kept(&alias, session.bridge)
    {
        return Err(exclusive("The room alias is kept by an application service"));
    }
    let caller = caller(&session);
    // Those elsewhere are invited once the room is there: their servers have a say.
    let invited = std::mem::take(&mut request.invite);
    let (elsewhere, here): (Vec<_>, Vec<_>) =
        invited.into_iter().partition(|user_id| app.federation.is_some() && !app.users.is_local(user_id));
    request.invite = here;
    let room_id = app.rooms.create(&caller, &request, session.admin).await?;
    let options = MembershipOptions { reason: None, is_direct: request.is_direct.then_some(true) };
    for user_id in elsewhere {
        if let Err(error) = app.memberships.invite(&room_id, &caller, &user_id, &options).await {
            tracing::info!(server = %user_id.server_name(), %error, "somebody was not invited to a new room");
        }
    }
    // A room may be said to replace another without an upgrade.
    if request.creation_content.is_some() {
        let room = app.rooms.known(&room_id).await?;
        app.succession.joined(&caller, &room).await?;
    }
    Ok(create::Response::new(room_id))
}

/// `GET /_matrix/client/v3/joined_rooms`
async fn joined_rooms(
    app: App,
    session: Session,
    _: joined_rooms::Request,
) -> Result<joined_rooms::Response> {
    let mut room_ids = Vec::new();
    for number in app.rooms.rooms_of(session.user, Membership::Join).await? {
        room_ids.push(app.rooms.get(number).await?.room_id.clone());
    }
    Ok(joined_rooms::Response::new(room_ids))
}

impl From<CreateError> for Error {
    fn from(error: CreateError) -> Self {
        let bad = |kind, message: String| Self::new(StatusCode::BAD_REQUEST, kind, message);
        match error {
            CreateError::Plan(error) => match error {
                CreateRoomError::UnsupportedVersion(_) => {
                    bad(ErrorKind::UnsupportedRoomVersion, error.to_string())
                }
                CreateRoomError::UnknownPreset
                | CreateRoomError::CreationContent(_)
                | CreateRoomError::InitialState(_) => Self::bad_json(error.to_string()),
                CreateRoomError::PowerLevels(_) => bad(ErrorKind::InvalidRoomState, error.to_string()),
                CreateRoomError::Encryption => Self::forbidden(error.to_string()),
                CreateRoomError::Json(error) => Self::internal(error),
            },
            CreateError::AliasInUse => bad(ErrorKind::RoomInUse, "The room alias is taken".to_owned()),
            CreateError::BadAlias => Self::invalid_param("The room alias is malformed"),
            CreateError::InvalidState(reason) => bad(ErrorKind::InvalidRoomState, reason),
            CreateError::ThirdParty => bad(
                ErrorKind::ThreepidDenied,
                "This server does not invite by e-mail address or telephone number".to_owned(),
            ),
            CreateError::InviteBlocked(_) => Self::invite_blocked(),
            CreateError::MayNotPublish => {
                Self::forbidden("You may not publish rooms in this server's room directory")
            }
            CreateError::Append(error) => error.into(),
            CreateError::Storage(error) => error.into(),
        }
    }
}
