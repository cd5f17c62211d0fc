//! Addresses of an account (§Adding Account Administrative Contact Information). An administrator gives an account its mail
//! addresses; nobody adds one here, and this server talks to no identity server.

use allod_server::{audit::Actor, uiaa::Operation};
use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        client::account::{
            ThirdPartyIdRemovalStatus, add_3pid, bind_3pid, delete_3pid, get_3pids,
            request_3pid_management_token_via_email, request_3pid_management_token_via_msisdn,
            request_password_change_token_via_email, request_password_change_token_via_msisdn,
            request_registration_token_via_email, request_registration_token_via_msisdn, unbind_3pid,
        },
        error::ErrorKind,
    },
    thirdparty::{Medium, ThirdPartyIdentifierInit},
};

use crate::{
    app::App,
    auth::Session,
    client::uiaa::allow,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_3pids)
        .endpoint(add_3pid)
        .endpoint(bind_3pid)
        .endpoint(delete_3pid)
        .endpoint(unbind_3pid)
        .endpoint(request_3pid_management_token_via_email)
        .endpoint(request_3pid_management_token_via_msisdn)
        .endpoint(request_password_change_token_via_email)
        .endpoint(request_password_change_token_via_msisdn)
        .endpoint(request_registration_token_via_email)
        .endpoint(request_registration_token_via_msisdn)
}

/// `GET /_matrix/client/v3/account/3pid`
async fn get_3pids(app: App, caller: Session, _: get_3pids::v3::Request) -> Result<get_3pids::v3::Response> {
    let addresses = app.addresses.list(caller.user).await?;
    let shown = addresses.into_iter().map(|row| {
        let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(row.added_ms));
        let init = ThirdPartyIdentifierInit {
            address: row.address,
            medium: Medium::Email,
            validated_at: at,
            added_at: at,
        };
        init.into()
    });
    Ok(get_3pids::v3::Response::new(shown.collect()))
}

/// `POST /_matrix/client/v3/account/3pid/add`
///
/// No validation session can exist: none is ever begun.
async fn add_3pid(
    app: App,
    caller: Session,
    request: add_3pid::v3::Request,
) -> Result<add_3pid::v3::Response> {
    let operation = Operation::with_password("account/3pid/add", &[], Some(caller.user));
    allow(&app, operation, request.auth.as_ref()).await?;
    let kind = ErrorKind::ThreepidAuthFailed;
    Err(Error::new(StatusCode::BAD_REQUEST, kind, "No address was validated in this session"))
}

/// `POST /_matrix/client/v3/account/3pid/bind`
async fn bind_3pid(_: App, _: Session, _: bind_3pid::v3::Request) -> Result<bind_3pid::v3::Response> {
    let kind = ErrorKind::ServerNotTrusted;
    Err(Error::new(StatusCode::FORBIDDEN, kind, "This server talks to no identity server"))
}

/// `POST /_matrix/client/v3/account/3pid/delete`
async fn delete_3pid(
    app: App,
    caller: Session,
    request: delete_3pid::v3::Request,
) -> Result<delete_3pid::v3::Response> {
    if request.medium == Medium::Email {
        app.addresses.remove(Actor::User(caller.user), caller.user, &request.address).await?;
    }
    Ok(delete_3pid::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// `POST /_matrix/client/v3/account/3pid/unbind`
async fn unbind_3pid(_: App, _: Session, _: unbind_3pid::v3::Request) -> Result<unbind_3pid::v3::Response> {
    Ok(unbind_3pid::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// Declares the endpoints that would send a message to an address.
macro_rules! no_messages {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            async fn $name(_: App, (): (), _: $name::v3::Request) -> Result<$name::v3::Response> {
                let kind = ErrorKind::ThreepidMediumNotSupported;
                Err(Error::new(StatusCode::BAD_REQUEST, kind, "This server sends no messages to addresses"))
            }
        )*
    };
}

no_messages! {
    /// `POST /_matrix/client/v3/account/3pid/email/requestToken`
    request_3pid_management_token_via_email;
    /// `POST /_matrix/client/v3/account/3pid/msisdn/requestToken`
    request_3pid_management_token_via_msisdn;
    /// `POST /_matrix/client/v3/account/password/email/requestToken`
    request_password_change_token_via_email;
    /// `POST /_matrix/client/v3/account/password/msisdn/requestToken`
    request_password_change_token_via_msisdn;
    /// `POST /_matrix/client/v3/register/email/requestToken`
    request_registration_token_via_email;
    /// `POST /_matrix/client/v3/register/msisdn/requestToken`
    request_registration_token_via_msisdn;
}
