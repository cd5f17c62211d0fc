//! What the services of user data ask of rooms: a port, so that they need not know the rooms' service.

use std::{fmt, sync::Arc};

use allod_storage::Position;
use futures_util::future::BoxFuture;
use roaring::RoaringBitmap;
use ruma::{EventId, RoomId};

use crate::{
    database::Error,
    numbers::{RoomNumber, UserNumber},
};

/// The answers that user data needs; given by the rooms' service.
pub trait RoomLookup: Send + Sync {
    /// The number of a room that this server knows.
    fn number<'a>(&'a self, room: &'a RoomId) -> BoxFuture<'a, Result<Option<RoomNumber>, Error>>;

    /// Whether a user is joined to a room now.
    fn is_joined(&self, room: RoomNumber, user: UserNumber) -> BoxFuture<'_, Result<bool, Error>>;

    /// The rooms that a user is joined to now.
    fn joined(&self, user: UserNumber) -> BoxFuture<'_, Result<Arc<RoaringBitmap>, Error>>;

    /// The position of an event in the room's timeline; `None` if the timeline has no such event.
    fn event_position<'a>(
        &'a self,
        room: RoomNumber,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Option<Position>, Error>>;
}

impl fmt::Debug for dyn RoomLookup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RoomLookup")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! Rooms that need no rooms' service, and a database, for the tests of user data.

    use std::collections::HashMap;

    use allod_storage::Store;
    use futures_util::FutureExt;

    use super::*;
    use crate::{database::Database, random::Random, tables::SPACES};

    /// An empty database in memory.
    pub(crate) async fn database() -> Database {
        Database::open(Store::memory(SPACES), &Random::seeded(1)).await.unwrap()
    }

    /// Rooms whose events are those that a test names, and that everybody is in.
    #[derive(Default)]
    pub(crate) struct FakeRooms {
        /// Positions of events.
        pub(crate) events: HashMap<String, u64>,
    }

    impl RoomLookup for FakeRooms {
        fn number<'a>(&'a self, _: &'a RoomId) -> BoxFuture<'a, Result<Option<RoomNumber>, Error>> {
            async { Ok(Some(RoomNumber(1))) }.boxed()
        }

        fn is_joined(&self, _: RoomNumber, _: UserNumber) -> BoxFuture<'_, Result<bool, Error>> {
            async { Ok(true) }.boxed()
        }

        fn joined(&self, _: UserNumber) -> BoxFuture<'_, Result<Arc<RoaringBitmap>, Error>> {
            async { Ok(Arc::new([1].into_iter().collect())) }.boxed()
        }

        fn event_position<'a>(
            &'a self,
            _: RoomNumber,
            event: &'a EventId,
        ) -> BoxFuture<'a, Result<Option<Position>, Error>> {
            let position = self.events.get(event.as_str()).map(|position| Position::new(*position));
            async move { Ok(position) }.boxed()
        }
    }
}
