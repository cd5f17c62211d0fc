//! One client of the gate: its connections, and requests over them within bounds.

use std::{
    collections::HashMap,
    error::Error as StdError,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use rustls::ClientConfig;

use super::{Checked, Egress, EgressError, Purpose, literal};

/// How long connecting may take, TLS included.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection without a request is kept.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// Connections without a request that are kept for one host.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// Hosts whose addresses are remembered; they are put in again with each request.
const PINS_MAX: usize = 20_000;

/// How long an answer may take and how large it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the body, after decompression.
    pub bytes_max: usize,
    /// From connecting to the last byte.
    pub time_max: Duration,
}

impl Bounds {
    /// At most this many bytes, within a minute.
    pub const fn bytes(bytes_max: usize) -> Self {
        Self { bytes_max, time_max: Duration::from_secs(60) }
    }

    /// The same size within another time.
    #[must_use]
    pub const fn within(self, time_max: Duration) -> Self {
        Self { time_max, ..self }
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Host, and port if it is not that of the addresses: what the certificate must be for.
    pub authority: String,
    /// The `Host` header, where it is another than the authority.
    pub host_header: Option<String>,
    /// Where to connect.
    pub addresses: Checked,
}

/// A request that can be sent. Its path may be spelled otherwise than asked for; sign what it says here.
#[derive(Debug)]
pub struct Prepared {
    request: reqwest::Request,
    body_bytes: usize,
}

impl Prepared {
    /// Path and query as they will be sent.
    pub fn path_and_query(&self) -> String {
        let url = self.request.url();
        match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        }
    }

    /// Sets a header.
    pub fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.request.headers_mut().insert(name, value);
    }
}

/// A client. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Outbound {
    pub(super) gate: Egress,
    purpose: Purpose,
    pub(super) client: Client,
    pub(super) pins: Pins,
    scheme: &'static str,
}

impl Outbound {
    pub(super) fn new(
        gate: Egress,
        purpose: Purpose,
        tls: ClientConfig,
        secure: bool,
    ) -> Result<Self, EgressError> {
        let pins = Pins::default();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(secure)
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .http1_only()
            .user_agent("allod")
            .connect_timeout(CONNECT_TIME_MAX)
            .pool_idle_timeout(IDLE_TIME_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .dns_resolver(pins.clone())
            .build()
            .map_err(|error| EgressError::Malformed(chain(&error)))?;
        Ok(Self { gate, purpose, client, pins, scheme: if secure { "https" } else { "http" } })
    }

    /// Makes a request ready. The path begins with a slash and may have a query.
    pub fn prepare(
        &self,
        to: &Destination,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<Prepared, EgressError> {
        let malformed = |what: &dyn std::fmt::Display| EgressError::Malformed(what.to_string());
        let url = format!("{}://{}{path_and_query}", self.scheme, to.authority);
        let url = Url::parse(&url).map_err(|error| malformed(&error))?;
        let host = url.host_str().ok_or_else(|| malformed(&"there is no host"))?;
        match literal(host) {
            // A URL's host may turn out to be an address that does not look like one, and needs no look-up.
            Some(address) if !to.addresses.addresses().iter().any(|checked| checked.ip() == address) => {
                self.gate.refused(self.purpose, host);
                return Err(EgressError::Address(host.to_owned()));
            }
            Some(_) => {}
            None => self.pins.put(host, &to.addresses),
        }
        let mut request = reqwest::Request::new(method, url);
        if let Some(value) = &to.host_header {
            let value = HeaderValue::try_from(value).map_err(|error| malformed(&error))?;
            request.headers_mut().insert(header::HOST, value);
        }
        let body_bytes = body.as_ref().map_or(0, Bytes::len);
        if let Some(body) = body {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
            *request.body_mut() = Some(body.into());
        }
        Ok(Prepared { request, body_bytes })
    }

    /// Sends a request; returns when the headers of the answer are there.
    pub async fn send(&self, prepared: Prepared, bounds: Bounds) -> Result<Answer, EgressError> {
        let Prepared { mut request, body_bytes } = prepared;
        let host = request.url().host_str().unwrap_or_default().to_owned();
        *request.timeout_mut() = Some(bounds.time_max);
        self.gate.note(self.purpose, &host, |contact| {
            contact.requests = contact.requests.saturating_add(1);
            contact.bytes_sent = contact.bytes_sent.saturating_add(u64::try_from(body_bytes).unwrap_or(0));
        });
        match self.client.execute(request).await {
            Ok(response) => {
                Ok(Answer { response, host, outbound: self.clone(), bytes: 0, bytes_max: bounds.bytes_max })
            }
            Err(error) => {
                if error.is_connect() {
                    self.gate.names.forget(&host);
                }
                Err(failure(&error))
            }
        }
    }
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Answer {
    response: reqwest::Response,
    host: String,
    outbound: Outbound,
    bytes: usize,
    bytes_max: usize,
}

impl Answer {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next piece of the body, decompressed; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, EgressError> {
        let Some(chunk) = self.response.chunk().await.map_err(|error| failure(&error))? else {
            return Ok(None);
        };
        // Counted after decompression: a small answer may unpack to a large one.
        self.bytes = self.bytes.saturating_add(chunk.len());
        if self.bytes > self.bytes_max {
            return Err(EgressError::TooLarge(self.bytes_max));
        }
        let bytes = u64::try_from(chunk.len()).unwrap_or(0);
        self.outbound.gate.note(self.outbound.purpose, &self.host, |contact| {
            contact.bytes_received = contact.bytes_received.saturating_add(bytes);
        });
        Ok(Some(chunk))
    }

    /// The whole body.
    pub async fn whole(mut self) -> Result<Bytes, EgressError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

fn failure(error: &reqwest::Error) -> EgressError {
    if error.is_timeout() { EgressError::TimedOut } else { EgressError::Unreachable(chain(error)) }
}

/// The innermost messages say what happened; the outermost repeats the URL.
fn chain(error: &dyn StdError) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// The addresses that connections are made to, by host: those that were checked, and no others.
#[derive(Clone, Debug, Default)]
pub(super) struct Pins(Arc<Mutex<HashMap<String, Arc<[SocketAddr]>>>>);

impl Pins {
    pub(super) fn put(&self, host: &str, addresses: &Checked) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.len() >= PINS_MAX && !pins.contains_key(host) {
            pins.clear();
        }
        pins.insert(host.to_owned(), Arc::clone(&addresses.0));
    }
}

impl Resolve for Pins {
    fn resolve(&self, name: Name) -> Resolving {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = pins.get(name.as_str()).cloned();
        Box::pin(async move {
            let addresses = found.ok_or("the address was not checked")?;
            let addresses: Vec<SocketAddr> = addresses.to_vec();
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
