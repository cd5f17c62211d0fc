//! Following threads (MSC4306 and MSC4308, unstable).

use allod_server::{
    rooms::access::{AccessError, View},
    sync::token::SyncToken,
    thread_subscriptions::{ChangesToken, SubscriptionError},
};
use http::StatusCode;
use ruma::{
    RoomId, UInt,
    api::client::threads::{
        get_thread_subscription::unstable as get, get_thread_subscriptions_changes::unstable as changes,
        subscribe_thread::unstable as subscribe, unsubscribe_thread::unstable as unsubscribe,
    },
};

use crate::{
    app::App,
    auth::Session,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

/// Most changes in one answer.
const CHANGES_MAX: usize = 100;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_thread_subscription)
        .endpoint(get_thread_subscriptions_changes)
        .endpoint(subscribe_thread)
        .endpoint(unsubscribe_thread)
}

/// `GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription`
async fn get_thread_subscription(app: App, session: Session, request: get::Request) -> Result<get::Response> {
    let view = view(&app, &session, &request.room_id).await?;
    let found = app.thread_subscriptions.get(&view, &request.thread_root).await?;
    let found = found.ok_or_else(|| Error::not_found("You are not subscribed to this thread"))?;
    Ok(get::Response::new(found.automatic))
}

/// `GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions`
async fn get_thread_subscriptions_changes(
    app: App,
    session: Session,
    request: changes::Request,
) -> Result<changes::Response> {
    let bad = || Error::invalid_param("The token is not one of this server");
    let since = request.to.as_deref().map(str::parse::<SyncToken>).transpose().map_err(|_| bad())?;
    let before = request.from.as_deref().map(str::parse::<ChangesToken>).transpose().map_err(|_| bad())?;
    let limit = request.limit.and_then(|limit| usize::try_from(u64::from(limit)).ok());
    let limit = limit.unwrap_or(CHANGES_MAX).clamp(1, CHANGES_MAX);
    let page = app
        .thread_subscriptions
        .history(session.user, since.map(|since| since.position), before, limit)
        .await?;
    let mut response = changes::Response::new();
    for change in page.changes {
        let bump_stamp = UInt::try_from(change.position.get()).unwrap_or(UInt::MAX);
        if change.now.subscribed {
            let threads = response.subscribed.entry(change.room_id).or_default();
            threads.insert(change.root, changes::ThreadSubscription::new(change.now.automatic, bump_stamp));
        } else {
            let threads = response.unsubscribed.entry(change.room_id).or_default();
            threads.insert(change.root, changes::ThreadUnsubscription::new(bump_stamp));
        }
    }
    response.end = page.more.map(|more| more.to_string());
    Ok(response)
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
