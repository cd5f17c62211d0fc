//! The room directory, as other servers see it.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#published-room-directory>

use allod_server::config::Refusable;
use ruma::{
    api::federation::directory::{get_public_rooms::v1 as get, get_public_rooms_filtered::v1 as filtered},
    directory::Filter,
};

use crate::{
    app::App, auth::Origin, client::directory::page, endpoint::Routes, error::Result, federation::permit,
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_public_rooms).endpoint(get_public_rooms_filtered)
}

/// `GET /_matrix/federation/v1/publicRooms`
async fn get_public_rooms(app: App, origin: Origin, request: get::Request) -> Result<get::Response> {
    permit(&app, &origin, Refusable::Directory)?;
    let page = page(&app, request.limit, request.since.as_deref(), &Filter::new()).await?;
    let mut response = get::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = page.total;
    Ok(response)
}

/// `POST /_matrix/federation/v1/publicRooms`
async fn get_public_rooms_filtered(
    app: App,
    origin: Origin,
    request: filtered::Request,
) -> Result<filtered::Response> {
    permit(&app, &origin, Refusable::Directory)?;
    let page = page(&app, request.limit, request.since.as_deref(), &request.filter).await?;
    let mut response = filtered::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = page.total;
    Ok(response)
}
