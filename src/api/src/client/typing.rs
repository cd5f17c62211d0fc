//! Typing notifications.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use ruma::api::client::typing::create_typing_event::v3::{Request, Response, Typing};

use crate::{
    app::App,
    auth::Active,
    client::access::{joined_room, own},
    endpoint::Routes,
    error::Result,
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(create_typing_event)
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
async fn create_typing_event(app: App, caller: Active, request: Request) -> Result<Response> {
    own(&caller, &request.user_id)?;
    let room = joined_room(&app, &caller, &request.room_id).await?;
    app.presence.active(caller.user, &caller.user_id);
    if !app.config.get().ephemeral.typing {
        return Ok(Response::new());
    }
    match request.state {
        Typing::Yes(info) => app.typing.start(room, caller.user, &caller.user_id, info.timeout),
        Typing::No => app.typing.stop(room, caller.user),
    }
    Ok(Response::new())
}
