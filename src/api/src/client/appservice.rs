//! What application services ask of the server, and what is asked of them: pings, rooms of other networks in the
//! directory, look-ups of third-party networks.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/#client-server-api-extensions>

use allod_server::{
    appservices::{PingError, ThirdParty},
    bridges::{Bridge, BridgeIndex},
};
use http::{Method, StatusCode};
use ruma::{
    UserId,
    api::{
        client::{
            appservice::{request_ping::v1 as ping, set_room_visibility::v3 as set_visibility},
            room::Visibility,
        },
        error::ErrorKind,
    },
};
use serde_json::{Value, json};

use crate::{
    app::App,
    auth::{AppserviceToken, Session},
    client::room::caller,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_response},
};

/// Parameters of a look-up that are not fields of a network.
const NOT_FIELDS: [&str; 1] = ["access_token"];

pub(crate) fn routes(routes: Routes) -> Routes {
    let mut routes = routes.endpoint(request_ping).endpoint(set_room_visibility);
    for version in ["r0", "v3"] {
        let at = |path: &str| format!("/_matrix/client/{version}/thirdparty/{path}");
        routes = routes
            .route(&Method::GET, &at("protocols"), get_protocols)
            .route(&Method::GET, &at("protocol/{protocol}"), get_protocol)
            .route(&Method::GET, &at("location/{protocol}"), get_location_for_protocol)
            .route(&Method::GET, &at("user/{protocol}"), get_user_for_protocol)
            .route(&Method::GET, &at("location"), get_location_for_room_alias)
            .route(&Method::GET, &at("user"), get_user_for_user_id);
    }
    routes
}

/// The application service whose token a request brings.
pub(crate) fn of_token<'a>(app: &'a App, token: &AppserviceToken) -> Result<(BridgeIndex, &'a Bridge)> {
    let token = token.0.as_deref().ok_or_else(Error::missing_token)?;
    app.bridges.by_token(token).ok_or_else(|| Error::unknown_token(false))
}

/// Refuses a user name that is not an application service's own.
pub(crate) fn check_own(app: &App, index: BridgeIndex, bridge: &Bridge, user_id: &UserId) -> Result<()> {
    if bridge.has_user(user_id) && !app.bridges.is_user_kept(user_id, Some(index)) {
        Ok(())
    } else {
        Err(exclusive("The user name is not one of this application service's"))
    }
}

/// Refuses a user name that an application service keeps for itself.
pub(crate) fn check_free(app: &App, localpart: &str) -> Result<()> {
    match UserId::parse_with_server_name(localpart.to_lowercase(), app.users.server_name()) {
        Ok(user_id) if app.bridges.is_user_kept(&user_id, None) => {
            Err(exclusive("The user name is kept by an application service"))
        }
        _ => Ok(()),
    }
}

/// 400 `M_EXCLUSIVE`.
pub(crate) fn exclusive(message: &'static str) -> Error {
    Error::new(StatusCode::BAD_REQUEST, ErrorKind::Exclusive, message)
}

/// `POST /_matrix/client/v1/appservice/{appserviceId}/ping`
async fn request_ping(app: App, token: AppserviceToken, request: ping::Request) -> Result<ping::Response> {
    let (index, bridge) = of_token(&app, &token)?;
    if bridge.registration.id != request.appservice_id {
        return Err(Error::forbidden("This is the token of another application service"));
    }
    let transaction = request.transaction_id.as_ref().map(|id| id.as_str());
    Ok(ping::Response::new(app.appservices.ping(index, transaction).await?))
}

/// `PUT /_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}`
///
/// Rooms of all networks stand in one directory.
async fn set_room_visibility(
    app: App,
    token: AppserviceToken,
    request: set_visibility::Request,
) -> Result<set_visibility::Response> {
    let (index, bridge) = of_token(&app, &token)?;
    let session = app.sessions.act_as(index, &bridge.sender, true, None).await?;
    let room = app.rooms.known(&request.room_id).await?;
    let published = request.visibility == Visibility::Public;
    app.rooms.set_published(&room, &caller(&session), true, published).await?;
    Ok(set_visibility::Response::new())
}

/// `GET /_matrix/client/v3/thirdparty/protocols`
async fn get_protocols(app: App, _: Session, _: PlainRequest) -> Result<Response> {
    Ok(json_response(StatusCode::OK, &app.appservices.protocols().await))
}

/// `GET /_matrix/client/v3/thirdparty/protocol/{protocol}`
async fn get_protocol(app: App, _: Session, request: PlainRequest) -> Result<Response> {
    let protocol = app.appservices.protocol(&argument(&request)).await;
    Ok(json_response(StatusCode::OK, &protocol.ok_or_else(no_network)?))
}

/// `GET /_matrix/client/v3/thirdparty/location/{protocol}`
async fn get_location_for_protocol(app: App, _: Session, request: PlainRequest) -> Result<Response> {
    look_up(&app, ThirdParty::Location, &request).await
}

/// `GET /_matrix/client/v3/thirdparty/user/{protocol}`
async fn get_user_for_protocol(app: App, _: Session, request: PlainRequest) -> Result<Response> {
    look_up(&app, ThirdParty::User, &request).await
}

async fn look_up(app: &App, what: ThirdParty, request: &PlainRequest) -> Result<Response> {
    let fields = fields(request);
    let found = app.appservices.look_up(what, &argument(request), &fields).await;
    found_or_not(&found.ok_or_else(no_network)?)
}

/// `GET /_matrix/client/v3/thirdparty/location`
async fn get_location_for_room_alias(app: App, _: Session, request: PlainRequest) -> Result<Response> {
    look_up_matrix(&app, ThirdParty::Location, "alias", &request).await
}

/// `GET /_matrix/client/v3/thirdparty/user`
async fn get_user_for_user_id(app: App, _: Session, request: PlainRequest) -> Result<Response> {
    look_up_matrix(&app, ThirdParty::User, "userid", &request).await
}

async fn look_up_matrix(
    app: &App,
    what: ThirdParty,
    parameter: &str,
    request: &PlainRequest,
) -> Result<Response> {
    let id = fields(request).into_iter().find(|(key, _)| key == parameter).map(|(_, value)| value);
    let id = id.ok_or_else(|| Error::missing_param(format!("{parameter} is missing")))?;
    found_or_not(&app.appservices.look_up_matrix(what, &id).await)
}

fn found_or_not(found: &[Value]) -> Result<Response> {
    if found.is_empty() {
        return Err(Error::not_found("Nothing was found"));
    }
    Ok(json_response(StatusCode::OK, &json!(found)))
}

fn argument(request: &PlainRequest) -> String {
    request.args.first().cloned().unwrap_or_default()
}

fn fields(request: &PlainRequest) -> Vec<(String, String)> {
    let pairs = form_urlencoded::parse(request.parts.uri.query().unwrap_or_default().as_bytes());
    let fields = pairs.filter(|(key, _)| !NOT_FIELDS.contains(&&**key));
    fields.map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}

fn no_network() -> Error {
    Error::not_found("No such network is connected")
}

impl From<PingError> for Error {
    fn from(error: PingError) -> Self {
        let message = error.to_string();
        match error {
            PingError::NoUrl => Self::custom(StatusCode::BAD_REQUEST, "M_URL_NOT_SET", message),
            PingError::TimedOut => Self::custom(StatusCode::GATEWAY_TIMEOUT, "M_CONNECTION_TIMEOUT", message),
            PingError::Failed(_) => Self::custom(StatusCode::BAD_GATEWAY, "M_CONNECTION_FAILED", message),
            PingError::Status { status, body } => {
                Self::custom(StatusCode::BAD_GATEWAY, "M_BAD_STATUS", message)
                    .with("status", status.as_u16())
                    .with("body", body)
            }
        }
    }
}

#[cfg(test)]
mod tests;
