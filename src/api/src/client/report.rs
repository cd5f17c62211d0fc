//! Reporting events, rooms and users to the administrators.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#reporting-content>

use allod_server::rooms::reports::ReportError;
use ruma::api::client::{
    reporting::report_user::v3 as user,
    room::{report_content::v3 as event, report_room::v3 as room},
};

use crate::{
    app::App,
    auth::Session,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(report_content).endpoint(report_room).endpoint(report_user)
}

/// `POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}`
async fn report_content(app: App, session: Session, request: event::Request) -> Result<event::Response> {
    let (caller, reason) = (caller(&session), request.reason.as_deref());
    app.rooms.report_event(&request.room_id, &request.event_id, &caller, reason).await?;
    Ok(event::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/report`
async fn report_room(app: App, session: Session, request: room::Request) -> Result<room::Response> {
    app.rooms.report_room(&request.room_id, &caller(&session), &request.reason).await?;
    Ok(room::Response::new())
}

/// `POST /_matrix/client/v3/users/{userId}/report`
async fn report_user(app: App, session: Session, request: user::Request) -> Result<user::Response> {
    app.rooms.report_user(&request.user_id, &caller(&session), &request.reason).await?;
    Ok(user::Response::new())
}

impl From<ReportError> for Error {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::NotFound => Self::not_found("There is no such thing, or you may not see it"),
            ReportError::TooLong => Self::invalid_param(error.to_string()),
            ReportError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
