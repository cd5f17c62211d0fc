//! How requests get to application services: a port, so that what is sent can be tested without a network.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, StatusCode, header};
use reqwest::Url;

use crate::{
    bridges::Bridge,
    egress::{Bounds, Destination, Egress, EgressError, Outbound, Purpose},
};

/// How large an answer may be, and how long it may take.
const BOUNDS: Bounds = Bounds::bytes(1 << 20).within(Duration::from_secs(60));

/// What an application service answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// Why there was no answer, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It took too long.
    #[error("it took too long")]
    TimedOut,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Sends requests.
pub trait Transport: Send + Sync {
    /// Sends a request to an application service and waits for the whole answer.
    fn call<'a>(
        &'a self,
        bridge: &'a Bridge,
        method: Method,
        path_and_query: &'a str,
        body: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Called, CallError>>;
}

impl std::fmt::Debug for dyn Transport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Transport")
    }
}

/// Sends them through the gate. Its clients are made when they are first needed.
#[derive(Debug)]
pub struct HttpTransport {
    egress: Egress,
    clients: Mutex<HashMap<bool, Outbound>>,
}

impl HttpTransport {
    /// Over a gate.
    pub fn new(egress: Egress) -> Arc<Self> {
        Arc::new(Self { egress, clients: Mutex::default() })
    }

    fn client(&self, secure: bool) -> Result<Outbound, EgressError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&secure) {
            return Ok(client.clone());
        }
        let client = if secure {
            self.egress.outbound(Purpose::Appservice)?
        } else {
            self.egress.outbound_in_clear(Purpose::Appservice)?
        };
        clients.insert(secure, client.clone());
        Ok(client)
    }

    async fn send(
        &self,
        bridge: &Bridge,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<Called, EgressError> {
        let malformed = || EgressError::Malformed("the application service's address".to_owned());
        let url =
            Url::parse(bridge.registration.url.as_deref().unwrap_or_default()).map_err(|_| malformed())?;
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(malformed()),
        };
        let host = url.host_str().ok_or_else(malformed)?;
        let port = url.port_or_known_default().ok_or_else(malformed)?;
        let addresses = self.egress.addresses(Purpose::Appservice, host, port).await?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let client = self.client(secure)?;
        let to = Destination { authority, host_header: None, addresses };
        let path = format!("{}{path_and_query}", url.path().trim_end_matches('/'));
        let mut prepared = client.prepare(&to, method, &path, body)?;
        let token = HeaderValue::try_from(format!("Bearer {}", bridge.registration.hs_token))
            .map_err(|_| EgressError::Malformed("the hs_token".to_owned()))?;
        prepared.set_header(header::AUTHORIZATION, token);
        let answer = client.send(prepared, BOUNDS).await?;
        Ok(Called { status: answer.status(), body: answer.whole().await? })
    }
}

impl Transport for HttpTransport {
    fn call<'a>(
        &'a self,
        bridge: &'a Bridge,
        method: Method,
        path_and_query: &'a str,
        body: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Called, CallError>> {
        Box::pin(async move {
            self.send(bridge, method, path_and_query, body).await.map_err(|error| match error {
                EgressError::TimedOut => CallError::TimedOut,
                error => CallError::Failed(error.to_string()),
            })
        })
    }
}
