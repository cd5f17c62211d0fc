//! What a server that was away is given of a room: the newest of what it missed. The rest it asks for.

use std::sync::Arc;

use allod_storage::Position;
use ruma::ServerName;

use super::{Inner, destination::Lag, recipients::Loaded};
use crate::{
    database::{Error, Range},
    numbers::RoomNumber,
    tables::rooms::Timeline,
};

/// Most events that a server is given of a room that it is behind in.
const EVENTS_MAX: usize = 20;
/// Rows of the timeline read at once.
const PAGE_ROWS: usize = 200;

impl Inner {
    /// The last events, in order, that the server should have been given and was not.
    pub(super) async fn missed(
        &self,
        server: &ServerName,
        room: RoomNumber,
        lag: Lag,
    ) -> Result<Vec<Loaded>, Error> {
        let room = self.sources.rooms.get(room).await?;
        let low = Position::new(lag.from);
        let high = Position::new(lag.upto).next();
        let mut range =
            Range::<Timeline>::between(&(room.number, low), &(room.number, high)).reversed().limit(PAGE_ROWS);
        let mut missed = Vec::new();
        loop {
            let page = self.sources.database.scan(&range).await?;
            let numbers: Vec<_> = page.rows.iter().map(|(_, number)| *number).collect();
            for event in self.sources.rooms.events().load_many(room.number, &numbers).await? {
                if self.recipients.of_event(&room, &event).await?.contains(server) {
                    missed.push((Arc::clone(&room), event));
                }
                if missed.len() >= EVENTS_MAX {
                    missed.reverse();
                    return Ok(missed);
                }
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.continued_after(last),
                _ => {
                    missed.reverse();
                    return Ok(missed);
                }
            }
        }
    }
}
