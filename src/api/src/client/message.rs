//! Sending events to a room.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#sending-events-to-a-room>

use allod_server::{
    delayed_events::Wanted,
    rooms::send::{SendError, SendOptions, TransactionName},
};
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
    client::{
        delayed_event::{DELAY_PARAMETER, delay},
        room::caller,
    },
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, from_ruma, json_response},
    wrapped::WithQuery,
};

/// What the parameter is called that attaches a file to an event, and will be (MSC3911).
const ATTACH_MEDIA: [&str; 2] = ["org.matrix.msc3911.attach_media", "attach_media"];

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(send_message_event).raw_endpoint(send_state_event).endpoint(redact_event)
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`
///
/// With a delay, the event waits (MSC4140). Files can be attached (MSC3911).
async fn send_message_event(app: App, session: Guest, asked: WithQuery<send::Request>) -> Result<Response> {
    if session.suspended {
        return Err(Error::user_suspended());
    }
    let delay = asked.parameter(DELAY_PARAMETER).as_deref().map(delay).transpose()?;
    let attached = asked.parameters(&ATTACH_MEDIA);
    let request = asked.request;
    let kind = request.event_type.to_string();
    let path = format!("send/{}/{kind}", request.room_id);
    let transaction = TransactionName { path: &path, id: request.txn_id.as_str() };
    let content = request.body.json();
    let caller = caller(&session);
    if let Some(delay) = delay {
        refuse_attached(&attached)?;
        let room_id = &request.room_id;
        let wanted = Wanted { room_id, kind: &kind, state_key: None, content, delay };
        let delay_id = app.delayed_events.schedule(&caller, wanted, Some(transaction)).await?;
        return Ok(waits(&delay_id));
    }
    let at = request.timestamp.filter(|_| session.bridge.is_some());
    let options = SendOptions { at, attached: app.media.attachable(&caller, &attached).await? };
    let event = (&*kind, content);
    let event_id = app.rooms.send_with(&request.room_id, &caller, event, transaction, options).await?;
    from_ruma(send::Response::new(event_id))
}

/// What is sent later is attached to nothing until then, and would go.
fn refuse_attached(attached: &[String]) -> Result<()> {
    if attached.is_empty() {
        return Ok(());
    }
    Err(Error::invalid_param("Files cannot be attached to delayed events"))
}

fn waits(delay_id: &str) -> Response {
    json_response(StatusCode::OK, &serde_json::json!({ "delay_id": delay_id }))
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
async fn send_state_event(
    app: App,
    session: Active,
    asked: WithQuery<set_state::Request>,
) -> Result<Response> {
    let delay = asked.parameter(DELAY_PARAMETER).as_deref().map(delay).transpose()?;
    let attached = asked.parameters(&ATTACH_MEDIA);
    let request = asked.request;
    let kind = request.event_type.to_string();
    let content = request.body.json();
    let caller = caller(&session);
    if let Some(delay) = delay {
        refuse_attached(&attached)?;
        let (room_id, state_key) = (&request.room_id, Some(request.state_key.as_str()));
        let wanted = Wanted { room_id, kind: &kind, state_key, content, delay };
        let delay_id = app.delayed_events.schedule(&caller, wanted, None).await?;
        return Ok(waits(&delay_id));
    }
    let at = request.timestamp.filter(|_| session.bridge.is_some());
    let state = (&*kind, &*request.state_key, content);
    let options = SendOptions { at, attached: app.media.attachable(&caller, &attached).await? };
    let event_id = app.rooms.set_state_with(&request.room_id, &caller, state, options).await?;
    from_ruma(set_state::Response::new(event_id))
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
            SendError::Attached => Self::invalid_param(error.to_string()),
            SendError::Append(error) => error.into(),
            SendError::Storage(error) => error.into(),
        }
    }
}
