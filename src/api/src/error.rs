//! The one error that handlers return, and the one place that turns it into a response.
//!
//! Domain errors become [`Error`] through `From` impls that stand with their chapter: exhaustive matches without `_`,
//! so that a new variant does not compile until someone chooses its errcode. What a 5xx was caused by is logged here,
//! never shown: the client reads a request id.

use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

use allod_server::database;
use http::{HeaderValue, StatusCode, header};
use ruma::api::{
    client::uiaa::UiaaInfo,
    error::{ErrorKind, LimitExceededErrorData, RetryAfter, StandardErrorBody, UnknownTokenErrorData},
};
use serde_json::{Map, Value};

use crate::response::{Response, json_response};

/// What a handler returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error, kept for the log.
pub type Source = Box<dyn StdError + Send + Sync>;

/// An error on its way to a client: a status, an errcode and a message, further JSON fields, and a cause for the log.
pub struct Error(Box<Inner>);

struct Inner {
    status: StatusCode,
    body: Body,
    extra: Map<String, Value>,
    source: Option<Source>,
}

enum Body {
    /// An errcode that ruma knows, with its fields.
    Standard(ErrorKind, Cow<'static, str>),
    /// An errcode that ruma does not know.
    Custom(&'static str, Cow<'static, str>),
    /// What user-interactive authentication still asks for.
    Uia(UiaaInfo),
    /// A failure whose cause the client may not know: what to say instead.
    Internal(&'static str),
}

impl Error {
    /// An error with an errcode that ruma knows.
    pub fn new(status: StatusCode, kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::with_body(status, Body::Standard(kind, message.into()))
    }

    /// An error with an errcode that ruma does not know.
    pub fn custom(status: StatusCode, errcode: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::with_body(status, Body::Custom(errcode, message.into()))
    }

    /// 401 with the flows, the session and what is completed, and the errcode of a stage that failed.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>
    pub fn uia(info: UiaaInfo) -> Self {
        Self::with_body(StatusCode::UNAUTHORIZED, Body::Uia(info))
    }

    /// 500 `M_UNKNOWN`: the cause goes to the log, the client gets a request id.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::with_body(StatusCode::INTERNAL_SERVER_ERROR, Body::Internal("Internal error")).because(source)
    }

    /// 503 `M_UNKNOWN`: try again later. The cause goes to the log, the client gets a request id.
    pub fn unavailable(source: impl Into<Source>) -> Self {
        let message = "The server cannot do this at present, try again later";
        Self::with_body(StatusCode::SERVICE_UNAVAILABLE, Body::Internal(message)).because(source)
    }

    /// 503 `M_UNKNOWN`: the disk is full or broken, so that the server only reads. Whether this was stored may be unknown.
    pub fn read_only(source: impl Into<Source>) -> Self {
        let message = "The server cannot store anything at present, try again later";
        Self::with_body(StatusCode::SERVICE_UNAVAILABLE, Body::Internal(message)).because(source)
    }

    /// 504 `M_UNKNOWN`: the handler took too long.
    pub fn timed_out() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::Unknown, "The request took too long")
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorKind::Forbidden, message)
    }

    /// 401 `M_UNAUTHORIZED`: another server's signature is missing or wrong.
    pub fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, message)
    }

    /// 403 `M_INVITE_BLOCKED`.
    pub fn invite_blocked() -> Self {
        let message = "The user does not accept your invitations";
        Self::new(StatusCode::FORBIDDEN, ErrorKind::InviteBlocked, message)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::NotFound, message)
    }

    /// 404 `M_UNRECOGNIZED`: no such endpoint, or one that is switched off.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::Unrecognized, "Unrecognized request")
    }

    /// 405 `M_UNRECOGNIZED`: the endpoint exists, but not with this method.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::Unrecognized, "Unrecognized method")
    }

    /// 400 `M_BAD_JSON`: JSON of the wrong shape.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::BadJson, message)
    }

    /// 400 `M_NOT_JSON`.
    pub fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::NotJson, message)
    }

    /// 400 `M_MISSING_PARAM`.
    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::MissingParam, message)
    }

    /// 400 `M_INVALID_PARAM`.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidParam, message)
    }

    /// 400 `M_UNKNOWN`: wrong in a way that has no errcode of its own.
    pub fn unknown(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, message)
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, message)
    }

    /// 401 `M_MISSING_TOKEN`.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::MissingToken, "Missing access token")
    }

    /// 401 `M_UNKNOWN_TOKEN`; with `soft_logout` the client keeps its device and keys.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let mut data = UnknownTokenErrorData::new();
        data.soft_logout = soft_logout;
        let kind = ErrorKind::UnknownToken(data);
        Self::new(StatusCode::UNAUTHORIZED, kind, "Unknown access token")
    }

    /// 401 `M_USER_LOCKED` with `soft_logout`: everything but logging out is refused.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#account-locking>
    pub fn user_locked() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::UserLocked, "This account is locked")
            .with("soft_logout", true)
    }

    /// 403 `M_USER_SUSPENDED`.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#account-suspension>
    pub fn user_suspended() -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorKind::UserSuspended, "This account is suspended")
    }

    /// 403 `M_GUEST_ACCESS_FORBIDDEN`.
    pub fn guest_access_forbidden() -> Self {
        let kind = ErrorKind::GuestAccessForbidden;
        Self::new(StatusCode::FORBIDDEN, kind, "Guests may not do this")
    }

    /// 429 `M_LIMIT_EXCEEDED` with `Retry-After` and `retry_after_ms`.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let mut data = LimitExceededErrorData::new();
        data.retry_after = Some(RetryAfter::Delay(retry_after));
        let kind = ErrorKind::LimitExceeded(data);
        Self::new(StatusCode::TOO_MANY_REQUESTS, kind, "Too many requests")
    }

    /// Adds a field to the JSON body.
    #[must_use]
    pub fn with(mut self, field: &'static str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(field.to_owned(), value.into());
        self
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The errcode, if the body has one: user-interactive authentication may have none.
    pub fn errcode(&self) -> Option<String> {
        match &self.0.body {
            Body::Standard(kind, _) => Some(kind.errcode().to_string()),
            Body::Custom(errcode, _) => Some((*errcode).to_owned()),
            Body::Uia(info) => info.auth_error.as_ref().map(|e| e.kind.errcode().to_string()),
            Body::Internal(_) => Some("M_UNKNOWN".to_owned()),
        }
    }

    /// Logs what the client is not told, and makes the response.
    pub(crate) fn into_response(self, request_id: &str) -> Response {
        self.log();
        let Inner { status, body, extra, source: _ } = *self.0;
        let retry_after = retry_after(&body);
        let mut object = match body {
            Body::Standard(kind, message) => to_object(&StandardErrorBody::new(kind, message.into_owned())),
            Body::Custom(errcode, message) => error_object(errcode, &message),
            Body::Uia(info) => to_object(&info),
            Body::Internal(message) => {
                error_object("M_UNKNOWN", &format!("{message} (request {request_id})"))
            }
        };
        object.extend(extra);
        let mut response = json_response(status, &object);
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }

    fn log(&self) {
        let source = self.0.source.as_deref().map(chain);
        if self.0.status.is_server_error() {
            tracing::error!(status = self.0.status.as_u16(), cause = source, "request failed");
        } else if let Some(source) = source {
            tracing::debug!(status = self.0.status.as_u16(), cause = source, "request refused");
        }
    }

    fn with_body(status: StatusCode, body: Body) -> Self {
        Self(Box::new(Inner { status, body, extra: Map::new(), source: None }))
    }
}

/// What storage failed with: 500 for a damaged row, else 503, for trying again may help. What is too large for a row is
/// refused by its service before it gets there.
impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        match error {
            database::Error::Corrupt(..) => Self::internal(error),
            database::Error::Commit(_) if error.is_read_only() => Self::read_only(error),
            database::Error::Storage(_) | database::Error::Commit(_) => Self::unavailable(error),
        }
    }
}

/// Whole seconds, rounded up: who comes back at that time is let in.
fn retry_after(body: &Body) -> Option<HeaderValue> {
    let Body::Standard(ErrorKind::LimitExceeded(data), _) = body else {
        return None;
    };
    match data.retry_after? {
        RetryAfter::Delay(delay) => {
            let seconds = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
            Some(seconds.into())
        }
        at @ RetryAfter::DateTime(_) => HeaderValue::try_from(&at).ok(),
    }
}

fn error_object(errcode: &str, message: &str) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("errcode".to_owned(), errcode.into());
    object.insert("error".to_owned(), message.into());
    object
}

fn to_object(body: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) | Err(_) => error_object("M_UNKNOWN", "Internal error"),
    }
}

/// The messages of an error and its causes.
fn chain(error: &(dyn StdError + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Error")
            .field("status", &self.0.status)
            .field("errcode", &self.errcode())
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.body {
            Body::Standard(kind, message) => write!(formatter, "{}: {message}", kind.errcode()),
            Body::Custom(errcode, message) => write!(formatter, "{errcode}: {message}"),
            Body::Uia(_) => formatter.write_str("user-interactive authentication required"),
            Body::Internal(message) => formatter.write_str(message),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source: &(dyn StdError + 'static) = self.0.source.as_deref()?;
        Some(source)
    }
}
