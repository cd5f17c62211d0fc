//! What the services of user data ask of rooms.

use std::sync::Arc;

use allod_storage::Position;
use futures_util::{FutureExt, future::BoxFuture};
use roaring::RoaringBitmap;
use ruma::{EventId, RoomId};

use super::{Membership, Rooms};
use crate::{
    database::Error,
    numbers::{RoomNumber, UserNumber},
    room_lookup::RoomLookup,
};

impl RoomLookup for Rooms {
    fn number<'a>(&'a self, room: &'a RoomId) -> BoxFuture<'a, Result<Option<RoomNumber>, Error>> {
        async move { Ok(self.find(room).await?.map(|room| room.number)) }.boxed()
    }

    fn is_joined(&self, room: RoomNumber, user: UserNumber) -> BoxFuture<'_, Result<bool, Error>> {
        Self::is_joined(self, room, user).boxed()
    }

    fn joined(&self, user: UserNumber) -> BoxFuture<'_, Result<Arc<RoaringBitmap>, Error>> {
        async move {
            let rooms = self.rooms_of(user, Membership::Join).await?;
            Ok(Arc::new(rooms.into_iter().map(|room| room.0).collect()))
        }
        .boxed()
    }

    fn event_position<'a>(
        &'a self,
        room: RoomNumber,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Option<Position>, Error>> {
        async move {
            let room = self.get(room).await?;
            let Some(number) = self.core.events.number(&room, event).await? else { return Ok(None) };
            Ok(self.core.events.get(room.number, number).await?.map(|event| event.position))
        }
        .boxed()
    }
}
