//! Where calls go: TURN servers, and conferences (MSC4143, unstable).
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#voice-over-ip>

use http::StatusCode;
use ruma::{
    api::client::{
        rtc::{RtcTransport, transports::v1 as rtc_transports},
        voip::get_turn_server_info::v3 as turn,
    },
    serde::JsonObject,
};
use serde_json::json;

use crate::{
    app::App,
    auth::Session,
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_response},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(get_turn_server_info).endpoint(get_rtc_transports)
}

/// `GET /_matrix/client/v3/voip/turnServer`
///
/// Where there is no TURN server, an empty object: clients ask whether they make calls or not, and an error is shown.
async fn get_turn_server_info(app: App, caller: Session, _: turn::Request) -> Result<Response> {
    let body = match app.calls.turn_credentials(&caller.user_id) {
        Some(given) => json!({
            "username": given.username, "password": given.password, "uris": given.uris, "ttl": given.ttl,
        }),
        None => json!({}),
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// `GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports`
async fn get_rtc_transports(
    app: App,
    _: Session,
    _: rtc_transports::Request,
) -> Result<rtc_transports::Response> {
    Ok(rtc_transports::Response::new(transports(&app)?))
}

/// Where conferences go; the well-known document tells the same.
pub(crate) fn transports(app: &App) -> Result<Vec<RtcTransport>> {
    let Some(url) = app.config.get().calls.livekit_url.clone() else { return Ok(Vec::new()) };
    let data = JsonObject::from_iter([("livekit_service_url".to_owned(), url.into())]);
    Ok(vec![RtcTransport::new("livekit", data).map_err(Error::internal)?])
}

#[cfg(test)]
mod tests;
