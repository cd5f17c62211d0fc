//! ruma's requests with what ruma leaves out of them.

use http::{HeaderMap, Method};
use ruma::api::{IncomingRequest, Metadata, error::DeserializationError};
use serde_json::{Map, Value};

/// A request with all fields of its body, also those that the specification does not name.
#[derive(Debug)]
pub(crate) struct WithBody<R> {
    /// What ruma makes of it.
    pub(crate) request: R,
    /// The whole body.
    pub(crate) body: Map<String, Value>,
}

impl<R: Metadata> Metadata for WithBody<R> {
    const METHOD: Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for WithBody<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        http: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let body = serde_json::from_slice(http.body())?;
        Ok(Self { request: R::try_from_http_request_inner(http, path_args)?, body })
    }
}

/// A request with its query, for parameters that the specification does not name.
#[derive(Debug)]
pub(crate) struct WithQuery<R> {
    /// What ruma makes of it.
    pub(crate) request: R,
    query: String,
}

impl<R> WithQuery<R> {
    /// The parameter's first value.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// All values of the parameters that have one of these names.
    pub(crate) fn parameters(&self, names: &[&str]) -> Vec<String> {
        let pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(key, _)| names.contains(&&**key)).map(|(_, value)| value.into_owned()).collect()
    }
}

impl<R: Metadata> Metadata for WithQuery<R> {
    const METHOD: Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for WithQuery<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        http: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let query = http.uri().query().unwrap_or_default().to_owned();
        Ok(Self { request: R::try_from_http_request_inner(http, path_args)?, query })
    }
}

/// A request for a page that goes forward where the client does not say, as clients have come to expect.
#[derive(Debug)]
pub(crate) struct DirectionOptional<R>(pub(crate) R);

impl<R: Metadata> Metadata for DirectionOptional<R> {
    const METHOD: Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for DirectionOptional<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        mut http: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let query = http.uri().query().unwrap_or_default();
        if !query.split('&').any(|pair| pair.starts_with("dir=")) {
            let path = http.uri().path();
            if let Ok(uri) = format!("{path}?{query}&dir=f").parse() {
                *http.uri_mut() = uri;
            }
        }
        Ok(Self(R::try_from_http_request_inner(http, path_args)?))
    }
}

/// A request with its method and headers.
#[derive(Debug)]
pub(crate) struct WithHeaders<R> {
    /// What ruma makes of it.
    pub(crate) request: R,
    method: Method,
    headers: HeaderMap,
}

impl<R> WithHeaders<R> {
    /// The method, which may be `HEAD` for an endpoint of `GET`, and the headers.
    pub(crate) fn head(&self) -> (&Method, &HeaderMap) {
        (&self.method, &self.headers)
    }
}

impl<R: Metadata> Metadata for WithHeaders<R> {
    const METHOD: Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for WithHeaders<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        http: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (method, headers) = (http.method().clone(), http.headers().clone());
        Ok(Self { request: R::try_from_http_request_inner(http, path_args)?, method, headers })
    }
}
