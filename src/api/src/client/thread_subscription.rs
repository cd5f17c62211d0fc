//! Following threads (MSC4306, unstable).

use allod_server::{
    rooms::access::{AccessError, View},
    thread_subscriptions::SubscriptionError,
};
use http::StatusCode;
use ruma::{
    RoomId,
    api::client::threads::{
        get_thread_subscription::unstable as get, subscribe_thread::unstable as subscribe,
        unsubscribe_thread::unstable as unsubscribe,
    },
};

use crate::{
    app::App,
    auth::Session,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_thread_subscription).endpoint(subscribe_thread).endpoint(unsubscribe_thread)
}

/// `GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription`
async fn get_thread_subscription(app: App, session: Session, request: get::Request) -> Result<get::Response> {
    let view = view(&app, &session, &request.room_id).await?;
    let found = app.thread_subscriptions.get(&view, &request.thread_root).await?;
    let found = found.ok_or_else(|| Error::not_found("You are not subscribed to this thread"))?;
    Ok(get::Response::new(found.automatic))
}

/// `PUT /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription`
async fn subscribe_thread(
    app: App,
    session: Session,
    request: subscribe::Request,
) -> Result<subscribe::Response> {
    let view = view(&app, &session, &request.room_id).await?;
    let cause = request.automatic.as_deref();
    app.thread_subscriptions.subscribe(&view, &request.thread_root, cause).await?;
    Ok(subscribe::Response::new())
}

/// `DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription`
async fn unsubscribe_thread(
    app: App,
    session: Session,
    request: unsubscribe::Request,
) -> Result<unsubscribe::Response> {
    let view = view(&app, &session, &request.room_id).await?;
    app.thread_subscriptions.unsubscribe(&view, &request.thread_root).await?;
    Ok(unsubscribe::Response::new())
}

/// The room as the caller sees it; one that they may not see is told like a thread that is not there.
async fn view(app: &App, session: &Session, room_id: &RoomId) -> Result<View> {
    match app.rooms.view(room_id, &caller(session)).await {
        Ok(view) => Ok(view),
        Err(AccessError::Forbidden) => Err(SubscriptionError::NotFound.into()),
        Err(AccessError::Storage(error)) => Err(error.into()),
    }
}

impl From<SubscriptionError> for Error {
    fn from(error: SubscriptionError) -> Self {
        match error {
            SubscriptionError::NotFound => Self::not_found("There is no such thread, or you may not see it"),
            SubscriptionError::NotInThread => Self::custom(
                StatusCode::BAD_REQUEST,
                "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD",
                "The event is not in the thread",
            ),
            SubscriptionError::Unsubscribed => Self::custom(
                StatusCode::CONFLICT,
                "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION",
                "You have unsubscribed since that event",
            ),
            SubscriptionError::Busy => Self::unavailable(error),
            SubscriptionError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
