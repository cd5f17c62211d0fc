//! Requests to other servers: signed, within bounds, and only to those that may be spoken to.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use ruma::{
    ServerName,
    api::{
        IncomingResponseExt, OutgoingRequest,
        auth_scheme::{NoAccessToken, NoAuthentication},
        federation::authentication::{ServerSignatures, XMatrix, XMatrixSigningInput},
        path_builder::SinglePath,
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    discovery::{Discovery, Route},
    policy::{Direction, Policy, Refused},
};
use crate::{
    config::Refusable,
    egress::{Answer, Bounds, Egress, EgressError, Outbound, Purpose, Url, Web},
    identity::Identity,
};

/// What an ordinary answer may weigh, and take.
pub const ORDINARY: Bounds = Bounds::bytes(10 << 20);
/// What an answer full of events may weigh: state, authorisation chains, history.
pub const EVENTS: Bounds = Bounds::bytes(100 << 20);
/// What a document of keys may weigh.
pub const KEYS: Bounds = Bounds::bytes(64 << 10).within(Duration::from_secs(20));
/// What the room's state in the answer to a join may weigh; read it as it comes.
pub const JOIN: Bounds = Bounds::bytes(500 << 20).within(Duration::from_secs(600));
/// The longest error that is read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 2;

/// Why a server did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It may not be spoken to.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It was not found or not reached, or its answer was too slow or too large.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// It answered with an error.
    #[error("it answered {status} {errcode}: {message}")]
    Status {
        /// The HTTP status.
        status: StatusCode,
        /// The `errcode`; empty if the body has none.
        errcode: String,
        /// The `error`, shortened.
        message: String,
        /// The whole body: some errors carry more.
        body: Bytes,
    },
    /// Its answer is not what the specification says.
    #[error("its answer is not what it should be: {0}")]
    Malformed(String),
}

impl ClientError {
    /// The errcode and status of an error answer.
    pub fn status(&self) -> Option<(StatusCode, &str)> {
        match self {
            Self::Status { status, errcode, .. } => Some((*status, errcode)),
            Self::Refused(_) | Self::Egress(_) | Self::Malformed(_) => None,
        }
    }

    /// Whether the server was not reached, or answered that it is in trouble itself: it may be asked again later.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Egress(EgressError::Name(_) | EgressError::Unreachable(_) | EgressError::TimedOut) => true,
            Self::Status { status, .. } => status.is_server_error(),
            Self::Egress(_) | Self::Refused(_) | Self::Malformed(_) => false,
        }
    }
}

/// How a request is authenticated.
pub trait Signing {
    /// Whether it is signed.
    const SIGNED: bool;
}

impl Signing for ServerSignatures {
    const SIGNED: bool = true;
}
impl Signing for NoAuthentication {
    const SIGNED: bool = false;
}
impl Signing for NoAccessToken {
    const SIGNED: bool = false;
}

/// The client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FederationClient {
    discovery: Discovery,
    policy: Policy,
    identity: Identity,
    outbound: Outbound,
    /// Connections to names with a port: addresses without one would be taken for the other kind's.
    outbound_to_ports: Outbound,
    web: Web,
}

impl FederationClient {
    /// A client without connections.
    pub fn new(
        egress: &Egress,
        discovery: Discovery,
        policy: Policy,
        identity: Identity,
    ) -> Result<Self, EgressError> {
        let outbound = egress.outbound(Purpose::Federation)?;
        let outbound_to_ports = egress.outbound(Purpose::Federation)?;
        let web = egress.web(Purpose::Federation, false)?;
        Ok(Self { discovery, policy, identity, outbound, outbound_to_ports, web })
    }

    /// A client that speaks without TLS, to peers that tests make.
    #[cfg(test)]
    pub(crate) fn without_tls(
        egress: &Egress,
        discovery: Discovery,
        policy: Policy,
        identity: Identity,
    ) -> Result<Self, EgressError> {
        let outbound = egress.outbound_without_tls(Purpose::Federation)?;
        let outbound_to_ports = egress.outbound_without_tls(Purpose::Federation)?;
        let web = egress.web(Purpose::Federation, true)?;
        Ok(Self { discovery, policy, identity, outbound, outbound_to_ports, web })
    }

    /// Sends one of ruma's requests, and reads its answer. Signed if its endpoint wants it.
    pub async fn send<R>(&self, server: &ServerName, request: R) -> Result<R::IncomingResponse, ClientError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication: Signing>,
    {
        self.send_within(server, request, ORDINARY).await
    }

    /// The same with other bounds.
    pub async fn send_within<R>(
        &self,
        server: &ServerName,
        request: R,
        bounds: Bounds,
    ) -> Result<R::IncomingResponse, ClientError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication: Signing>,
    {
        let malformed =
            |error: &dyn std::fmt::Display| ClientError::Egress(EgressError::Malformed(error.to_string()));
        let request = request.try_into_http_request_inner("", ()).map_err(|error| malformed(&error))?;
        let (parts, body) = request.into_parts();
        let body: Vec<u8> =
            ruma::api::OutgoingBody::try_into_buf(body).map_err(|error| malformed(&error.into()))?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let body = (!body.is_empty()).then(|| Bytes::from(body));
        let signed = <R::Authentication as Signing>::SIGNED;
        let answer = self.exchange(server, parts.method, path, body, bounds, signed).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.whole().await?;
        let read = |body: &[u8]| {
            let mut response = http::Response::builder().status(status);
            if let Some(of_response) = response.headers_mut() {
                of_response.extend(headers.clone());
            }
            let response = response.body(body).map_err(|error| ClientError::Malformed(error.to_string()))?;
            <R::IncomingResponse as IncomingResponseExt>::try_from_http_response(response)
                .map_err(|error| ClientError::Malformed(error.to_string()))
        };
        match read(&body) {
            Err(error) => without_nulls(&body).map_or(Err(error), |body| read(&body)),
            answer => answer,
        }
    }

    /// Sends a signed request whose answer is JSON that no type of ruma's keeps whole.
    pub async fn send_json(
        &self,
        server: &ServerName,
        method: Method,
        path_and_query: &str,
        body: Option<&RawValue>,
        bounds: Bounds,
    ) -> Result<Box<RawValue>, ClientError> {
        let answer = self.send_stream(server, method, path_and_query, body, bounds).await?;
        let body = answer.whole().await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Malformed(error.to_string()))
    }

    /// Sends a signed request whose answer is read as it comes.
    pub async fn send_stream(
        &self,
        server: &ServerName,
        method: Method,
        path_and_query: &str,
        body: Option<&RawValue>,
        bounds: Bounds,
    ) -> Result<Answer, ClientError> {
        let body = body.map(|body| Bytes::copy_from_slice(body.get().as_bytes()));
        self.exchange(server, method, path_and_query, body, bounds, true).await
    }

    /// The same for endpoints from before requests were signed.
    pub async fn send_unsigned_stream(
        &self,
        server: &ServerName,
        path_and_query: &str,
        bounds: Bounds,
    ) -> Result<Answer, ClientError> {
        self.exchange(server, Method::GET, path_and_query, None, bounds, false).await
    }

    /// Gets what a server says is elsewhere: unsigned, over TLS, at hosts that may be spoken to, through the gate.
    pub async fn send_elsewhere(&self, location: &str, bounds: Bounds) -> Result<Answer, ClientError> {
        let malformed = |error: &dyn std::fmt::Display| ClientError::Malformed(error.to_string());
        let mut url = Url::parse(location).map_err(|error| malformed(&error))?;
        for _ in 0..=REDIRECTS_MAX {
            let host = url.host_str().ok_or_else(|| malformed(&"a place without a host"))?;
            let host = <&ServerName>::try_from(host).map_err(|error| malformed(&error))?;
            self.policy.may_talk_to(host, Direction::Outbound)?;
            let answer = self.web.get(&url, "*/*", bounds).await?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            let location =
                answer.headers().get(header::LOCATION).filter(|_| answer.status().is_redirection());
            let Some(location) = location else { return Err(refusal(answer).await) };
            let location = location.to_str().map_err(|error| malformed(&error))?;
            url = url.join(location).map_err(|error| malformed(&error))?;
        }
        Err(malformed(&"too many redirects"))
    }

    /// Whether the rule of a server lets it be asked for, or sent, this.
    pub fn permits(&self, server: &ServerName, what: Refusable) -> Result<(), Refused> {
        self.policy.permits(server, what, Direction::Outbound)
    }

    /// The way to a server, without sending anything.
    pub async fn route(&self, server: &ServerName) -> Result<Arc<Route>, ClientError> {
        self.policy.may_talk_to(server, Direction::Outbound)?;
        Ok(self.discovery.route(server).await?)
    }

    /// Sends a request and returns its answer, if that is a success.
    async fn exchange(
        &self,
        server: &ServerName,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
        bounds: Bounds,
        signed: bool,
    ) -> Result<Answer, ClientError> {
        let route = self.route(server).await?;
        // A literal address always has a port there.
        let has_port = route.destination.authority.contains(':');
        let outbound = if has_port { &self.outbound_to_ports } else { &self.outbound };
        let mut prepared =
            outbound.prepare(&route.destination, method.clone(), path_and_query, body.clone())?;
        if signed {
            let value = self.authorization(server, method, &prepared.path_and_query(), body)?;
            prepared.set_header(header::AUTHORIZATION, value);
        }
        let answer = match outbound.send(prepared, bounds).await {
            Ok(answer) => answer,
            Err(error) => {
                self.discovery.forget(server);
                return Err(error.into());
            }
        };
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }

    fn authorization(
        &self,
        server: &ServerName,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<HeaderValue, ClientError> {
        let malformed =
            |error: &dyn std::fmt::Display| ClientError::Egress(EgressError::Malformed(error.to_string()));
        let request = http::Request::builder().method(method).uri(path_and_query);
        let request = request.body(body.unwrap_or_default()).map_err(|error| malformed(&error))?;
        let input = XMatrixSigningInput::new(
            self.identity.server_name().to_owned(),
            server.to_owned(),
            self.identity.key(),
        );
        let header = XMatrix::sign_http_request(&request, input).map_err(|error| malformed(&error))?;
        Ok(HeaderValue::from(&header))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    errcode: String,
    error: String,
}

async fn refusal(mut answer: Answer) -> ClientError {
    let status = answer.status();
    let mut body = Vec::new();
    while body.len() < ERROR_BYTES_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    let error: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
    let message = error.error.chars().take(500).collect();
    ClientError::Status { status, errcode: error.errcode, message, body: body.into() }
}

/// A body without the members that are `null`, if there are any: servers written in Go say so of what is empty.
fn without_nulls(body: &[u8]) -> Option<Vec<u8>> {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
    let before = members.len();
    members.retain(|_, value| value.get() != "null");
    if members.len() == before {
        return None;
    }
    serde_json::to_vec(&members).ok()
}

#[cfg(test)]
mod tests {
    use super::without_nulls;

    #[test]
    fn what_is_null_is_not_there() {
        for (body, expected) in [
            (r#"{"device_keys":{"a":null},"master_keys":null}"#, Some(r#"{"device_keys":{"a":null}}"#)),
            (r#"{"device_keys":{}}"#, None),
            ("[null]", None),
            ("nonsense", None),
        ] {
            let read = without_nulls(body.as_bytes());
            assert_eq!(read.as_deref(), expected.map(str::as_bytes), "{body}");
        }
    }
}
