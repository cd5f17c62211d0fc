//! Events that are sent later (MSC4140, unstable).

use std::time::Duration;

use allod_server::{
    delayed_events::{Action, DELAY_MAX, DelayError, Wanted},
    rooms::send::TransactionName,
};
use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::delayed_events::{
        DelayedEventData,
        get_all_delayed_events::unstable as get_all,
        send_delayed_event::unstable as send,
        update_delayed_event::{UpdateAction, unstable_v1, unstable_v2},
    },
    serde::Raw,
};

use crate::{
    app::App,
    auth::{Active, Session},
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_all_delayed_events)
        .endpoint(send_delayed_event)
        .endpoint(update_delayed_event)
        .endpoint(update_own_delayed_event)
}

/// The query parameter by which the ordinary endpoints delay an event, in milliseconds.
pub(crate) const DELAY_PARAMETER: &str = "org.matrix.msc4140.delay";

/// Reads [`DELAY_PARAMETER`].
pub(crate) fn delay(text: &str) -> Result<Duration> {
    let milliseconds = text.parse().map_err(|_| Error::invalid_param("The delay is not a number"))?;
    Ok(Duration::from_millis(milliseconds))
}

/// `GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events`
async fn get_all_delayed_events(
    app: App,
    session: Session,
    _: get_all::Request,
) -> Result<get_all::Response> {
    let waiting = app.delayed_events.waiting(session.user).await?;
    let shown = waiting.into_iter().map(|waiting| {
        let row = waiting.row;
        Ok(DelayedEventData::new(
            row.delay_id,
            waiting.room_id,
            row.kind.into(),
            row.state_key,
            Raw::from_json_string(row.content).map_err(Error::internal)?,
            Duration::from_millis(row.delay_ms),
            MilliSecondsSinceUnixEpoch(UInt::new_saturating(row.since_ms)),
        ))
    });
    Ok(get_all::Response::new(shown.collect::<Result<_>>()?))
}

/// `PUT /_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
async fn send_delayed_event(app: App, session: Active, request: send::Request) -> Result<send::Response> {
    let kind = request.event_type.to_string();
    let path = format!("delayed_event/{}/{kind}", request.room_id);
    let transaction = TransactionName { path: &path, id: request.txn_id.as_str() };
    let wanted = Wanted {
        room_id: &request.room_id,
        kind: &kind,
        state_key: request.state_key.as_deref(),
        content: request.content.json(),
        delay: request.delay,
    };
    let delay_id = app.delayed_events.schedule(&caller(&session), wanted, Some(transaction)).await?;
    Ok(send::Response::new(delay_id))
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}`
///
/// Knowing the id is enough, so that others can be asked to do it.
async fn update_delayed_event(
    app: App,
    (): (),
    request: unstable_v2::Request,
) -> Result<unstable_v2::Response> {
    app.delayed_events.act(&request.delay_id, action(&request.action)?).await?;
    Ok(unstable_v2::Response::new())
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}`
async fn update_own_delayed_event(
    app: App,
    _: Active,
    request: unstable_v1::Request,
) -> Result<unstable_v1::Response> {
    app.delayed_events.act(&request.delay_id, action(&request.action)?).await?;
    Ok(unstable_v1::Response::new())
}

fn action(action: &UpdateAction) -> Result<Action> {
    match action {
        UpdateAction::Restart => Ok(Action::Restart),
        UpdateAction::Send => Ok(Action::Send),
        UpdateAction::Cancel => Ok(Action::Cancel),
        _ => Err(Error::not_found("There is no such action")),
    }
}

impl From<DelayError> for Error {
    fn from(error: DelayError) -> Self {
        let bad = |errcode, message: &'static str| Self::custom(StatusCode::BAD_REQUEST, errcode, message);
        match error {
            DelayError::NotFound => Self::not_found("There is no such delayed event"),
            DelayError::NotInRoom => Self::forbidden("You are not in this room"),
            DelayError::TooLong => bad("ORG.MATRIX.MSC4140.M_MAX_DELAY_EXCEEDED", "The delay is too long")
                .with("org.matrix.msc4140.max_delay", DELAY_MAX.as_secs().saturating_mul(1000)),
            DelayError::TooMany => {
                bad("ORG.MATRIX.MSC4140.M_MAX_DELAYED_EVENTS_EXCEEDED", "Too many events are waiting")
            }
            DelayError::Append(error) => error.into(),
            DelayError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
