//! Making accounts (§Account registration).

use allod_server::{
    accounts::AccountError,
    devices::WantedDevice,
    passwords::WeakPassword,
    registration::{RegisterError, Registered, Wanted},
    sessions::WantedSession,
    users::names::NameError,
};
use http::StatusCode;
use ruma::UserId;
use ruma::api::{
    client::account::{
        check_registration_token_validity, get_username_availability,
        register::{LoginType, RegistrationKind, v3::Request},
    },
    error::ErrorKind,
};

use crate::{
    app::App,
    auth::AppserviceToken,
    client::{appservice, uiaa::allow},
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_response},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .raw_endpoint(register)
        .endpoint(get_username_availability)
        .endpoint(check_registration_token_validity)
}

/// `POST /_matrix/client/v3/register`
async fn register(app: App, token: AppserviceToken, request: Request) -> Result<Response> {
    if request.login_type == Some(LoginType::ApplicationService) {
        return register_for_appservice(&app, &token, request).await;
    }
    if request.login_type.is_some() {
        return Err(Error::unknown("This type of registration is not supported"));
    }
    match request.kind {
        RegistrationKind::User => {}
        RegistrationKind::Guest => {
            let name = request.initial_device_display_name;
            return Ok(response(app.registration.register_guest(name).await?));
        }
        _ => return Err(Error::unknown("There is no such kind of account")),
    }
    let session = WantedSession {
        device: WantedDevice { id: request.device_id, display_name: request.initial_device_display_name },
        refresh: request.refresh_token,
    };
    let wanted = Wanted {
        name: request.username,
        password: request.password,
        guest_token: request.guest_access_token,
        session: (!request.inhibit_login).then_some(session),
    };
    if let Some(name) = &wanted.name {
        appservice::check_free(&app, name)?;
    }
    let checked = app.registration.check(&wanted).await?;
    let shown = allow(&app, app.registration.operation(), request.auth.as_ref()).await?;
    Ok(response(app.registration.register(checked, wanted, &shown).await?))
}

/// Makes an account for an application service, of a name that is its own.
async fn register_for_appservice(app: &App, token: &AppserviceToken, request: Request) -> Result<Response> {
    let (index, bridge) = appservice::of_token(app, token)?;
    let name = request.username.ok_or_else(|| Error::missing_param("A user name is needed"))?;
    let user_id = UserId::parse_with_server_name(name.as_str(), app.users.server_name());
    let user_id = user_id.map_err(|_| NameError::Letters)?;
    appservice::check_own(app, index, bridge, &user_id)?;
    let session = WantedSession {
        device: WantedDevice { id: request.device_id, display_name: request.initial_device_display_name },
        refresh: request.refresh_token,
    };
    let session = (!request.inhibit_login).then_some(session);
    let registered = app.registration.register_for_appservice(user_id.localpart(), session.as_ref()).await?;
    Ok(response(registered))
}

/// Not ruma's response, which shows a device that is none as `null`.
fn response(registered: Registered) -> Response {
    let mut body = serde_json::Map::new();
    body.insert("user_id".to_owned(), registered.user_id.as_str().into());
    if let Some(issued) = registered.issued {
        body.insert("access_token".to_owned(), issued.access_token.into());
        body.insert("device_id".to_owned(), issued.device_id.as_str().into());
        if let Some(refresh_token) = issued.refresh_token {
            body.insert("refresh_token".to_owned(), refresh_token.into());
        }
        if let Some(expires_in) = issued.expires_in {
            let expires_in_ms = u64::try_from(expires_in.as_millis()).unwrap_or(u64::MAX);
            body.insert("expires_in_ms".to_owned(), expires_in_ms.into());
        }
    }
    json_response(StatusCode::OK, &body)
}

/// `GET /_matrix/client/v3/register/available`
async fn get_username_availability(
    app: App,
    (): (),
    request: get_username_availability::v3::Request,
) -> Result<get_username_availability::v3::Response> {
    appservice::check_free(&app, &request.username)?;
    app.registration.check_name(&request.username).await?;
    Ok(get_username_availability::v3::Response::new(true))
}

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
async fn check_registration_token_validity(
    app: App,
    (): (),
    request: check_registration_token_validity::v1::Request,
) -> Result<check_registration_token_validity::v1::Response> {
    let valid = app.registration.is_token_valid(&request.token).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

impl From<RegisterError> for Error {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Disabled => Self::forbidden("Registration is disabled on this server"),
            RegisterError::Name(error) => error.into(),
            RegisterError::TokenUsedUp => Self::forbidden("The registration token is not valid any more"),
            RegisterError::NotThisGuest => Self::forbidden("This is not a guest of this name"),
            RegisterError::NoPassword => Self::missing_param("A password is needed"),
            RegisterError::Account(error) => error.into(),
            RegisterError::Device(error) => error.into(),
            RegisterError::Storage(error) => error.into(),
        }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        let message = error.to_string();
        match error {
            NameError::Letters | NameError::TooLong | NameError::Reserved => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidUsername, message)
            }
        }
    }
}

impl From<AccountError> for Error {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::NotFound => Self::not_found("No such account"),
            AccountError::NameTaken => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::UserInUse, "This user name is taken")
            }
            AccountError::WeakPassword(error) => error.into(),
            AccountError::Password(error) => error.into(),
            AccountError::Device(error) => error.into(),
            AccountError::Storage(error) => error.into(),
        }
    }
}

impl From<WeakPassword> for Error {
    fn from(error: WeakPassword) -> Self {
        let message = error.to_string();
        match error {
            WeakPassword::TooShort(_) | WeakPassword::TooLong => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::WeakPassword, message)
            }
        }
    }
}

#[cfg(test)]
mod tests;
