//! What surrounds every request: CORS, an id, a line in the log, a count, and a net under panics.
//!
//! Log and metrics name the endpoint by its path template: no user, room or token stands in it.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;
use tracing::{Instrument, field};

use crate::{app::App, error::Error, response::Response};

/// Names a request in the log and, if it fails on our side, to the client.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestId(pub(crate) String);

/// What a response is to: kept beside it for the log and the metrics.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The template of the path.
    pub(crate) template: Arc<str>,
    /// Whether it may wait: for news, for other servers, for a body.
    pub(crate) waits: bool,
}

/// What is counted of requests that no endpoint answered.
const NO_ENDPOINT: &str = "(none)";

/// Headers of every response, errors and `OPTIONS` included.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients>
const CORS: [(HeaderName, HeaderValue); 3] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS")),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"),
    ),
];

/// Counts requests within one run of the server.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Runs a request inside its envelope.
pub(crate) async fn wrap(State(app): State<App>, mut request: Request, next: Next) -> Response {
    // On every path, known or not, and without running anything.
    if request.method() == Method::OPTIONS {
        return preflight();
    }
    let method = request.method().clone();
    let id = RequestId(format!("{}-{}", app.boot, REQUESTS.fetch_add(1, Ordering::Relaxed)));
    let span = tracing::info_span!(
        parent: None,
        "request",
        id = id.0,
        method = method.as_str(),
        endpoint = field::Empty
    );
    request.extensions_mut().insert(id.clone());
    let started = Instant::now();
    let answer = async move {
        let mut response = AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| panicked(panic.as_ref(), &id));
        add_cors(&mut response);
        note(&app, &method, &response, started.elapsed());
        response
    };
    answer.instrument(span).await
}

/// Tells the log and the metrics of a request.
fn note(app: &App, method: &Method, response: &Response, took: Duration) {
    let (status, duration_ms) = (response.status().as_u16(), took.as_millis());
    tracing::info!(status, duration_ms, "served");
    let served = response.extensions().get::<Served>();
    let endpoint = served.map_or(NO_ENDPOINT, |served| &served.template);
    // Whoever makes up methods makes no metrics.
    let method = if served.is_some() { method.as_str() } else { NO_ENDPOINT };
    app.metrics.answered(method, endpoint, status, took);
    let is_slow = took > app.config.get().logging.slow_requests.0;
    if is_slow && !served.is_some_and(|served| served.waits) {
        app.metrics.slow();
        tracing::warn!(status, duration_ms, "slow");
    }
}

fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    add_cors(&mut response);
    let age = HeaderValue::from_static("86400");
    response.headers_mut().insert(header::ACCESS_CONTROL_MAX_AGE, age);
    response
}

fn add_cors(response: &mut Response) {
    for (name, value) in CORS {
        response.headers_mut().insert(name, value);
    }
}

/// A bug: the request is lost, the server is not.
fn panicked(panic: &(dyn Any + Send), id: &RequestId) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "of unknown kind".to_owned());
    Error::internal(format!("handler panicked: {message}")).into_response(&id.0)
}
