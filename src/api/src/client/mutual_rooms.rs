//! The rooms that one shares with another user.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms>

use allod_server::rooms::mutual::MutualRoomsError;
use ruma::{
    UInt,
    api::client::membership::get_mutual_rooms::{unstable, v1 as mutual},
};

use crate::{
    app::App,
    auth::Session,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_mutual_rooms).endpoint(get_mutual_rooms_unstable)
}

/// `GET /_matrix/client/v1/mutual_rooms`
async fn get_mutual_rooms(app: App, session: Session, request: mutual::Request) -> Result<mutual::Response> {
    let page = app.rooms.mutual_rooms(&caller(&session), &request.user_id, request.from.as_deref()).await?;
    let mut response = mutual::Response::new(UInt::try_from(page.count).unwrap_or(UInt::MAX), page.rooms);
    response.next_batch = page.next;
    Ok(response)
}

/// `GET /_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms`
async fn get_mutual_rooms_unstable(
    app: App,
    session: Session,
    request: unstable::Request,
) -> Result<unstable::Response> {
    let page = app.rooms.mutual_rooms(&caller(&session), &request.user_id, request.from.as_deref()).await?;
    let mut response = unstable::Response::new(page.rooms);
    response.next_batch = page.next;
    Ok(response)
}

impl From<MutualRoomsError> for Error {
    fn from(error: MutualRoomsError) -> Self {
        match error {
            MutualRoomsError::Oneself => Self::invalid_param("You share all rooms with yourself"),
            MutualRoomsError::BadToken => Self::invalid_param("from is not a token of this server"),
            MutualRoomsError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
