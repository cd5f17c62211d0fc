//! What is unread in all rooms together, and up to where a room is read: for notifications that leave the server.

use allod_storage::Position;

use super::{Sync, unread::Read};
use crate::{
    database::Error,
    numbers::{EventNumber, RoomNumber, UserNumber},
};

/// Rooms of which it is counted at once what is unread.
const ROOMS_AT_ONCE: usize = 100;

/// Up to where a user has read a room, by their receipts.
#[derive(Clone, Debug, Default)]
pub struct ReadMarks(Read);

impl ReadMarks {
    /// Whether what arrived at a position, in a thread or in the main timeline, is read.
    pub fn covers(&self, thread: Option<EventNumber>, at: Position) -> bool {
        at <= self.0.upto(thread)
    }
}

impl Sync {
    /// How many notifications a user has not read in the rooms that they have joined, threads included.
    pub async fn unread_notifications(&self, user: UserNumber) -> Result<u64, Error> {
        let store = self.0.sources.database.store();
        let (upto, rooms) = self.0.memberships.at_head(store, user).await?;
        let joined: Vec<RoomNumber> = rooms.joined.iter().map(RoomNumber).collect();
        let mut sum = 0_u64;
        for part in joined.chunks(ROOMS_AT_ONCE) {
            self.0.prepare_unread(part, user, upto).await?;
            for room in part {
                let count = self.0.unread(*room, user, upto).await?.total();
                sum = sum.saturating_add(count.notifications);
            }
        }
        Ok(sum)
    }

    /// Up to where a user has read a room.
    pub async fn read_marks(&self, room: RoomNumber, user: UserNumber) -> Result<ReadMarks, Error> {
        let receipts = self.0.sources.receipts.own(room, user).await?;
        Ok(ReadMarks(self.0.read(room, &receipts).await?))
    }
}
