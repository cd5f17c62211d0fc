//! Read and unread markers.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#read-and-unread-markers>

use allod_server::receipts::Marks;
use ruma::api::client::read_marker::set_read_marker::v3::{Request, Response};

use crate::{app::App, auth::Session, client::access::joined_room, endpoint::Routes, error::Result};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(set_read_marker)
}

/// `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
async fn set_read_marker(app: App, caller: Session, request: Request) -> Result<Response> {
    let room = joined_room(&app, &caller, &request.room_id).await?;
    let marks = Marks {
        fully_read: request.fully_read,
        read: request.read_receipt,
        read_private: request.private_read_receipt,
        ..Marks::default()
    };
    app.presence.active(caller.user, &caller.user_id);
    app.receipts.mark(room, caller.user, &caller.user_id, &marks).await?;
    Ok(Response::new())
}
