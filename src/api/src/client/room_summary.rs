//! What rooms show of themselves to those who are not in them.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-summaries>

use allod_server::rooms::send::Caller;
use http::Method;
use ruma::{
    OwnedServerName, RoomOrAliasId, api::client::room::get_summary::v1 as summary,
    events::room::member::MembershipState,
};

use crate::{
    app::App,
    auth::{Guest, Session},
    client::{membership::room_id_of, room::caller},
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, from_ruma},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_summary).route(
        &Method::GET,
        "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}",
        get_summary_unstable,
    )
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
///
/// Open to everybody only where the room directory is.
async fn get_summary(
    app: App,
    session: Option<Guest>,
    request: summary::Request,
) -> Result<summary::Response> {
    if session.is_none() && !app.config.get().rooms.directory_without_account {
        return Err(Error::missing_token());
    }
    let caller = session.map(|session| caller(&session));
    load(&app, caller.as_ref(), &request.room_id_or_alias, request.via).await
}

/// `GET /_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}`
///
/// The path of an early MSC3266, which matrix-js-sdk still calls.
async fn get_summary_unstable(app: App, session: Session, request: PlainRequest) -> Result<Response> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let name = RoomOrAliasId::parse(name).map_err(|error| Error::invalid_param(error.to_string()))?;
    from_ruma(load(&app, Some(&caller(&session)), &name, Vec::new()).await?)
}

async fn load(
    app: &App,
    caller: Option<&Caller>,
    name: &RoomOrAliasId,
    mut via: Vec<OwnedServerName>,
) -> Result<summary::Response> {
    // Who has no account does not make this server ask others.
    let (room_id, known_by) = match caller {
        Some(_) => app.memberships.resolve(name).await?,
        None => (room_id_of(app, name).await?, Vec::new()),
    };
    via.extend(known_by);
    let not_found = || Error::not_found("This server knows no such room, or you may not see it");
    let Some(found) = app.rooms.summary(&room_id, caller).await? else {
        let caller = caller.ok_or_else(not_found)?;
        let summary = app.memberships.summary(&room_id, via, caller).await?.ok_or_else(not_found)?;
        let mut response = summary::Response::new(summary);
        let membership = match app.rooms.find(&room_id).await? {
            Some(room) => app.rooms.member(room.number, caller.user).await?.map(|member| member.membership),
            None => None,
        };
        let membership = membership.map(|membership| membership.as_str().into());
        response.membership = Some(membership.unwrap_or(MembershipState::Leave));
        return Ok(response);
    };
    let mut response = summary::Response::new(found.room);
    if caller.is_some() {
        let membership = found.membership.map(|membership| membership.as_str().into());
        response.membership = Some(membership.unwrap_or(MembershipState::Leave));
    }
    Ok(response)
}

#[cfg(test)]
mod tests;
