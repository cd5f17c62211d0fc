//! How a transaction gets to a server: a port, so that what is sent can be tested without a network.

use futures_util::future::BoxFuture;
use ruma::ServerName;
use serde_json::value::RawValue;

use crate::federation::client::{ClientError, FederationClient, ORDINARY};

/// Why a transaction did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// The server may not be spoken to.
    #[error("this server does not talk to that one")]
    Refused,
    /// The server says that the transaction itself is wrong; sending it again changes nothing.
    #[error("the transaction was rejected: {0}")]
    Rejected(String),
    /// It was not reached, or is in trouble.
    #[error("{0}")]
    Unreachable(String),
}

/// Sends transactions.
pub trait Transport: Send + Sync {
    /// `PUT /_matrix/federation/v1/send/{txnId}`; done when the server has taken it.
    fn send<'a>(
        &'a self,
        server: &'a ServerName,
        transaction_id: &'a str,
        body: &'a RawValue,
    ) -> BoxFuture<'a, Result<(), SendFailure>>;
}

impl std::fmt::Debug for dyn Transport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Transport")
    }
}

impl Transport for FederationClient {
    fn send<'a>(
        &'a self,
        server: &'a ServerName,
        transaction_id: &'a str,
        body: &'a RawValue,
    ) -> BoxFuture<'a, Result<(), SendFailure>> {
        Box::pin(async move {
            let path = format!("/_matrix/federation/v1/send/{transaction_id}");
            match self.send_json(server, http::Method::PUT, &path, Some(body), ORDINARY).await {
                Ok(answer) => {
                    note_refused_events(server, &answer);
                    Ok(())
                }
                Err(error) => Err(failure(&error)),
            }
        })
    }
}

fn failure(error: &ClientError) -> SendFailure {
    match error {
        ClientError::Refused(_) => SendFailure::Refused,
        ClientError::Status { status, .. } if matches!(status.as_u16(), 400 | 413 | 422) => {
            SendFailure::Rejected(error.to_string())
        }
        _ => SendFailure::Unreachable(error.to_string()),
    }
}

/// Events that the server did not take are its own affair; that it did not is worth knowing when something is amiss.
fn note_refused_events(server: &ServerName, answer: &RawValue) {
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(default)]
        pdus: std::collections::BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
    }
    let Ok(answer) = serde_json::from_str::<Answer>(answer.get()) else { return };
    let refused = answer.pdus.values().filter(|result| result.contains_key("error")).count();
    if refused > 0 {
        tracing::debug!(%server, refused, "a server did not take some events");
    }
}
