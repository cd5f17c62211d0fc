//! Events, state and history of rooms that the asking server is in.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>,
//! <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use allod_server::{
    inbound::serve::ServeError,
    rooms::{event::StoredEvent, read::Direction},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, UInt,
    api::{
        Direction as Way,
        federation::{
            authorization::get_event_authorization::v1 as auth,
            backfill::get_backfill::v1 as backfill,
            event::{
                get_event::v1 as event, get_event_by_timestamp::v1 as at_time,
                get_missing_events::v1 as missing, get_room_state::v1 as state,
                get_room_state_ids::v1 as state_ids,
            },
        },
    },
};
use serde_json::value::RawValue;

use super::inbound;
use crate::{
    app::App,
    auth::Origin,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_event)
        .endpoint(get_room_state)
        .endpoint(get_room_state_ids)
        .endpoint(get_event_authorization)
        .endpoint(get_backfill)
        .endpoint(get_missing_events)
        .endpoint(get_event_by_timestamp)
}

/// `GET /_matrix/federation/v1/event/{eventId}`
async fn get_event(app: App, origin: Origin, request: event::Request) -> Result<event::Response> {
    let json = inbound(&app)?.event(&origin, &request.event_id).await?;
    Ok(event::Response::new(app.users.server_name().to_owned(), app.clock.now(), raw(&json)?))
}

/// `GET /_matrix/federation/v1/state/{roomId}`
async fn get_room_state(app: App, origin: Origin, request: state::Request) -> Result<state::Response> {
    let served = inbound(&app)?.state_before(&origin, &request.room_id, &request.event_id).await?;
    let all = |events: &[std::sync::Arc<StoredEvent>]| {
        events.iter().map(|event| raw(&event.json)).collect::<Result<Vec<_>>>()
    };
    Ok(state::Response::new(all(&served.auth_chain)?, all(&served.state)?))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
async fn get_room_state_ids(
    app: App,
    origin: Origin,
    request: state_ids::Request,
) -> Result<state_ids::Response> {
    let served = inbound(&app)?.state_before(&origin, &request.room_id, &request.event_id).await?;
    let all = |events: &[std::sync::Arc<StoredEvent>]| {
        let ids = events.iter().map(|event| OwnedEventId::try_from(event.record.event_id.as_str()));
        ids.collect::<Result<Vec<_>, _>>().map_err(Error::internal)
    };
    Ok(state_ids::Response::new(all(&served.auth_chain)?, all(&served.state)?))
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
async fn get_event_authorization(app: App, origin: Origin, request: auth::Request) -> Result<auth::Response> {
    let chain = inbound(&app)?.event_auth(&origin, &request.room_id, &request.event_id).await?;
    Ok(auth::Response::new(chain.iter().map(|json| raw(json)).collect::<Result<_>>()?))
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
async fn get_backfill(app: App, origin: Origin, request: backfill::Request) -> Result<backfill::Response> {
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let events = inbound(&app)?.history(&origin, &request.room_id, &request.v, limit).await?;
    let events = events.iter().map(|json| raw(json)).collect::<Result<_>>()?;
    Ok(backfill::Response::new(app.users.server_name().to_owned(), app.clock.now(), events))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
async fn get_missing_events(
    app: App,
    origin: Origin,
    request: missing::Request,
) -> Result<missing::Response> {
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let between = (&*request.earliest_events, &*request.latest_events);
    let min_depth = request.min_depth.into();
    let events = inbound(&app)?.missing(&origin, &request.room_id, between, limit, min_depth).await?;
    Ok(missing::Response::new(events.iter().map(|json| raw(json)).collect::<Result<_>>()?))
}

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
async fn get_event_by_timestamp(
    app: App,
    origin: Origin,
    request: at_time::Request,
) -> Result<at_time::Response> {
    let direction = match request.dir {
        Way::Forward => Direction::Forward,
        Way::Backward => Direction::Backward,
    };
    let found = inbound(&app)?.at_time(&origin, &request.room_id, request.ts.get().into(), direction).await?;
    let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(found.origin_server_ts));
    Ok(at_time::Response::new(found.event_id, at))
}

/// Stored JSON, to stand in an answer as it is.
pub(super) fn raw(json: &[u8]) -> Result<Box<RawValue>> {
    serde_json::from_slice(json).map_err(Error::internal)
}

impl From<ServeError> for Error {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::UnknownRoom | ServeError::UnknownEvent => Self::not_found(error.to_string()),
            ServeError::Denied | ServeError::Outside | ServeError::Partial => {
                Self::forbidden(error.to_string())
            }
            ServeError::Storage(error) => error.into(),
        }
    }
}
