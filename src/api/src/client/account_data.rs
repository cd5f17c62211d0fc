//! Client config: data that a user's clients keep for each other.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#client-config>

use allod_server::{
    account_data::AccountDataError, numbers::RoomNumber, push_rules::PUSH_RULES_TYPE,
    receipts::FULLY_READ_TYPE,
};
use http::{Method, StatusCode};
use ruma::{
    RoomId, UserId,
    api::{
        client::config::{
            get_global_account_data::v3 as get_global, get_room_account_data::v3 as get_room,
            set_global_account_data::v3 as set_global, set_room_account_data::v3 as set_room,
        },
        error::ErrorKind,
    },
    serde::Raw,
};

use crate::{
    app::App,
    auth::Session,
    client::access::{known_room, own},
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_global_account_data)
        .endpoint(set_global_account_data)
        .endpoint(get_room_account_data)
        .endpoint(set_room_account_data)
        .route(&Method::DELETE, DELETE_GLOBAL, delete_global)
        .route(&Method::DELETE, DELETE_ROOM, delete_room)
}

/// Deleting account data is not in the specification yet (MSC3391); an empty object does the same.
const DELETE_GLOBAL: &str = "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}";
/// See [`DELETE_GLOBAL`].
const DELETE_ROOM: &str =
    "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}";

/// `GET /_matrix/client/v3/user/{userId}/account_data/{type}`
async fn get_global_account_data(
    app: App,
    caller: Session,
    request: get_global::Request,
) -> Result<get_global::Response> {
    own(&caller, &request.user_id)?;
    let event_type = request.event_type.to_string();
    let content = if event_type == PUSH_RULES_TYPE {
        Some(app.push_rules.content(caller.user, &caller.user_id).await?)
    } else {
        app.account_data.get(caller.user, None, &event_type).await?.map(|datum| datum.content)
    };
    Ok(get_global::Response::new(Raw::from_json(content.ok_or_else(no_data)?)))
}

/// `PUT /_matrix/client/v3/user/{userId}/account_data/{type}`
async fn set_global_account_data(
    app: App,
    caller: Session,
    request: set_global::Request,
) -> Result<set_global::Response> {
    own(&caller, &request.user_id)?;
    let event_type = request.event_type.to_string();
    settable(&event_type)?;
    app.account_data.set(caller.user, None, &event_type, request.data.json().get()).await?;
    Ok(set_global::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
async fn get_room_account_data(
    app: App,
    caller: Session,
    request: get_room::Request,
) -> Result<get_room::Response> {
    own(&caller, &request.user_id)?;
    let room = known_room(&app, &request.room_id).await?;
    let datum = app.account_data.get(caller.user, Some(room), &request.event_type.to_string()).await?;
    Ok(get_room::Response::new(Raw::from_json(datum.ok_or_else(no_data)?.content)))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
async fn set_room_account_data(
    app: App,
    caller: Session,
    request: set_room::Request,
) -> Result<set_room::Response> {
    own(&caller, &request.user_id)?;
    let event_type = request.event_type.to_string();
    settable(&event_type)?;
    let room = known_room(&app, &request.room_id).await?;
    app.account_data.set(caller.user, Some(room), &event_type, request.data.json().get()).await?;
    Ok(set_room::Response::new())
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}`
async fn delete_global(app: App, caller: Session, request: PlainRequest) -> Result<Response> {
    let [user_id, event_type] = request.args.as_slice() else { return Err(Error::unrecognized()) };
    delete(&app, &caller, user_id, None, event_type).await
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}`
async fn delete_room(app: App, caller: Session, request: PlainRequest) -> Result<Response> {
    let [user_id, room_id, event_type] = request.args.as_slice() else { return Err(Error::unrecognized()) };
    let room_id = RoomId::parse(room_id.as_str()).map_err(|_| Error::invalid_param("This is no room id"))?;
    let room = known_room(&app, &room_id).await?;
    delete(&app, &caller, user_id, Some(room), event_type).await
}

async fn delete(
    app: &App,
    caller: &Session,
    user_id: &str,
    room: Option<RoomNumber>,
    event_type: &str,
) -> Result<Response> {
    let user_id = UserId::parse(user_id).map_err(|_| Error::invalid_param("This is no user id"))?;
    own(caller, &user_id)?;
    settable(event_type)?;
    app.account_data.delete(caller.user, room, event_type).await?;
    Ok(json_bytes("{}"))
}

fn no_data() -> Error {
    Error::not_found("There is no account data of this type")
}

/// Refuses types that have endpoints of their own.
fn settable(event_type: &str) -> Result<()> {
    if event_type == PUSH_RULES_TYPE || event_type == FULLY_READ_TYPE {
        let message = "Account data of this type is set through its own endpoint";
        return Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::BadJson, message));
    }
    Ok(())
}

impl From<AccountDataError> for Error {
    fn from(error: AccountDataError) -> Self {
        match error {
            AccountDataError::TooLarge => Self::too_large("This account data is too large"),
            AccountDataError::TooMany => Self::forbidden("You have too much account data"),
            AccountDataError::NotAnObject => Self::bad_json("Account data must be a JSON object"),
            AccountDataError::Busy => Self::unavailable(error),
            AccountDataError::Database(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
