//! Registration by programs that hold the shared secret, as Synapse defines it.

use allod_server::registration::{SharedSecret, SharedSecretError, SharedSecretRequest};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

/// Both methods' path.
const PATH: &str = "/_synapse/admin/v1/register";

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route(&Method::GET, PATH, get_nonce).route(&Method::POST, PATH, register)
}

/// `GET /_synapse/admin/v1/register`
async fn get_nonce(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let nonce = shared_secret(&app)?.nonce();
    Ok(json_bytes(json!({ "nonce": nonce }).to_string()))
}

/// The body of a registration.
#[derive(Deserialize)]
struct Body {
    nonce: String,
    username: String,
    password: String,
    mac: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
}

/// `POST /_synapse/admin/v1/register`
async fn register(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let shared_secret = shared_secret(&app)?;
    let body: Body = request.json()?;
    let registered = shared_secret
        .register(SharedSecretRequest {
            nonce: body.nonce,
            name: body.username,
            password: body.password,
            admin: body.admin,
            user_type: body.user_type,
            mac: body.mac,
        })
        .await?;
    let mut answer = json!({ "user_id": registered.user_id, "home_server": app.users.server_name() });
    if let (Some(issued), Some(object)) = (registered.issued, answer.as_object_mut()) {
        object.insert("access_token".to_owned(), issued.access_token.into());
        object.insert("device_id".to_owned(), issued.device_id.as_str().into());
    }
    Ok(json_bytes(answer.to_string()))
}

/// 404 where no secret is configured.
fn shared_secret(app: &App) -> Result<&SharedSecret> {
    app.shared_secret.as_ref().ok_or_else(Error::unrecognized)
}

impl From<SharedSecretError> for Error {
    fn from(error: SharedSecretError) -> Self {
        match error {
            SharedSecretError::BadNonce => Self::unknown("Unrecognised nonce"),
            SharedSecretError::BadMac => Self::forbidden("HMAC incorrect"),
            SharedSecretError::Nul => Self::invalid_param("NUL in the user name or password"),
            SharedSecretError::Register(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
