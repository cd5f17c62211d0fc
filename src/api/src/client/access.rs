//! Checks that several chapters begin with: is it one's own, is one in the room.

use allod_server::numbers::RoomNumber;
use ruma::{RoomId, UserId};

use crate::{
    app::App,
    auth::Session,
    error::{Error, Result},
};

/// Refuses paths that name another user than the caller.
pub(crate) fn own(caller: &Session, user_id: &UserId) -> Result<()> {
    if caller.user_id == user_id { Ok(()) } else { Err(Error::forbidden("This belongs to another user")) }
}

/// The number of a room that the server knows.
pub(crate) async fn known_room(app: &App, room_id: &RoomId) -> Result<RoomNumber> {
    let number = app.room_lookup.number(room_id).await?;
    number.ok_or_else(|| Error::not_found("There is no such room"))
}

/// The number of a room that the caller is in. Whether there is such a room is not told to others.
pub(crate) async fn joined_room(app: &App, caller: &Session, room_id: &RoomId) -> Result<RoomNumber> {
    let not_joined = || Error::forbidden("You are not in this room");
    let number = app.room_lookup.number(room_id).await?.ok_or_else(not_joined)?;
    if app.room_lookup.is_joined(number, caller.user).await? { Ok(number) } else { Err(not_joined()) }
}
