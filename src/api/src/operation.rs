//! What programs that watch the server ask, on a listener of its own: metrics, and whether it is well. Without the envelope
//! of other requests: who watches every few seconds is no news, and is not counted.

use allod_server::metrics::CONTENT_TYPE;
use axum::{Router, body::Body, extract::State, routing::get};
use http::{HeaderValue, StatusCode, header};

use crate::{app::App, response::Response};

/// The router of the listener for programs that watch.
pub fn build(app: App) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(app)
}

/// `GET /metrics`: the numbers, in Prometheus' text format.
async fn metrics(State(app): State<App>) -> Response {
    text(StatusCode::OK, CONTENT_TYPE, app.metrics.page())
}

/// `GET /health`: 200 as long as the process answers at all.
async fn health() -> Response {
    plain(StatusCode::OK, "alive\n".to_owned())
}

/// `GET /ready`: 200 if requests can be served, 503 and why if not.
async fn ready(State(app): State<App>) -> Response {
    match trouble(&app) {
        None => plain(StatusCode::OK, "ready\n".to_owned()),
        Some(trouble) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
    }
}

/// Why requests cannot all be served now.
pub(crate) fn trouble(app: &App) -> Option<String> {
    if app.stopping.is_cancelled() {
        return Some("the server is stopping".to_owned());
    }
    app.metrics.observed().trouble()
}

fn plain(status: StatusCode, body: String) -> Response {
    text(status, "text/plain; charset=utf-8", body)
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
#[path = "operation/tests.rs"]
mod tests;
