//! Signing in and refreshing tokens (§Login, §Refreshing access tokens).

use allod_server::{
    devices::{DeviceError, WantedDevice},
    passwords::PasswordError,
    sessions::{Issued, RefreshError, SignInError, WantedSession},
    users::names,
};
use ruma::OwnedUserId;
use ruma::api::client::{
    session::{
        get_login_types::{
            self,
            v3::{ApplicationServiceLoginType, LoginType, PasswordLoginType},
        },
        login::v3::{LoginInfo, Password, Request, Response},
        refresh_token,
    },
    uiaa::UserIdentifier,
};
use tokio::time::Duration;

use crate::{
    app::App,
    auth::AppserviceToken,
    client::appservice,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_login_types).endpoint(login).endpoint(refresh_token)
}

/// `GET /_matrix/client/v3/login`
async fn get_login_types(
    app: App,
    (): (),
    _: get_login_types::v3::Request,
) -> Result<get_login_types::v3::Response> {
    let password = LoginType::Password(PasswordLoginType::new());
    let mut flows = if app.config.get().accounts.passwords { vec![password] } else { Vec::new() };
    if !app.bridges.is_empty() {
        flows.push(LoginType::ApplicationService(ApplicationServiceLoginType::new()));
    }
    Ok(get_login_types::v3::Response::new(flows))
}

/// `POST /_matrix/client/v3/login`
async fn login(app: App, token: AppserviceToken, request: Request) -> Result<Response> {
    if let LoginInfo::ApplicationService(given) = &request.login_info {
        let name = given.identifier.as_ref().and_then(user_name).ok_or_else(wrong)?;
        return login_for_appservice(&app, &token, name, &request).await;
    }
    let given = match &request.login_info {
        LoginInfo::Password(given) if app.config.get().accounts.passwords => given,
        _ => return Err(Error::unknown("This type of login is not supported")),
    };
    let name = name_of(given)?;
    let account = limited_account(&app, &name);
    app.limits.check_failed_logins(&account)?;
    let Some(proof) = app.accounts.check_password(&name, given.password.clone()).await? else {
        app.limits.count_failed_login(&account);
        return Err(wrong());
    };
    let wanted = WantedSession {
        device: WantedDevice { id: request.device_id, display_name: request.initial_device_display_name },
        refresh: request.refresh_token,
    };
    let issued = app.sessions.sign_in_by_password(&proof, &wanted).await?;
    let user_id = app.users.id(proof.user()).await?.ok_or_else(wrong)?;
    Ok(response(user_id, issued))
}

/// Signs in a user of an application service, which its token proves.
async fn login_for_appservice(
    app: &App,
    token: &AppserviceToken,
    name: &str,
    request: &Request,
) -> Result<Response> {
    let (index, bridge) = appservice::of_token(app, token)?;
    let candidates = names::sign_in_candidates(name, app.users.server_name());
    let user_id = candidates.first().ok_or_else(wrong)?;
    appservice::check_own(app, index, bridge, user_id)?;
    let user = app.users.number(user_id).await?.ok_or_else(wrong)?;
    let wanted = WantedSession {
        device: WantedDevice {
            id: request.device_id.clone(),
            display_name: request.initial_device_display_name.clone(),
        },
        refresh: request.refresh_token,
    };
    Ok(response(user_id.clone(), app.sessions.sign_in(user, &wanted).await?))
}

fn user_name(identifier: &UserIdentifier) -> Option<&str> {
    match identifier {
        UserIdentifier::Matrix(identifier) => Some(&identifier.user),
        _ => None,
    }
}

fn response(user_id: OwnedUserId, issued: Issued) -> Response {
    let Issued { device_id, access_token, refresh_token, expires_in, .. } = issued;
    let mut response = Response::new(user_id, access_token, device_id);
    response.refresh_token = refresh_token;
    response.expires_in = expires_in;
    response
}

/// The user name in a login by password, where r0 clients and others write it.
#[expect(deprecated, reason = "clients of the first versions write the user beside the password")]
fn name_of(given: &Password) -> Result<String> {
    match (&given.identifier, &given.user) {
        (Some(UserIdentifier::Matrix(identifier)), _) => Ok(identifier.user.clone()),
        // An address that belongs to nobody here: none does.
        (Some(UserIdentifier::Email(_) | UserIdentifier::Msisdn(_) | UserIdentifier::PhoneNumber(_)), _) => {
            Err(wrong())
        }
        (Some(identifier), _) if identifier.identifier_type() == "m.id.thirdparty" => Err(wrong()),
        (Some(_), _) => Err(Error::unknown("This type of identifier is not supported")),
        (None, Some(user)) => Ok(user.clone()),
        (None, None) if given.medium.is_some() || given.address.is_some() => Err(wrong()),
        (None, None) => Err(Error::missing_param("The identifier is missing")),
    }
}

/// Under which name failed attempts on an account are counted, however the name is written.
pub(super) fn limited_account(app: &App, name: &str) -> String {
    let candidates = names::sign_in_candidates(name, app.users.server_name());
    candidates.last().map_or_else(String::new, |user_id| user_id.as_str().to_owned())
}

/// The same whether there is no such user, or the password is wrong.
fn wrong() -> Error {
    Error::forbidden("Unknown user or wrong password")
}

/// `POST /_matrix/client/v3/refresh`
async fn refresh_token(
    app: App,
    (): (),
    request: refresh_token::v3::Request,
) -> Result<refresh_token::v3::Response> {
    let issued = app.sessions.refresh(&request.refresh_token).await?;
    let mut response = refresh_token::v3::Response::new(issued.access_token);
    response.refresh_token = issued.refresh_token;
    response.expires_in_ms = issued.expires_in;
    Ok(response)
}

impl From<SignInError> for Error {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Locked => Self::user_locked(),
            SignInError::Deactivated | SignInError::PasswordChanged => wrong(),
            SignInError::Device(error) => error.into(),
            SignInError::Storage(error) => error.into(),
        }
    }
}

impl From<RefreshError> for Error {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Unknown { soft_logout } => Self::unknown_token(soft_logout),
            RefreshError::Locked => Self::user_locked(),
            RefreshError::Deactivated => Self::unknown_token(false),
            RefreshError::Storage(error) => error.into(),
        }
    }
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NotFound => Self::not_found("No such device"),
            DeviceError::BadText | DeviceError::InUse => Self::invalid_param(error.to_string()),
            DeviceError::IdOfKey | DeviceError::TooMany => Self::forbidden(error.to_string()),
            DeviceError::Storage(error) => error.into(),
        }
    }
}

impl From<PasswordError> for Error {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::limit_exceeded(Duration::from_secs(1)),
            PasswordError::Hash(_) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests;
