//! Joins, leaves and knocks of other servers' users through this server.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use allod_server::{
    inbound::membership::ThroughError,
    rooms::{ingest::IngestError, template::TemplateError},
    tables::rooms::Membership,
};
use http::StatusCode;
use ruma::api::{
    error::{ErrorKind, IncompatibleRoomVersionErrorData},
    federation::membership::{
        RawStrippedState, create_join_event::v2 as join, create_knock_event::v1 as knock,
        create_leave_event::v2 as leave, prepare_join_event::v1 as make_join,
        prepare_knock_event::v1 as make_knock, prepare_leave_event::v1 as make_leave,
    },
};
use serde_json::value::to_raw_value;

use super::{event::raw, inbound};
use crate::{
    app::App,
    auth::Origin,
    endpoint::Routes,
    error::{Error, Result},
};

mod v1;

pub(crate) fn routes(routes: Routes) -> Routes {
    v1::routes(routes)
        .endpoint(prepare_join_event)
        .endpoint(create_join_event)
        .endpoint(prepare_leave_event)
        .endpoint(create_leave_event)
        .endpoint(prepare_knock_event)
        .endpoint(create_knock_event)
}

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
async fn prepare_join_event(
    app: App,
    origin: Origin,
    request: make_join::Request,
) -> Result<make_join::Response> {
    let make_join::Request { room_id, user_id, ver, .. } = request;
    let template = inbound(&app)?.template(&origin, &room_id, &user_id, Membership::Join, Some(&ver)).await?;
    let mut response = make_join::Response::new(to_raw_value(&template.event).map_err(Error::internal)?);
    response.room_version = Some(template.version);
    Ok(response)
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
async fn create_join_event(app: App, origin: Origin, request: join::Request) -> Result<join::Response> {
    let join::Request { room_id, event_id, pdu, omit_members, .. } = request;
    let joined = inbound(&app)?.join_through(&origin, &room_id, &event_id, &pdu, omit_members).await?;
    let mut state = join::RoomState::new();
    state.state = joined.state.iter().map(|event| raw(&event.json)).collect::<Result<_>>()?;
    state.auth_chain = joined.auth_chain.iter().map(|event| raw(&event.json)).collect::<Result<_>>()?;
    state.event = Some(joined.event);
    state.members_omitted = joined.members_omitted;
    state.servers_in_room = Some(joined.servers);
    Ok(join::Response::new(state))
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
async fn prepare_leave_event(
    app: App,
    origin: Origin,
    request: make_leave::Request,
) -> Result<make_leave::Response> {
    let (room_id, user_id) = (request.room_id, request.user_id);
    let template = inbound(&app)?.template(&origin, &room_id, &user_id, Membership::Leave, None).await?;
    let event = to_raw_value(&template.event).map_err(Error::internal)?;
    Ok(make_leave::Response::new(Some(template.version), event))
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
async fn create_leave_event(app: App, origin: Origin, request: leave::Request) -> Result<leave::Response> {
    inbound(&app)?.leave_through(&origin, &request.room_id, &request.event_id, &request.pdu).await?;
    Ok(leave::Response::new())
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
async fn prepare_knock_event(
    app: App,
    origin: Origin,
    request: make_knock::Request,
) -> Result<make_knock::Response> {
    let make_knock::Request { room_id, user_id, ver, .. } = request;
    let template =
        inbound(&app)?.template(&origin, &room_id, &user_id, Membership::Knock, Some(&ver)).await?;
    let event = to_raw_value(&template.event).map_err(Error::internal)?;
    Ok(make_knock::Response::new(template.version, event))
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
async fn create_knock_event(app: App, origin: Origin, request: knock::Request) -> Result<knock::Response> {
    let knock::Request { room_id, event_id, pdu, .. } = request;
    let shown = inbound(&app)?.knock_through(&origin, &room_id, &event_id, &pdu).await?;
    let shown = shown.iter().map(|event| Ok(RawStrippedState::Pdu(raw(&event.json)?)));
    Ok(knock::Response::new(shown.collect::<Result<_>>()?))
}

impl From<ThroughError> for Error {
    fn from(error: ThroughError) -> Self {
        match error {
            ThroughError::Serve(error) => error.into(),
            ThroughError::OtherServersUser | ThroughError::Forbidden(_) => Self::forbidden(error.to_string()),
            ThroughError::Version(version) => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::IncompatibleRoomVersion(IncompatibleRoomVersionErrorData::new(version.clone())),
                format!("The room's version is {version}, which your server does not speak"),
            ),
            ThroughError::Template(TemplateError::Forbidden(why)) => Self::forbidden(why),
            ThroughError::Template(error @ TemplateError::CannotGrant) => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::UnableToGrantJoin, error.to_string())
            }
            ThroughError::Template(error @ TemplateError::CannotAuthorise) => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::UnableToAuthorizeJoin, error.to_string())
            }
            ThroughError::Template(TemplateError::Storage(error)) | ThroughError::Storage(error) => {
                error.into()
            }
            ThroughError::Invalid(why) => Self::invalid_param(why),
            ThroughError::Ingest(error) => error.into(),
        }
    }
}

impl From<IngestError> for Error {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Busy | IngestError::Interrupted | IngestError::TooMany => Self::unavailable(error),
            IngestError::Storage(error) => error.into(),
        }
    }
}
