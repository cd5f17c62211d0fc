//! Which server a request comes from: the `Authorization` headers of scheme `X-Matrix`.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use allod_server::federation::{
    keys::KeyError,
    policy::{Direction, Refused},
    x_matrix::{self, HeaderError},
};
use http::{header, request::Parts};
use ruma::{ServerName, api::federation::authentication::XMatrix};

use super::federation;
use crate::{
    app::App,
    error::{Error, Result},
};

/// Headers of one request: a server signs with few keys.
const HEADERS_MAX: usize = 5;

/// What a request says about its origin, to be verified: at least one header, all of one server.
pub(crate) struct Claim(Vec<XMatrix>);

impl Claim {
    /// The server.
    pub(crate) fn origin(&self) -> &ServerName {
        match self.0.first() {
            Some(header) => &header.origin,
            // There is a first one.
            None => ruma::server_name!("invalid"),
        }
    }
}

/// Reads the headers, and refuses servers that this one does not talk to.
pub(crate) fn read(app: &App, parts: &Parts) -> Result<Claim> {
    let federation = federation(app)?;
    let values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let values: Vec<&str> = values
        .filter_map(|value| value.to_str().ok())
        .filter(|value| {
            value.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case(XMatrix::AUTH_SCHEME))
        })
        .take(HEADERS_MAX)
        .collect();
    if values.is_empty() {
        return Err(Error::unauthorized("The request is not signed by a server"));
    }
    let headers = x_matrix::parse_all(values.into_iter(), app.users.server_name())?;
    let claim = Claim(headers);
    federation.policy.may_talk_to(claim.origin(), Direction::Inbound)?;
    Ok(claim)
}

/// Verifies the signatures: one must be valid, and none with a key that is known may be wrong.
pub(crate) async fn verify(app: &App, claim: &Claim, parts: &Parts, body: &[u8]) -> Result<()> {
    let federation = federation(app)?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut verified = false;
    let mut missing = None;
    for header in &claim.0 {
        let key = match federation.keys.for_request(claim.origin(), &header.key).await {
            Ok(key) => key,
            Err(KeyError::Storage(error)) => return Err(error.into()),
            Err(error) => {
                missing = Some(error);
                continue;
            }
        };
        x_matrix::verify(header, key, &parts.method, path, body, app.users.server_name())?;
        verified = true;
    }
    if verified && let Some(outbox) = &app.outbox {
        // It is there, so what waits for it need wait no longer.
        outbox.wake(claim.origin());
    }
    match missing {
        _ if verified => Ok(()),
        Some(error) => Err(Error::unauthorized("The key of the signature is not to be had").because(error)),
        None => Err(Error::unauthorized("The request is not signed by a server")),
    }
}

impl From<HeaderError> for Error {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Malformed
            | HeaderError::SeveralOrigins
            | HeaderError::Destination
            | HeaderError::Signature => Self::unauthorized(error.to_string()),
            HeaderError::Body => Self::bad_json(error.to_string()),
        }
    }
}

impl From<Refused> for Error {
    fn from(_: Refused) -> Self {
        Self::forbidden("This server does not talk to that one")
    }
}
