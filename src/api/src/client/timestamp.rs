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
    let at_ms = request.ts.get().into();
    let mut event = app.rooms.event_at_time(&view, at_ms, direction).await?;
    if let Some(inbound) = &app.inbound {
        let here_ms = event.as_ref().map(|event| event.record.origin_server_ts);
        if inbound.fetch_event_at_time(&view.room, (at_ms, direction), here_ms).await {
            event = app.rooms.event_at_time(&view, at_ms, direction).await?;
        }
    }
    let event = event.ok_or_else(not_found)?;
    let event_id = event.record.event_id.as_str().try_into().map_err(Error::internal)?;
    let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(event.record.origin_server_ts));
    Ok(by_timestamp::Response::new(event_id, at))
}

#[cfg(test)]
mod tests;
