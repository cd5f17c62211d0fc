//! Fetching files, by the addresses for people with an account and by those that came before.

use allod_server::media::Wanted;
use http::Method;
use ruma::api::client::{
    authenticated_media::{get_content::v1 as content, get_content_as_filename::v1 as named},
    media::{get_content::v3 as old_content, get_content_as_filename::v3 as old_named},
};

use super::serve::serve;
use crate::{
    app::App, auth::Guest, client::room::caller, endpoint::Routes, error::Result, response::Response,
    wrapped::WithHeaders,
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .raw_endpoint(get_content)
        .raw_endpoint(get_content_as_filename)
        .raw_endpoint(get_content_without_account)
        .raw_endpoint(get_content_as_filename_without_account)
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`
async fn get_content(app: App, session: Guest, call: WithHeaders<content::Request>) -> Result<Response> {
    let (caller, request) = (caller(&session), &call.request);
    let wanted = Wanted::by_account(&caller, &request.server_name, &request.media_id, request.timeout_ms);
    download(&app, wanted, call.head(), None).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
async fn get_content_as_filename(
    app: App,
    session: Guest,
    call: WithHeaders<named::Request>,
) -> Result<Response> {
    let (caller, request) = (caller(&session), &call.request);
    let wanted = Wanted::by_account(&caller, &request.server_name, &request.media_id, request.timeout_ms);
    download(&app, wanted, call.head(), Some(request.filename.clone())).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`
#[expect(deprecated, reason = "older clients and servers ask there")]
async fn get_content_without_account(
    app: App,
    (): (),
    call: WithHeaders<old_content::Request>,
) -> Result<Response> {
    let request = &call.request;
    let (server, media_id) = (&request.server_name, &request.media_id);
    let wanted = Wanted::by_anyone(server, media_id, request.timeout_ms, request.allow_remote);
    download(&app, wanted, call.head(), None).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`
#[expect(deprecated, reason = "older clients and servers ask there")]
async fn get_content_as_filename_without_account(
    app: App,
    (): (),
    call: WithHeaders<old_named::Request>,
) -> Result<Response> {
    let request = &call.request;
    let (server, media_id) = (&request.server_name, &request.media_id);
    let wanted = Wanted::by_anyone(server, media_id, request.timeout_ms, request.allow_remote);
    download(&app, wanted, call.head(), Some(request.filename.clone())).await
}

async fn download(
    app: &App,
    wanted: Wanted<'_>,
    head: (&Method, &http::HeaderMap),
    name: Option<String>,
) -> Result<Response> {
    let content = app.media.content(wanted).await?;
    serve(&app.media, head, content, name).await
}
