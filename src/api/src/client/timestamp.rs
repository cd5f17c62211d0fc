//! Jumping to a date.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event>

use allod_server::rooms::read::Direction;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{Direction as RumaDirection, client::room::get_event_by_timestamp::v1 as by_timestamp},
};

use crate::{
    app::App,
    auth::Session,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_event_by_timestamp)
}

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
async fn get_event_by_timestamp(
    app: App,
    session: Session,
    request: by_timestamp::Request,
) -> Result<by_timestamp::Response> {
    let view = app.rooms.view(&request.room_id, &caller(&session)).await?;
    let direction = match request.dir {
        RumaDirection::Backward => Direction::Backward,
        RumaDirection::Forward => Direction::Forward,
    };
    let not_found = || Error::not_found("There is no event in that direction");
    let event = app.rooms.event_at_time(&view, request.ts.get().into(), direction).await?;
    let event = event.ok_or_else(not_found)?;
    let event_id = event.record.event_id.as_str().try_into().map_err(Error::internal)?;
    let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(event.record.origin_server_ts));
    Ok(by_timestamp::Response::new(event_id, at))
}

#[cfg(test)]
mod tests;
