//! How notifications get to a push gateway: a port, so that what is sent can be tested without a network.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use reqwest::Url;
use serde::Deserialize;

use super::PusherError;
use crate::{
    config::Push as Config,
    egress::{Bounds, Destination, Egress, EgressError, Outbound, Purpose},
};

/// The path of every gateway.
const PATH: &str = "/_matrix/push/v1/notify";
/// How large an answer may be, and how long it may take.
const BOUNDS: Bounds = Bounds::bytes(1 << 20).within(Duration::from_secs(30));

/// Why a notification was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushFailure {
    /// The gateway says that the notification is wrong, or the configuration does not let it go there.
    #[error("{0}")]
    Refused(String),
    /// The gateway was not reached, or is in trouble.
    #[error("{0}")]
    Unreachable(String),
}

/// Sends notifications.
pub trait Gateway: Send + Sync {
    /// `POST /_matrix/push/v1/notify`; the push keys that are not valid any more.
    fn notify<'a>(&'a self, url: &'a str, body: Bytes) -> BoxFuture<'a, Result<Vec<String>, PushFailure>>;
}

impl std::fmt::Debug for dyn Gateway {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Gateway")
    }
}

/// Sends them through the gate. Its client is made when the first is sent.
#[derive(Debug)]
pub struct HttpGateway {
    egress: Egress,
    client: Mutex<Option<Outbound>>,
}

impl HttpGateway {
    /// Over a gate.
    pub fn new(egress: Egress) -> Arc<Self> {
        Arc::new(Self { egress, client: Mutex::default() })
    }

    fn client(&self) -> Result<Outbound, EgressError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let made = self.egress.outbound(Purpose::Push)?;
        *client = Some(made.clone());
        Ok(made)
    }

    async fn send(&self, url: &Url, body: Bytes) -> Result<(StatusCode, Bytes), EgressError> {
        let malformed = || EgressError::Malformed("the gateway's address".to_owned());
        let host = url.host_str().ok_or_else(malformed)?;
        let port = url.port_or_known_default().ok_or_else(malformed)?;
        let addresses = self.egress.addresses(Purpose::Push, host, port).await?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let client = self.client()?;
        let to = Destination { authority, host_header: None, addresses };
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let prepared = client.prepare(&to, Method::POST, &path, Some(body))?;
        let answer = client.send(prepared, BOUNDS).await?;
        Ok((answer.status(), answer.whole().await?))
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    rejected: Vec<String>,
}

impl Gateway for HttpGateway {
    fn notify<'a>(&'a self, url: &'a str, body: Bytes) -> BoxFuture<'a, Result<Vec<String>, PushFailure>> {
        Box::pin(async move {
            let url = Url::parse(url).map_err(|error| PushFailure::Refused(error.to_string()))?;
            let (status, body) = self.send(&url, body).await.map_err(|error| match error {
                EgressError::Off(_) | EgressError::Address(_) | EgressError::Malformed(_) => {
                    PushFailure::Refused(error.to_string())
                }
                error => PushFailure::Unreachable(error.to_string()),
            })?;
            match status {
                StatusCode::OK => match serde_json::from_slice::<Answer>(&body) {
                    Ok(answer) => Ok(answer.rejected),
                    Err(_) => {
                        Err(PushFailure::Unreachable("the answer is none of a push gateway".to_owned()))
                    }
                },
                StatusCode::BAD_REQUEST
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNPROCESSABLE_ENTITY => {
                    Err(PushFailure::Refused(format!("the gateway answered {status}")))
                }
                status => Err(PushFailure::Unreachable(format!("the gateway answered {status}"))),
            }
        })
    }
}

/// Whether a gateway may stand at this address.
pub(super) fn check_url(url: &str, config: &Config) -> Result<(), PusherError> {
    let url = Url::parse(url).map_err(|_| PusherError::BadUrl("the gateway's address is no URL"))?;
    if url.scheme() != "https" {
        return Err(PusherError::BadUrl("a gateway's address begins with https"));
    }
    if url.path() != PATH {
        return Err(PusherError::BadUrl("a gateway's address ends with /_matrix/push/v1/notify"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(PusherError::BadUrl("a gateway's address holds no password"));
    }
    let host = url.host_str().unwrap_or_default();
    let is_listed = config.gateways.iter().any(|listed| listed.eq_ignore_ascii_case(host));
    if !config.enabled || !(config.gateways.is_empty() || is_listed) {
        return Err(PusherError::GatewayNotAllowed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_gateways_are_taken() {
        let mut config = Config::default();
        for (url, is_taken) in [
            ("https://push.example/_matrix/push/v1/notify", true),
            ("https://push.example:8443/_matrix/push/v1/notify?a=b", true),
            ("http://push.example/_matrix/push/v1/notify", false),
            ("https://push.example/_matrix/push/v1/notify/", false),
            ("https://push.example/admin", false),
            ("https://a:b@push.example/_matrix/push/v1/notify", false),
            ("push.example", false),
            ("", false),
        ] {
            assert_eq!(check_url(url, &config).is_ok(), is_taken, "{url}");
        }
        let url = "https://push.example/_matrix/push/v1/notify";
        config.gateways = vec!["Push.example".to_owned()];
        assert!(check_url(url, &config).is_ok());
        config.gateways = vec!["other.example".to_owned()];
        assert!(matches!(check_url(url, &config), Err(PusherError::GatewayNotAllowed)));
        config = Config { enabled: false, ..Config::default() };
        assert!(matches!(check_url(url, &config), Err(PusherError::GatewayNotAllowed)));
    }
}
