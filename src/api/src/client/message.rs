//! Sending events to a room.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#sending-events-to-a-room>

use allod_server::rooms::send::{SendError, TransactionName};
use http::StatusCode;
use ruma::api::{
    client::{
        message::send_message_event::v3 as send, redact::redact_event::v3 as redact,
        state::send_state_event::v3 as set_state,
    },
    error::ErrorKind,
};

use crate::{
    app::App,
    auth::{Active, Guest},
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(send_message_event).endpoint(send_state_event).endpoint(redact_event)
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`
async fn send_message_event(app: App, session: Guest, request: send::Request) -> Result<send::Response> {
    if session.suspended {
        return Err(Error::user_suspended());
    }
    let kind = request.event_type.to_string();
    let path = format!("send/{}/{kind}", request.room_id);
    let transaction = TransactionName { path: &path, id: request.txn_id.as_str() };
    let content = request.body.json();
    let event_id = app.rooms.send(&request.room_id, &caller(&session), &kind, content, transaction).await?;
    Ok(send::Response::new(event_id))
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
async fn send_state_event(
    app: App,
    session: Active,
    request: set_state::Request,
) -> Result<set_state::Response> {
    let kind = request.event_type.to_string();
    let content = request.body.json();
    let event_id =
        app.rooms.set_state(&request.room_id, &caller(&session), &kind, &request.state_key, content).await?;
    Ok(set_state::Response::new(event_id))
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
async fn redact_event(app: App, session: Active, request: redact::Request) -> Result<redact::Response> {
    let path = format!("redact/{}/{}", request.room_id, request.event_id);
    let transaction = TransactionName { path: &path, id: request.txn_id.as_str() };
    let reason = request.reason.as_deref();
    let event_id =
        app.rooms.redact(&request.room_id, &caller(&session), &request.event_id, reason, transaction).await?;
    Ok(redact::Response::new(event_id))
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotInRoom => Self::forbidden("You are not in this room"),
            SendError::BadContent(reason) => Self::bad_json(reason),
            SendError::BadAlias(_) => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::BadAlias, error.to_string())
            }
            SendError::MalformedAlias(reason) => Self::invalid_param(reason),
            SendError::Append(error) => error.into(),
            SendError::Storage(error) => error.into(),
        }
    }
}
