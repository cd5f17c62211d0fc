//! Questions about users and room aliases of this server.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#querying-for-information>

use allod_server::config::Refusable;
use ruma::api::federation::query::{
    get_profile_information::v1 as profile, get_room_information::v1 as directory,
};

use crate::{
    app::App,
    auth::Origin,
    endpoint::Routes,
    error::{Error, Result},
    federation::permit,
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_profile_information).endpoint(get_room_information)
}

/// `GET /_matrix/federation/v1/query/profile`
async fn get_profile_information(
    app: App,
    origin: Origin,
    request: profile::Request,
) -> Result<profile::Response> {
    permit(&app, &origin, Refusable::Profiles)?;
    if !app.users.is_local(&request.user_id) {
        return Err(Error::invalid_param("The user is not of this server"));
    }
    let fields = app.profiles.get(&request.user_id).await?;
    let fields = fields.ok_or_else(|| Error::not_found("There is no such user"))?;
    let wanted = request.field.map(|field| field.to_string());
    let all = fields.into_iter().filter(|(name, _)| wanted.as_ref().is_none_or(|wanted| wanted == name));
    Ok(all.collect())
}

/// `GET /_matrix/federation/v1/query/directory`
async fn get_room_information(
    app: App,
    _: Origin,
    request: directory::Request,
) -> Result<directory::Response> {
    let not_found = || Error::not_found("There is no such room alias");
    if request.room_alias.server_name() != app.users.server_name() {
        return Err(not_found());
    }
    let room = app.rooms.resolve_alias(request.room_alias.as_str()).await?.ok_or_else(not_found)?;
    let room_id = app.rooms.get(room).await?.room_id.clone();
    Ok(directory::Response::new(room_id, vec![app.users.server_name().to_owned()]))
}
