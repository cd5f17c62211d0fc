//! Signing out: devices go, with their tokens and keys (§Login).

use allod_server::audit::Actor;
use ruma::api::client::session::{logout, logout_all};

use crate::{app::App, auth::Locked, endpoint::Routes, error::Result};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(logout).endpoint(logout_all)
}

/// `POST /_matrix/client/v3/logout`
async fn logout(app: App, caller: Locked, _: logout::v3::Request) -> Result<logout::v3::Response> {
    app.devices.delete(Actor::User(caller.user), caller.user, &[caller.device]).await?;
    Ok(logout::v3::Response::new())
}

/// `POST /_matrix/client/v3/logout/all`
async fn logout_all(
    app: App,
    caller: Locked,
    _: logout_all::v3::Request,
) -> Result<logout_all::v3::Response> {
    app.devices.delete_all(Actor::User(caller.user), caller.user, None).await?;
    Ok(logout_all::v3::Response::new())
}
