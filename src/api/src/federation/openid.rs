//! Whose OpenID token it is.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#openid>

use allod_server::sessions::OpenIdError;
use ruma::api::federation::openid::get_openid_userinfo::v1 as userinfo;

use crate::{
    app::App,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_openid_userinfo)
}

/// `GET /_matrix/federation/v1/openid/userinfo`
async fn get_openid_userinfo(app: App, (): (), request: userinfo::Request) -> Result<userinfo::Response> {
    Ok(userinfo::Response::new(app.sessions.openid_user(&request.access_token).await?))
}

impl From<OpenIdError> for Error {
    fn from(error: OpenIdError) -> Self {
        match error {
            OpenIdError::Unknown => Self::unknown_token(false),
            OpenIdError::Storage(error) => error.into(),
        }
    }
}
