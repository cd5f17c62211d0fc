//! Profiles.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#profiles>

use allod_server::profiles::ProfileError;
use http::StatusCode;
use ruma::{
    UserId,
    api::client::profile::{
        delete_profile_field::v3 as delete, get_profile::v3 as get, get_profile_field::v3 as get_field,
        set_profile_field::v3 as set,
    },
    profile::ProfileFieldValue,
};
use serde_json::{Map, Value, value::to_raw_value};

use crate::{
    app::App,
    auth::{Active, Session},
    client::{access::own, room::caller},
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_profile)
        .endpoint(get_profile_field)
        .endpoint(set_profile_field)
        .endpoint(delete_profile_field)
}

async fn profile_of(app: &App, user_id: &UserId) -> Result<Map<String, Value>> {
    if let (false, Some(federation)) = (app.users.is_local(user_id), &app.federation) {
        return Ok(federation.client.profile(user_id).await?.into_iter().collect());
    }
    app.profiles.get(user_id).await?.ok_or_else(|| Error::not_found("There is no such user"))
}

/// `GET /_matrix/client/v3/profile/{userId}`
async fn get_profile(app: App, (): (), request: get::Request) -> Result<get::Response> {
    Ok(profile_of(&app, &request.user_id).await?.into_iter().collect())
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
async fn get_profile_field(app: App, (): (), request: get_field::Request) -> Result<get_field::Response> {
    let name = request.field.to_string();
    let value = profile_of(&app, &request.user_id).await?.remove(&name);
    let value = value.ok_or_else(|| Error::not_found("The profile has no such field"))?;
    let value = ProfileFieldValue::new(&name, value).map_err(Error::internal)?;
    Ok(get_field::Response::new(value))
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
async fn set_profile_field(app: App, session: Active, request: set::Request) -> Result<set::Response> {
    let name = request.value.field_name().to_string();
    let value = request.value.value().into_owned();
    change(&app, &session, &request.user_id, &name, Some(value)).await?;
    Ok(set::Response::new())
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
async fn delete_profile_field(
    app: App,
    session: Active,
    request: delete::Request,
) -> Result<delete::Response> {
    change(&app, &session, &request.user_id, request.field.as_str(), None).await?;
    Ok(delete::Response::new())
}

async fn change(
    app: &App,
    session: &Session,
    user_id: &UserId,
    name: &str,
    value: Option<Value>,
) -> Result<()> {
    own(session, user_id)?;
    if let ("avatar_url", Some(Value::String(address))) = (name, &value) {
        app.media.attach_to_profile(&caller(session), address).await?;
    }
    let value = value.map(|value| to_raw_value(&value)).transpose().map_err(Error::internal)?;
    if app.profiles.set(session.user, name, value.as_deref()).await? {
        app.rooms.profile_changed(&caller(session)).await?;
    }
    Ok(())
}

impl From<ProfileError> for Error {
    fn from(error: ProfileError) -> Self {
        let bad =
            |errcode, error: &ProfileError| Self::custom(StatusCode::BAD_REQUEST, errcode, error.to_string());
        match &error {
            ProfileError::KeyTooLarge => bad("M_KEY_TOO_LARGE", &error),
            ProfileError::TooLarge => bad("M_PROFILE_TOO_LARGE", &error),
            ProfileError::NotAString(_) => Self::invalid_param(error.to_string()),
            ProfileError::NotFound => Self::not_found("There is no such user"),
            ProfileError::Storage(_) => Self::internal(error),
        }
    }
}
