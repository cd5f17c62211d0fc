//! Syncing.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::time::Duration;

use allod_server::{
    rooms::send::Caller,
    sync::v3::{FilterChoice, Parts, StatePlace, SyncBody, SyncError, SyncRequest},
};
use axum::body::Body;
use futures_util::stream;
use http::Method;
use ruma::api::{
    IncomingRequest, Metadata,
    client::sync::sync_events::v3::{Filter, Request},
    error::DeserializationError,
};

use crate::{
    app::App,
    auth::Guest,
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_bytes, json_stream},
};

mod sliding;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(sync_events).raw_endpoint(sliding::sliding_sync)
}

/// `GET /_matrix/client/v3/sync`
async fn sync_events(app: App, caller: Guest, sync: SyncEvents) -> Result<Response> {
    let epoch = app.users.epoch(caller.user);
    let SyncEvents { request, state } = sync;
    let request = SyncRequest {
        caller: Caller { user_id: caller.user_id.clone(), user: caller.user, device: Some(caller.device) },
        filter: match request.filter {
            None => FilterChoice::None,
            Some(Filter::FilterDefinition(definition)) => FilterChoice::Inline(Box::new(definition)),
            Some(Filter::FilterId(id)) => FilterChoice::Stored(id),
            Some(_) => return Err(Error::invalid_param("The filter is neither an id nor a definition")),
        },
        since: request.since.filter(|since| !since.is_empty()),
        full_state: request.full_state,
        timeout: request.timeout.unwrap_or(Duration::ZERO),
        state,
        presence: request.set_presence,
    };
    let body = app.sync.v3(request).await?;
    still_signed_in(&app, &caller, epoch).await?;
    Ok(match body {
        SyncBody::Whole(body) => json_bytes(body),
        SyncBody::Parts(parts) => json_parts(parts),
    })
}

/// An answer that is sent while it is made. If it cannot be finished, the connection is cut.
fn json_parts(parts: Parts) -> Response {
    let parts = stream::unfold(parts, async |mut parts| Some((parts.next().await?, parts)));
    json_stream(Body::from_stream(parts))
}

/// Who was signed out while waiting gets nothing of what came meanwhile.
async fn still_signed_in(app: &App, caller: &Guest, epoch: u64) -> Result<()> {
    if !caller.bare
        && app.users.epoch(caller.user) != epoch
        && app
            .devices
            .find(caller.user, &caller.device_id)
            .await?
            .is_none_or(|found| found.number != caller.device)
    {
        return Err(Error::unknown_token(false));
    }
    Ok(())
}

/// ruma's request, and the parameter that `use_state_after` was before it was accepted (MSC4222).
struct SyncEvents {
    request: Request,
    state: StatePlace,
}

impl Metadata for SyncEvents {
    const METHOD: Method = Request::METHOD;
    const RATE_LIMITED: bool = Request::RATE_LIMITED;
    type Authentication = <Request as Metadata>::Authentication;
    type PathBuilder = <Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = Request::PATH_BUILDER;
}

impl IncomingRequest for SyncEvents {
    type EndpointError = <Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = <Request as IncomingRequest>::OutgoingResponse;

    fn try_from_http_request_inner(
        http: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let query = http.uri().query().unwrap_or_default();
        let unstable = query.split('&').any(|pair| pair == "org.matrix.msc4222.use_state_after=true");
        let request = Request::try_from_http_request_inner(http, path_args)?;
        let state = match (request.use_state_after, unstable) {
            (true, _) => StatePlace::After,
            (false, true) => StatePlace::AfterUnstable,
            (false, false) => StatePlace::Before,
        };
        Ok(Self { request, state })
    }
}

impl From<SyncError> for Error {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::BadToken => Self::invalid_param("This is not a sync token"),
            SyncError::UnknownFilter => Self::invalid_param("There is no such filter"),
            SyncError::Storage(error) => error.into(),
        }
    }
}
