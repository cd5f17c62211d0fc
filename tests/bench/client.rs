//! An HTTP client with one connection, as every measured person has.

use std::{fmt::Write, net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

/// A request that takes longer has failed.
const TIME_MAX: Duration = Duration::from_secs(120);

/// Someone's connection to a server.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// The access token, once there is one.
    pub(crate) token: Option<String>,
    /// Who it is, once registered.
    pub(crate) user_id: String,
    sent: u64,
}

impl Client {
    /// A client that is not connected yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, token: None, user_id: String::new(), sent: 0 }
    }

    /// Closes the connection; the next request opens another.
    pub(crate) fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Sends a request and reads the answer.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let answer = tokio::time::timeout(TIME_MAX, self.call_patiently(&method, path, body)).await;
        answer
            .unwrap_or_else(|_| bail!("no answer in {} s", TIME_MAX.as_secs()))
            .with_context(|| format!("{method} {path}"))
    }

    async fn call_patiently(
        &mut self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_closed()) {
            // The server may have closed it at this very moment; then a new one is tried.
            if let Ok(answer) = self.call_over(connection, method, path, body.clone()).await {
                return Ok(answer);
            }
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        self.call_over(connection, method, path, body).await
    }

    async fn call_over(
        &mut self,
        mut connection: SendRequest<Full<Bytes>>,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        connection.ready().await?;
        let response = connection.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok((status, body))
    }

    /// Sends a request that must succeed, and reads its JSON.
    pub(crate) async fn json<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<T> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let (status, body) = self.call(method.clone(), path, body).await?;
        if !status.is_success() {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        }
        serde_json::from_slice(&body).with_context(|| format!("{method} {path}"))
    }

    /// `GET` of something that must be there.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        self.json(Method::GET, path, &Value::Null).await
    }

    /// Sends a message to a room.
    pub(crate) async fn send(&mut self, room: &str, content: &Value) -> anyhow::Result<()> {
        self.sent = self.sent.wrapping_add(1);
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/b{}", escape(room), self.sent);
        self.json::<Value>(Method::PUT, &path, content).await?;
        Ok(())
    }
}

/// A room id, user id or filter as part of a path or query.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            // Into a string, this cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
