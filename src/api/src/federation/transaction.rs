//! What other servers send.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::time::Duration;

use allod_server::inbound::receive::{ReceiveError, Received};
use ruma::api::federation::transactions::send_transaction_message::v1 as send;

use super::{federation, inbound};
use crate::{
    app::App,
    auth::Origin,
    endpoint::Routes,
    error::{Error, Result},
};

/// When to send again what was too much.
const RETRY_AFTER: Duration = Duration::from_secs(5);

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(send_transaction_message)
}

/// `PUT /_matrix/federation/v1/send/{txnId}`
async fn send_transaction_message(
    app: App,
    origin: Origin,
    request: send::Request,
) -> Result<send::Response> {
    let edus = federation(&app)?.policy.permitted_edus(&origin, request.edus);
    let received = Received { id: request.transaction_id.as_str(), pdus: request.pdus, edus };
    Ok(send::Response::new(inbound(&app)?.receive(&origin, received).await?))
}

impl From<ReceiveError> for Error {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::TooMany => Self::too_large(error.to_string()),
            ReceiveError::Busy => Self::limit_exceeded(RETRY_AFTER),
            ReceiveError::Storage(error) => error.into(),
        }
    }
}
