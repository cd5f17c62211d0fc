//! Talks to the running server through its admin socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A way to the running server.
#[derive(Debug)]
pub(crate) struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// Asks through this socket.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Sends one request and returns the answer's JSON; an error answer becomes an error.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let stream = UnixStream::connect(&self.socket).await.with_context(|| no_server(&self.socket))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            anyhow::Ok((status, body.map_err(|error| anyhow::anyhow!(error))?.to_bytes()))
        };
        // The connection ends with the exchange: one request is all that is sent over it.
        let (status, body) = tokio::select! {
            answer = exchange => answer.context("the server broke off")?,
            end = connection => { end?; bail!("the server closed the connection") }
        };
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() { Ok(answer) } else { Err(refusal(status, &answer)) }
    }
}

fn no_server(socket: &Path) -> String {
    format!(
        "no server answers at {}; is it running (`allod serve`), with the same configuration, and may you open the \
         socket?",
        socket.display()
    )
}

fn refusal(status: StatusCode, answer: &Value) -> anyhow::Error {
    match answer.get("error").and_then(Value::as_str) {
        Some(message) => anyhow::anyhow!("{message}"),
        None => anyhow::anyhow!("the server answered {status}"),
    }
}
