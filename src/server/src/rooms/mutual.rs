//! The rooms that two users share (§Mutual Rooms).

use ruma::{OwnedRoomId, UserId};

use super::{Rooms, send::Caller};
use crate::{
    database::Error,
    numbers::RoomNumber,
    tables::{
        Stamped,
        rooms::{MemberRecord, Membership, RoomMember},
    },
};

/// Rooms on a page.
const PAGE_ROOMS: usize = 100;

/// A page of the rooms that two users share.
#[derive(Clone, Debug, Default)]
pub struct MutualRooms {
    /// How many there are in all.
    pub count: usize,
    /// The rooms of the page.
    pub rooms: Vec<OwnedRoomId>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum MutualRoomsError {
    /// Everybody shares all rooms with themselves.
    #[error("this is yourself")]
    Oneself,
    /// The token is not one of this server.
    #[error("from is not a token of this server")]
    BadToken,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Rooms {
    /// A page of the rooms that the caller and another user have both joined; none with a user whom nobody knows.
    pub async fn mutual_rooms(
        &self,
        caller: &Caller,
        other: &UserId,
        from: Option<&str>,
    ) -> Result<MutualRooms, MutualRoomsError> {
        if caller.user_id == other {
            return Err(MutualRoomsError::Oneself);
        }
        let after = from.map(read_token).transpose()?;
        let Some(other) = self.core.users.number(other).await? else { return Ok(MutualRooms::default()) };
        let keys: Vec<_> = self
            .rooms_of(caller.user, Membership::Join)
            .await?
            .into_iter()
            .map(|room| (room, other))
            .collect();
        let rows = self.core.database.get_all::<RoomMember>(&keys).await?;
        let is_joined = |row: &Option<Stamped<MemberRecord>>| {
            row.as_ref().is_some_and(|row| row.value.membership == Membership::Join)
        };
        let mutual: Vec<RoomNumber> =
            keys.iter().zip(&rows).filter(|(_, row)| is_joined(row)).map(|((room, _), _)| *room).collect();
        let rest: Vec<_> = mutual.iter().filter(|room| after.is_none_or(|after| **room > after)).collect();
        let mut page = MutualRooms { count: mutual.len(), ..MutualRooms::default() };
        for room in rest.iter().take(PAGE_ROOMS) {
            page.rooms.push(self.get(**room).await?.room_id.clone());
        }
        let last = rest.get(PAGE_ROOMS.saturating_sub(1)).filter(|_| rest.len() > PAGE_ROOMS);
        page.next = last.map(|room| format!("m{}", room.0));
        Ok(page)
    }
}

/// The room behind which the page begins.
fn read_token(token: &str) -> Result<RoomNumber, MutualRoomsError> {
    let number = token.strip_prefix('m').and_then(|number| number.parse().ok());
    number.map(RoomNumber).ok_or(MutualRoomsError::BadToken)
}
