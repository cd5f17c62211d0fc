//! What a server that was away is given of a room: what it missed, in order and part by part; of very much the newest,
//! the rest of which it asks for.

use std::sync::Arc;

use allod_storage::{Position, SCAN_ROWS_MAX};
use ruma::ServerName;

use super::{
    Inner,
    destination::{Lag, TRANSACTION_EVENTS_MAX},
    recipients::Loaded,
};
use crate::{
    database::{Error, Range},
    numbers::RoomNumber,
    tables::rooms::Timeline,
};

/// Of a room in which more happened, a server is given no more than the newest: it asks for what lies between.
pub(super) const EVENTS_MAX: usize = 1_000;
const _: () = assert!(EVENTS_MAX <= SCAN_ROWS_MAX, "they are counted in one reading");

/// Some of what a server missed.
#[derive(Default)]
pub(super) struct Missed {
    /// The events, in order.
    pub(super) events: Vec<Loaded>,
    /// Up to where there is nothing else that it missed.
    pub(super) upto: u64,
}

impl Inner {
    /// The first events that the server should have been given and was not; no more than one transaction takes.
    pub(super) async fn missed(
        &self,
        server: &ServerName,
        room: RoomNumber,
        lag: Lag,
    ) -> Result<Missed, Error> {
        let room = self.sources.rooms.get(room).await?;
        let low = self.newest_from(room.number, lag).await?;
        let high = Position::new(lag.upto).next();
        let mut range = Range::<Timeline>::between(&(room.number, low), &(room.number, high))
            .limit(TRANSACTION_EVENTS_MAX);
        let mut missed = Missed::default();
        loop {
            let page = self.sources.database.scan(&range).await?;
            let numbers: Vec<_> = page.rows.iter().map(|(_, number)| *number).collect();
            let events = self.sources.rooms.events().load_many(room.number, &numbers).await?;
            for (((_, position), _), event) in page.rows.iter().zip(events) {
                if missed.events.len() >= TRANSACTION_EVENTS_MAX {
                    return Ok(missed);
                }
                if self.recipients.of_missed(&room, &event).await?.contains(server) {
                    missed.events.push((Arc::clone(&room), event));
                }
                missed.upto = position.get();
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.continued_after(last),
                _ => return Ok(Missed { upto: lag.upto, ..missed }),
            }
        }
    }

    /// Where the newest events of what was missed begin.
    async fn newest_from(&self, room: RoomNumber, lag: Lag) -> Result<Position, Error> {
        let (low, high) = (Position::new(lag.from), Position::new(lag.upto).next());
        let range = Range::<Timeline>::between(&(room, low), &(room, high)).reversed().limit(EVENTS_MAX);
        let page = self.sources.database.scan(&range).await?;
        Ok(match page.rows.last() {
            Some(((_, position), _)) if page.more => *position,
            _ => low,
        })
    }
}
