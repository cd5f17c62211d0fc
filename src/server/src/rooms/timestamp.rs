//! Finding an event by its time (§Event Context, `GET /rooms/{roomId}/timestamp_to_event`).

use std::sync::Arc;

use super::{Rooms, access::View, event::StoredEvent, read::Direction};
use crate::{
    database::{Error, Range},
    tables::rooms::EventTime,
};

/// Events looked at in one step.
const CHUNK_EVENTS: usize = 50;
/// Most events looked at: those that the viewer may not see count too.
const EXAMINED_MAX: usize = 1_000;

impl Rooms {
    /// The event nearest to a time that the viewer may see: the first one then or later, or the last one then or earlier.
    /// Of several with the same time, the one that comes first in that direction. `at_ms` is in milliseconds since the
    /// epoch, by the clocks of the senders.
    pub async fn event_at_time(
        &self,
        view: &View,
        at_ms: u64,
        direction: Direction,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        let room = view.room.number;
        let mut range = match direction {
            Direction::Forward => Range::<EventTime>::between(&(room, at_ms), &(room, u64::MAX)),
            Direction::Backward => {
                Range::<EventTime>::between(&(room, 0_u64), &(room, at_ms.saturating_add(1))).reversed()
            }
        };
        range = range.limit(CHUNK_EVENTS);
        for _ in 0..EXAMINED_MAX / CHUNK_EVENTS {
            let page = self.core.database.scan(&range).await?;
            let numbers: Vec<_> = page.rows.iter().map(|((_, _, _, number), ())| *number).collect();
            let events = self.core.events.load_many(room, &numbers).await?;
            let visible = self.visible(view, &events).await?;
            let found = events.into_iter().zip(visible).find(|(_, visible)| *visible);
            if let Some((event, _)) = found {
                return Ok(Some(event));
            }
            match page.rows.last() {
                Some((last, ())) if page.more => range = range.continued_after(last),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}
