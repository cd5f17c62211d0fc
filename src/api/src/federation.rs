//! The server-server API: a file per chapter of the spec. Not served where federation is off.

use allod_server::{
    config::Refusable,
    egress::EgressError,
    federation::{Federation, client::ClientError, policy::Direction},
    inbound::Inbound,
};
use http::StatusCode;
use ruma::api::error::ErrorKind;

use crate::{
    app::App,
    auth::Origin,
    error::{Error, Result},
};

pub mod event;
pub mod hierarchy;
pub mod invite;
#[cfg(test)]
mod invite_tests;
pub mod media;
pub mod membership;
pub mod openid;
pub mod public_rooms;
pub mod query;
#[cfg(test)]
mod room_tests;
pub mod server_keys;
pub(crate) mod signature;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod third_party;
pub mod transaction;
pub mod user;
pub mod version;

/// The services of federation: 404 where it is off.
pub(crate) fn federation(app: &App) -> Result<&Federation> {
    app.federation.as_ref().ok_or_else(Error::unrecognized)
}

/// What another server's failure means to a client: translated, never relayed.
impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let gateway = |status, message: &'static str| Self::new(status, ErrorKind::Unknown, message);
        match &error {
            ClientError::Refused(refused) => (*refused).into(),
            ClientError::Egress(EgressError::TimedOut) => {
                gateway(StatusCode::GATEWAY_TIMEOUT, "The other server took too long").because(error)
            }
            ClientError::Egress(EgressError::Off(_)) => Self::unrecognized(),
            ClientError::Egress(_) => {
                gateway(StatusCode::BAD_GATEWAY, "The other server cannot be reached").because(error)
            }
            ClientError::Status { status: StatusCode::NOT_FOUND, .. } => {
                Self::not_found("The other server does not know this").because(error)
            }
            ClientError::Status { status: StatusCode::FORBIDDEN, .. } => {
                Self::forbidden("The other server refuses this").because(error)
            }
            ClientError::Status { .. } | ClientError::Malformed(_) => {
                gateway(StatusCode::BAD_GATEWAY, "The other server failed").because(error)
            }
        }
    }
}

/// Refuses where the rule of the asking server keeps it from this.
pub(crate) fn permit(app: &App, origin: &Origin, what: Refusable) -> Result<()> {
    Ok(federation(app)?.policy.permits(origin, what, Direction::Inbound)?)
}

/// What takes what other servers send and ask: 404 where federation is off.
pub(crate) fn inbound(app: &App) -> Result<&Inbound> {
    app.inbound.as_ref().ok_or_else(Error::unrecognized)
}
