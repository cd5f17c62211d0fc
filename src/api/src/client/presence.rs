//! Presence.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#presence>

use std::time::Duration;

use allod_server::presence::PresenceError;
use ruma::api::client::presence::{get_presence::v3 as get, set_presence::v3 as set};

use crate::{
    app::App,
    auth::Session,
    client::access::own,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_presence).endpoint(set_presence)
}

/// `GET /_matrix/client/v3/presence/{userId}/status`
async fn get_presence(app: App, caller: Session, request: get::Request) -> Result<get::Response> {
    // The same answer for users who are not there and users who are none of the caller's business.
    let hidden = || Error::forbidden("You may not see this user's presence");
    let user = app.users.number(&request.user_id).await?.ok_or_else(hidden)?;
    if user != caller.user {
        let (theirs, own) = (app.room_lookup.joined(user).await?, app.room_lookup.joined(caller.user).await?);
        if theirs.is_disjoint(&own) {
            return Err(hidden());
        }
    }
    let content = app.presence.get(user);
    let mut response = get::Response::new(content.presence);
    response.status_msg = content.status_msg;
    response.currently_active = content.currently_active;
    response.last_active_ago = content.last_active_ago.map(|ago| Duration::from_millis(ago.into()));
    Ok(response)
}

/// `PUT /_matrix/client/v3/presence/{userId}/status`
async fn set_presence(app: App, caller: Session, request: set::Request) -> Result<set::Response> {
    own(&caller, &request.user_id)?;
    let rooms = app.room_lookup.joined(caller.user).await?;
    app.presence.set(caller.user, &caller.user_id, rooms, request.presence, request.status_msg)?;
    Ok(set::Response::new())
}

impl From<PresenceError> for Error {
    fn from(error: PresenceError) -> Self {
        match error {
            PresenceError::UnknownState => Self::invalid_param("Unknown presence state"),
            PresenceError::StatusTooLong => Self::invalid_param("The status message is too long"),
        }
    }
}
