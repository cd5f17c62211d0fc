//! The first versions of `send_join` and `send_leave`, which the specification keeps for old servers: what they answer
//! stands behind a status in an array.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_joinroomideventid>

use http::{Method, StatusCode};
use ruma::api::{IncomingRequest, Metadata, error::DeserializationError, path_builder::SinglePath};
use serde::Serialize;

use super::{create_join_event, create_leave_event, join, leave};
use crate::{
    app::App,
    auth::Origin,
    endpoint::Routes,
    error::Result,
    response::{Response, json_response},
};

pub(super) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(create_join_event_v1).raw_endpoint(create_leave_event_v1)
}

/// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`
async fn create_join_event_v1(app: App, origin: Origin, JoinV1(request): JoinV1) -> Result<Response> {
    let request = join::Request::new(request.room_id, request.event_id, request.pdu);
    Ok(answer(&create_join_event(app, origin, request).await?.room_state))
}

/// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`
async fn create_leave_event_v1(app: App, origin: Origin, LeaveV1(request): LeaveV1) -> Result<Response> {
    create_leave_event(app, origin, request).await?;
    Ok(answer(&serde_json::json!({})))
}

fn answer(body: &impl Serialize) -> Response {
    json_response(StatusCode::OK, &(StatusCode::OK.as_u16(), body))
}

/// A request under the path of the first version.
macro_rules! first_version {
    ($(#[$doc:meta])* $name:ident, $of:ty, $path:literal) => {
        $(#[$doc])*
        struct $name($of);

        impl Metadata for $name {
            const METHOD: Method = <$of as Metadata>::METHOD;
            const RATE_LIMITED: bool = <$of as Metadata>::RATE_LIMITED;
            type Authentication = <$of as Metadata>::Authentication;
            type PathBuilder = SinglePath;
            const PATH_BUILDER: SinglePath = SinglePath::new($path);
        }

        impl IncomingRequest for $name {
            type EndpointError = <$of as IncomingRequest>::EndpointError;
            type OutgoingResponse = <$of as IncomingRequest>::OutgoingResponse;

            fn try_from_http_request_inner(
                http: http::Request<&[u8]>,
                path_args: &[&str],
            ) -> std::result::Result<Self, DeserializationError> {
                Ok(Self(<$of>::try_from_http_request_inner(http, path_args)?))
            }
        }
    };
}

first_version! {
    /// A signed join.
    JoinV1, join::Request, "/_matrix/federation/v1/send_join/{room_id}/{event_id}"
}
first_version! {
    /// A signed leave.
    LeaveV1, leave::Request, "/_matrix/federation/v1/send_leave/{room_id}/{event_id}"
}
