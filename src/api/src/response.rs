//! Responses: from ruma's types, from a value, or from JSON bytes that exist already.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use ruma::api::{OutgoingResponse, OutgoingResponseExt};
use serde::Serialize;

use crate::error::{Error, Result};

/// A response as it goes to the client.
pub type Response = http::Response<Body>;

/// 200 with JSON bytes that were serialised elsewhere.
pub fn json_bytes(body: impl Into<Bytes>) -> Response {
    with_json_bytes(StatusCode::OK, body.into())
}

/// A JSON response from a value.
pub fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => with_json_bytes(status, bytes.into()),
        // Only maps with keys that are not strings fail, and no body has them.
        Err(_) => with_json_bytes(StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(b"{}")),
    }
}

/// An HTML page that may neither be framed nor load anything from elsewhere; scripts and styles stand in the page.
pub fn html(body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
    );
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The response that a ruma type describes.
pub(crate) fn from_ruma<R: OutgoingResponse>(response: R) -> Result<Response> {
    let response = response.try_into_http_response::<Vec<u8>>().map_err(Error::internal)?;
    Ok(response.map(Body::from))
}

/// 200 with JSON that is sent as it comes.
pub(crate) fn json_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn with_json_bytes(status: StatusCode, body: Bytes) -> Response {
    let mut response = json_stream(Body::from(body));
    *response.status_mut() = status;
    response
}
