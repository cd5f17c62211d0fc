//! From a handler to a route: the type of the request decides everything else.
//!
//! # How to add an endpoint
//!
//! 1. Find ruma's module, such as `ruma::api::client::redact::redact_event::v3`. Its name names the handler; the
//!    chapter of the spec names the file, `src/api/src/client/redact.rs`.
//! 2. Write the handler. Its first doc line is method and path. It makes one or two service calls and builds the
//!    response; it does not read storage, and it does not loop over events.
//!
//!    ```ignore
//!    /// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
//!    async fn redact_event(app: App, caller: Active, request: Request) -> Result<Response> {
//!        let event_id = app.rooms.redact(request.room_id, caller.user, request.event_id).await?;
//!        Ok(Response::new(event_id))
//!    }
//!    ```
//! 3. Choose the caller's type; what the endpoint's authentication does not allow does not compile:
//!
//!    | authentication (ruma) | caller | who is let in |
//!    |---|---|---|
//!    | `AccessToken` | `Session` | a user, who may be suspended: for reading |
//!    | | `Active` | a user who is not suspended: for writing |
//!    | | `Guest` | guests too (the spec's list in §Guest Access) |
//!    | | `Locked` | locked accounts too: logout, logout/all |
//!    | | `Admin` | server administrators |
//!    | `AccessTokenOptional` | `Option<Session>`, `Option<Guest>` | all; a wrong token is 401 |
//!    | | `Anyone` | all; the token is not looked at |
//!    | `AppserviceToken`, `AppserviceTokenOptional` | `AppserviceToken` | all; the handler looks at the token |
//!    | `NoAccessToken`, `NoAuthentication` | `()` | all |
//!    | `NoAccessToken` | `Option<Session>`, `Option<Guest>` | all; for what a configuration may close |
//!    | `ServerSignatures` | `Origin` | servers that this one talks to, by their signature |
//!    | any of these | `(caller, Client)` | as the caller; with address and user agent |
//!
//! 4. Turn the service's error into ours in the same file: `impl From<RedactError> for Error` with an exhaustive
//!    `match`; its arms are the endpoint's errcode table.
//! 5. Register it in the file's `pub(crate) fn routes(routes: Routes) -> Routes` with `.endpoint(redact_event)`, and the
//!    file in `router.rs`. Stable, r0 and unstable paths all come from ruma. Other kinds of routes:
//!    `.raw_endpoint` returns bytes made elsewhere (sync, messages), `.upload_endpoint` reads the body as a stream ([`Upload`]),
//!    `.route` serves what ruma does not know (pages, `/_synapse`), with [`PlainRequest`] as its request, and `.upload_route`
//!    the same with a stream.
//! 6. Body limit, rate-limit class and time limit follow from the path: `Size::of` in `body.rs`, `Class::of` and
//!    `Patience::of` in `limits.rs`. User-interactive
//!    authentication is asked for with `Err(Error::uia(info))`.
//! 7. Tests stand beside the handler, and the journeys in `tests/it`.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, request::Parts};
use ruma::api::{
    IncomingRequest, IncomingRequestExt, Metadata, error::DeserializationError, path_builder::PathBuilder,
};

use crate::{
    address::Client,
    app::App,
    auth::{Caller, Identity, Session, Token, Unspecified, identify},
    body::{self, Size, Upload},
    client::delayed_event::DELAY_PARAMETER,
    error::{Error, Result},
    federation::signature,
    limits::{Class, Patience},
    response::{Response, from_ruma},
};

/// One request on its way to a handler.
pub(crate) struct Call {
    pub(crate) app: App,
    pub(crate) parts: Parts,
    /// The path's arguments in order, percent-decoded once.
    pub(crate) args: Vec<String>,
    pub(crate) body: Body,
    pub(crate) client: Client,
    pub(crate) class: Class,
    pub(crate) size: Size,
}

/// A handler whose types are forgotten: builds stay quick when one is edited.
pub(crate) type Run = Arc<dyn Fn(Call) -> BoxFuture<'static, Result<Response>> + Send + Sync>;

/// What is served under one path and method.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    pub(crate) template: Arc<str>,
    pub(crate) class: Class,
    pub(crate) size: Size,
    pub(crate) patience: Patience,
    pub(crate) run: Run,
}

/// A request that no ruma type describes, its body read.
#[derive(Debug)]
pub struct PlainRequest {
    /// Method, address and headers.
    pub parts: Parts,
    /// The path's arguments in order, percent-decoded.
    pub args: Vec<String>,
    /// The body.
    pub body: Bytes,
}

impl PlainRequest {
    /// The body, which must be a JSON object of this shape.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        body::check_json(&self.parts.method, &self.body)?;
        let body = if self.body.is_empty() { b"{}" } else { &self.body[..] };
        serde_json::from_slice(body).map_err(|error| DeserializationError::Json(error).into())
    }
}

/// The routes of the server, by path with unnamed parameters.
#[derive(Default)]
pub struct Routes {
    pub(crate) paths: BTreeMap<String, Vec<Endpoint>>,
    /// Methods and paths that were registered twice.
    pub(crate) conflicts: Vec<String>,
}

impl Routes {
    /// Serves an endpoint.
    #[must_use]
    pub fn endpoint<R, C, F, Fut>(self, handler: F) -> Self
    where
        R: IncomingRequest + Send + 'static,
        R::OutgoingResponse: Send,
        C: Caller<R::Authentication>,
        F: Fn(App, C, R) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R::OutgoingResponse>> + Send + 'static,
    {
        self.register::<R>(&erase(move |mut call| {
            let handler = handler.clone();
            Box::pin(async move {
                let caller = C::admit(call.identify(C::TOKEN).await?)?;
                let body = call.read_json().await?;
                let request = call.parse::<R>(&body)?;
                from_ruma(handler(call.app, caller, request).await?)
            })
        }))
    }

    /// Serves an endpoint whose handler makes the response itself, from bytes that exist already.
    #[must_use]
    pub fn raw_endpoint<R, C, F, Fut>(self, handler: F) -> Self
    where
        R: IncomingRequest + Send + 'static,
        C: Caller<R::Authentication>,
        F: Fn(App, C, R) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Response>> + Send + 'static,
    {
        self.register::<R>(&erase(move |mut call| {
            let handler = handler.clone();
            Box::pin(async move {
                let caller = C::admit(call.identify(C::TOKEN).await?)?;
                let body = call.read_json().await?;
                let request = call.parse::<R>(&body)?;
                handler(call.app, caller, request).await
            })
        }))
    }

    /// Serves an endpoint whose body is not JSON: the handler reads it as a stream and limits it. The request is parsed
    /// as if its body were empty.
    #[must_use]
    pub fn upload_endpoint<R, C, F, Fut>(self, handler: F) -> Self
    where
        R: IncomingRequest + Send + 'static,
        C: Caller<R::Authentication>,
        F: Fn(App, C, R, Upload) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Response>> + Send + 'static,
    {
        self.register::<R>(&erase(move |mut call| {
            let handler = handler.clone();
            Box::pin(async move {
                let caller = C::admit(call.identify(C::TOKEN).await?)?;
                let request = call.parse::<R>(b"")?;
                let upload = Upload::new(std::mem::take(&mut call.body));
                handler(call.app, caller, request, upload).await
            })
        }))
    }

    /// Serves what ruma does not know. Any caller is possible, so that the handler's choice is the authentication.
    #[must_use]
    pub fn route<C, F, Fut>(mut self, method: &Method, template: &str, handler: F) -> Self
    where
        C: Caller<Unspecified>,
        F: Fn(App, C, PlainRequest) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Response>> + Send + 'static,
    {
        let run = erase(move |mut call| {
            let handler = handler.clone();
            Box::pin(async move {
                let caller = C::admit(call.identify(C::TOKEN).await?)?;
                let body = call.read().await?;
                let Call { app, parts, args, .. } = call;
                handler(app, caller, PlainRequest { parts, args, body }).await
            })
        });
        self.add(method, template, true, &run);
        self
    }

    /// The same for a body that is not JSON: the handler reads it as a stream and limits it.
    #[must_use]
    pub fn upload_route<C, F, Fut>(mut self, method: &Method, template: &str, handler: F) -> Self
    where
        C: Caller<Unspecified>,
        F: Fn(App, C, PlainRequest, Upload) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Response>> + Send + 'static,
    {
        let run = erase(move |mut call| {
            let handler = handler.clone();
            Box::pin(async move {
                let caller = C::admit(call.identify(C::TOKEN).await?)?;
                let upload = Upload::new(std::mem::take(&mut call.body));
                let Call { app, parts, args, .. } = call;
                handler(app, caller, PlainRequest { parts, args, body: Bytes::new() }, upload).await
            })
        });
        self.add(method, template, true, &run);
        self
    }

    fn register<R: Metadata>(mut self, run: &Run) -> Self {
        for template in R::PATH_BUILDER.all_paths() {
            self.add(&R::METHOD, template, R::RATE_LIMITED, run);
        }
        self
    }

    fn add(&mut self, method: &Method, template: &str, rate_limited: bool, run: &Run) {
        for path in spellings(template) {
            let endpoints = self.paths.entry(path).or_default();
            if endpoints.iter().any(|endpoint| endpoint.method == *method) {
                self.conflicts.push(format!("{method} {template}"));
                continue;
            }
            endpoints.push(Endpoint {
                method: method.clone(),
                template: template.into(),
                class: Class::of(method, template, rate_limited),
                size: Size::of(template),
                patience: Patience::of(template),
                run: Arc::clone(run),
            });
        }
    }
}

/// Forgets a handler's types.
fn erase(run: impl Fn(Call) -> BoxFuture<'static, Result<Response>> + Send + Sync + 'static) -> Run {
    Arc::new(run)
}

impl Call {
    /// Who sent the request; counts it against their limit. (`&mut`: the body may move to another thread, not be shared.)
    async fn identify(&mut self, wanted: Token) -> Result<Identity> {
        if wanted == Token::Signed {
            return self.identify_server().await;
        }
        let client = self.client.clone();
        let identity = match identify(&self.app, &self.parts, client, wanted).await {
            Ok(identity) => identity,
            Err(error) => {
                // Guessing tokens is not free.
                self.app.limits.count(Class::Ordinary, None, self.client.address)?;
                return Err(error);
            }
        };
        let user = identity.session.as_ref().map(|session| session.user);
        if !self.is_unlimited(identity.session.as_ref()) {
            self.app.limits.count(self.class, user, self.client.address)?;
        }
        if let Some(session) = identity.session.as_ref().filter(|session| !session.bare) {
            self.app.devices.saw(session.user, session.device, Some(self.client.address));
        }
        Ok(identity)
    }

    /// Whether an application service sent the request whose requests are not counted.
    fn is_unlimited(&self, session: Option<&Session>) -> bool {
        let acting = session.and_then(|session| Some((session, self.app.bridges.get(session.bridge?)?)));
        acting.is_some_and(|(session, bridge)| !bridge.is_limited(&session.user_id))
    }

    /// Which server signed the request. The signature covers the body, so that is read first; it is kept.
    async fn identify_server(&mut self) -> Result<Identity> {
        let claim = match signature::read(&self.app, &self.parts) {
            Ok(claim) => claim,
            Err(error) => {
                self.app.limits.count(Class::Ordinary, None, self.client.address)?;
                return Err(error);
            }
        };
        let body = if self.parts.method == Method::GET || self.parts.method == Method::HEAD {
            Bytes::new()
        } else {
            self.read().await?
        };
        body::check_json(&self.parts.method, &body)?;
        if let Err(error) = signature::verify(&self.app, &claim, &self.parts, &body).await {
            // Making this server look for keys is not free.
            self.app.limits.count(Class::Ordinary, None, self.client.address)?;
            return Err(error);
        }
        self.app.limits.count_server(claim.origin())?;
        self.body = Body::from(body);
        Ok(Identity {
            session: None,
            origin: Some(claim.origin().to_owned()),
            token: None,
            client: self.client.clone(),
        })
    }

    /// The body, checked to be a JSON object. A `GET` has none, whatever it brings.
    async fn read_json(&mut self) -> Result<Bytes> {
        if self.parts.method == Method::GET || self.parts.method == Method::HEAD {
            return Ok(Bytes::new());
        }
        let body = self.read().await?;
        // Who asks again for what a delayed event's transaction brought (MSC4140) need not say the event again.
        if !(body.is_empty() && self.is_delayed()) {
            body::check_json(&self.parts.method, &body)?;
        }
        // ruma wants an object wherever the endpoint has fields, be they all optional.
        Ok(if body.is_empty() { Bytes::from_static(b"{}") } else { body })
    }

    fn is_delayed(&self) -> bool {
        let query = self.parts.uri.query().unwrap_or_default();
        query.split('&').any(|pair| pair.split('=').next() == Some(DELAY_PARAMETER))
    }

    async fn read(&mut self) -> Result<Bytes> {
        let bytes_max = self.size.bytes_max(&self.app.config.get().limits);
        body::read(std::mem::take(&mut self.body), bytes_max).await
    }

    /// ruma panics where a key is absent that it looks up (client-api 0.25.2: the type of a login); such a request is
    /// wrong, not this server.
    fn parse<R: IncomingRequest>(&self, body: &[u8]) -> Result<R> {
        let request = http::Request::from_parts(self.parts.clone(), body);
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        match panic::catch_unwind(AssertUnwindSafe(|| R::try_from_http_request(request, &args))) {
            Ok(parsed) => Ok(parsed?),
            Err(_) => Err(Error::missing_param("A required field is missing")),
        }
    }
}

/// The spellings of a path that are served, its parameters unnamed.
///
/// An empty state key leaves its slash optional, and the push rule paths are spelled with a final slash in the spec and
/// without one by some clients (§Getting events for a room, §Push Rules: API).
fn spellings(template: &str) -> Vec<String> {
    let path = unnamed(template);
    if template.ends_with("/state/{event_type}/{state_key}") {
        let without_key = path.trim_end_matches(|end| end != '/').trim_end_matches('/').to_owned();
        let with_slash = format!("{without_key}/");
        return vec![path, without_key, with_slash];
    }
    match path.strip_suffix('/') {
        Some(without_slash) => vec![without_slash.to_owned(), path],
        None if path.ends_with("/pushrules") || path.ends_with("/pushrules/global") => {
            let with_slash = format!("{path}/");
            vec![path, with_slash]
        }
        None => vec![path],
    }
}

/// Endpoints name the parameters of one path differently; the router needs them to agree.
fn unnamed(template: &str) -> String {
    let mut parameters = 0..;
    let segments = template.split('/').map(|segment| {
        if segment.starts_with('{') {
            format!("{{{}}}", parameters.next().unwrap_or(0))
        } else {
            segment.to_owned()
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_served_in_all_their_spellings() {
        assert_eq!(
            spellings("/rooms/{room_id}/state/{event_type}/{state_key}"),
            ["/rooms/{0}/state/{1}/{2}", "/rooms/{0}/state/{1}", "/rooms/{0}/state/{1}/"]
        );
        assert_eq!(spellings("/pushrules/"), ["/pushrules", "/pushrules/"]);
        assert_eq!(spellings("/pushrules/global"), ["/pushrules/global", "/pushrules/global/"]);
        assert_eq!(spellings("/rooms/{room_id}/join"), ["/rooms/{0}/join"]);
    }
}
