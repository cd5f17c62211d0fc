//! The account itself: who am I, password, deactivation (§Account management).

use allod_server::{audit::Actor, rooms::send::Caller, uiaa::Operation};
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus, change_password, deactivate, request_openid_token, whoami,
};
use ruma::authentication::TokenType;

use crate::{
    app::App,
    auth::{Guest, Session},
    client::uiaa::allow,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(whoami).endpoint(change_password).endpoint(deactivate).endpoint(request_openid_token)
}

/// `GET /_matrix/client/v3/account/whoami`
async fn whoami(_: App, caller: Guest, _: whoami::v3::Request) -> Result<whoami::v3::Response> {
    let Guest(session) = caller;
    let mut response = whoami::v3::Response::new(session.user_id, session.guest);
    response.device_id = Some(session.device_id);
    Ok(response)
}

/// `POST /_matrix/client/v3/account/password`
async fn change_password(
    app: App,
    caller: Option<Session>,
    request: change_password::v3::Request,
) -> Result<change_password::v3::Response> {
    if !app.config.get().accounts.passwords {
        return Err(Error::forbidden("This server has no passwords"));
    }
    app.accounts.check_strength(&request.new_password)?;
    let caller_number = caller.as_ref().map(|session| session.user);
    let operation = Operation::with_password("account/password", &[], caller_number);
    let shown = allow(&app, operation, request.auth.as_ref()).await?;
    let user = shown.user.ok_or_else(Error::missing_token)?;
    let keep = caller.map(|session| session.device);
    app.accounts
        .set_password(Actor::User(user), user, request.new_password, request.logout_devices, keep)
        .await?;
    Ok(change_password::v3::Response::new())
}

/// `POST /_matrix/client/v3/account/deactivate`
async fn deactivate(
    app: App,
    caller: Option<Session>,
    request: deactivate::v3::Request,
) -> Result<deactivate::v3::Response> {
    let caller_number = caller.as_ref().map(|session| session.user);
    let operation = Operation::with_password("account/deactivate", &[], caller_number);
    let shown = allow(&app, operation, request.auth.as_ref()).await?;
    let user = shown.user.ok_or_else(Error::missing_token)?;
    app.accounts.deactivate(Actor::User(user), user, request.erase).await?;
    if let Some(user_id) = app.users.id(user).await? {
        app.rooms.leave_all(&Caller { user_id, user, device: None }).await?;
    }
    if request.erase {
        app.media.delete_of_user(user).await?;
    }
    // There was nothing to unbind, which is neither a success nor a failure to the spec.
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// `POST /_matrix/client/v3/user/{userId}/openid/request_token`
async fn request_openid_token(
    app: App,
    caller: Session,
    request: request_openid_token::v3::Request,
) -> Result<request_openid_token::v3::Response> {
    if request.user_id != caller.user_id {
        return Err(Error::forbidden("A token is given for one's own account only"));
    }
    let token = app.sessions.new_openid_token(caller.user).await?;
    let server_name = app.users.server_name().to_owned();
    Ok(request_openid_token::v3::Response::new(token.token, TokenType::Bearer, server_name, token.expires_in))
}
