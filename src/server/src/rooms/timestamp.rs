//! Finding an event by its time (§Event Context, `GET /rooms/{roomId}/timestamp_to_event`).

use std::sync::Arc;

use ruma::ServerName;

use super::{Room, Rooms, access::View, event::StoredEvent, federation::ServerSights, read::Direction};
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
        let mut next = Some(range_from(&view.room, at_ms, direction));
        for _ in 0..EXAMINED_MAX / CHUNK_EVENTS {
            let Some(range) = next else { return Ok(None) };
            let (events, more) = self.by_time(&view.room, range).await?;
            let visible = self.visible(view, &events).await?;
            let found = events.into_iter().zip(visible).find(|(_, visible)| *visible);
            if let Some((event, _)) = found {
                return Ok(Some(event));
            }
            next = more;
        }
        Ok(None)
    }

    /// The same for another server: the nearest event that some user of it may see.
    pub async fn event_at_time_for(
        &self,
        room: &Room,
        server: &ServerName,
        at_ms: u64,
        direction: Direction,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        let mut sights = ServerSights::of(server);
        let mut next = Some(range_from(room, at_ms, direction));
        for _ in 0..EXAMINED_MAX / CHUNK_EVENTS {
            let Some(range) = next else { return Ok(None) };
            let (events, more) = self.by_time(room, range).await?;
            for event in events {
                if self.is_visible_to(room, &mut sights, &event).await? {
                    return Ok(Some(event));
                }
            }
            next = more;
        }
        Ok(None)
    }

    /// The first events of a range, and the rest of it.
    async fn by_time(
        &self,
        room: &Room,
        range: Range<EventTime>,
    ) -> Result<(Vec<Arc<StoredEvent>>, Option<Range<EventTime>>), Error> {
        let page = self.core.database.scan(&range).await?;
        let numbers: Vec<_> = page.rows.iter().map(|((_, _, _, number), ())| *number).collect();
        let events = self.core.events.load_many(room.number, &numbers).await?;
        let more = page.rows.last().filter(|_| page.more).map(|(last, ())| range.continued_after(last));
        Ok((events, more))
    }
}

fn range_from(room: &Room, at_ms: u64, direction: Direction) -> Range<EventTime> {
    let room = room.number;
    let range = match direction {
        Direction::Forward => Range::<EventTime>::between(&(room, at_ms), &(room, u64::MAX)),
        Direction::Backward => {
            Range::<EventTime>::between(&(room, 0_u64), &(room, at_ms.saturating_add(1))).reversed()
        }
    };
    range.limit(CHUNK_EVENTS)
}
