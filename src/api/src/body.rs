//! Request bodies: read within limits of size and time, checked before anything is parsed.

use std::time::Duration;

use allod_server::config::Limits;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use ruma::api::error::{DeserializationError, ErrorKind, FromHttpRequestError};
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};

/// Deepest nesting of JSON.
const DEPTH_MAX: usize = 100;
/// A body that brings fewer bytes than this a second, after a grace period, is given up.
const PROGRESS_BYTES_PER_SECOND: u64 = 1024;
/// How long a body may be slow, and how long nothing at all may come.
const GRACE: Duration = Duration::from_secs(10);

/// How large a body may be, by the endpoint's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Ordinary JSON.
    Ordinary,
    /// Where clients send many keys at once, and federation.
    Large,
}

impl Size {
    pub(crate) fn of(template: &str) -> Self {
        let large = ["/sendToDevice/", "/keys/", "/room_keys/", "/_matrix/federation/"];
        if large.iter().any(|part| template.contains(part)) { Self::Large } else { Self::Ordinary }
    }

    pub(crate) fn bytes_max(self, limits: &Limits) -> usize {
        match self {
            Self::Ordinary => limits.body.to_usize(),
            Self::Large => limits.body_of_keys.to_usize(),
        }
    }
}

/// A body that is read as it comes. Whoever sends it too slowly is given up.
#[derive(Debug)]
pub struct Upload {
    body: Body,
    started: Option<Instant>,
    bytes: u64,
}

impl Upload {
    /// A body of which nothing has been read.
    pub(crate) fn new(body: Body) -> Self {
        Self { body, started: None, bytes: 0 }
    }

    /// The length that the client announced, in bytes: at least this much will come.
    pub fn announced_bytes(&self) -> u64 {
        hyper::body::Body::size_hint(&self.body).lower()
    }

    /// The next piece; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let started = *self.started.get_or_insert_with(Instant::now);
        loop {
            let Some(frame) = timeout(GRACE, self.body.frame()).await.map_err(|_| too_slow())? else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| Error::unknown("The body broke off").because(error))?;
            // The other kind of frame is trailers.
            let Ok(data) = frame.into_data() else { continue };
            self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            let due =
                started.elapsed().saturating_sub(GRACE).as_secs().saturating_mul(PROGRESS_BYTES_PER_SECOND);
            return if self.bytes < due { Err(too_slow()) } else { Ok(Some(data)) };
        }
    }
}

/// Reads a whole body.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes> {
    let too_large = || Error::too_large(format!("The request body exceeds {bytes_max} bytes"));
    let mut upload = Upload::new(body);
    if usize::try_from(upload.announced_bytes()).is_ok_and(|bytes| bytes > bytes_max) {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(chunk) = upload.chunk().await? {
        if whole.len().saturating_add(chunk.len()) > bytes_max {
            return Err(too_large());
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

fn too_slow() -> Error {
    Error::new(StatusCode::REQUEST_TIMEOUT, ErrorKind::Unknown, "The body came too slowly")
}

/// Checks that a body is a JSON object of reasonable depth. An empty one is let through where a client may leave it
/// out: clients send empty bodies to `/join`, `/leave`, `/forget`, `/logout`.
pub(crate) fn check_json(method: &Method, body: &[u8]) -> Result<()> {
    if body.is_empty() && method != Method::PUT {
        return Ok(());
    }
    let text = std::str::from_utf8(body).map_err(|_| Error::not_json("The body is not UTF-8"))?;
    // Before any parser that recurses.
    if depth(body) > DEPTH_MAX {
        return Err(Error::bad_json(format!("JSON is nested deeper than {DEPTH_MAX}")));
    }
    serde_json::from_str::<IgnoredAny>(text)
        .map_err(|error| Error::not_json(format!("The body is not JSON: {error}")))?;
    if text.trim_start().starts_with('{') {
        Ok(())
    } else {
        Err(Error::bad_json("The body must be a JSON object"))
    }
}

/// How deeply brackets are nested outside strings, in text that need not be JSON.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What ruma could not read in a request, as the client should hear it.
impl From<FromHttpRequestError> for Error {
    fn from(error: FromHttpRequestError) -> Self {
        match error {
            FromHttpRequestError::Deserialization(error) => Self::from(error),
            FromHttpRequestError::MethodMismatch { .. } => Self::method_not_allowed(),
            other => Self::unknown("The request cannot be read").because(other),
        }
    }
}

impl From<DeserializationError> for Error {
    fn from(error: DeserializationError) -> Self {
        let message = error.to_string();
        // serde's only way of telling a missing field from a wrong one.
        let missing = message.starts_with("missing field") || message.starts_with("missing header");
        match error {
            DeserializationError::Json(error) if !error.is_data() => Self::not_json(message),
            _ if missing => Self::missing_param(message),
            DeserializationError::Json(_) => Self::bad_json(message),
            DeserializationError::Utf8(_)
            | DeserializationError::Query(_)
            | DeserializationError::Ident(_)
            | DeserializationError::Header(_) => Self::invalid_param(message),
            _ => Self::unknown(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    async fn status_of(body: Body) -> Option<u16> {
        read(body, 1024 * 1024).await.err().map(|error| error.status().as_u16())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_are_given_up() {
        let silent = Body::from_stream(stream::pending::<std::io::Result<Bytes>>());
        assert_eq!(status_of(silent).await, Some(408));
        let every_second = |bytes: usize| {
            stream::iter(0..60).then(move |_| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, std::io::Error>(Bytes::from(vec![b' '; bytes]))
            })
        };
        assert_eq!(status_of(Body::from_stream(every_second(100))).await, Some(408));
        assert_eq!(status_of(Body::from_stream(every_second(2000))).await, None);
    }

    #[tokio::test]
    async fn large_bodies_are_refused_announced_or_not() {
        assert_eq!(status_of(Body::from(vec![b' '; 1024 * 1024 + 1])).await, Some(413));
        let pieces = stream::iter(0..1025).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1024])));
        assert_eq!(status_of(Body::from_stream(pieces)).await, Some(413));
        assert_eq!(status_of(Body::from(vec![b' '; 1024 * 1024])).await, None);
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(br#"{"a":[{}]}"#), 3);
        assert_eq!(depth(br#"{"a":"[[[\"[["}"#), 1);
        assert_eq!(depth(b""), 0);
    }

    #[test]
    fn json_is_told_from_what_is_not() {
        let errcode =
            |method: Method, body: &[u8]| check_json(&method, body).err().and_then(|error| error.errcode());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
        let cases: [(Method, &[u8], Option<&str>); 9] = [
            (Method::POST, b"", None),
            (Method::PUT, b"", Some("M_NOT_JSON")),
            (Method::PUT, b" {} ", None),
            (Method::POST, b"{", Some("M_NOT_JSON")),
            (Method::POST, b"{} {}", Some("M_NOT_JSON")),
            (Method::POST, b"{\"a\":\"\xff\"}", Some("M_NOT_JSON")),
            (Method::POST, b"[]", Some("M_BAD_JSON")),
            (Method::POST, b"null", Some("M_BAD_JSON")),
            (Method::POST, deep.as_bytes(), Some("M_BAD_JSON")),
        ];
        for (method, body, expected) in cases {
            assert_eq!(errcode(method, body).as_deref(), expected, "{body:?}");
        }
    }
}
