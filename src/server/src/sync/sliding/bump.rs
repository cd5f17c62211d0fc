//! The `bump_stamp` of rooms: where their last event stands that clients sort them by.

use allod_storage::Position;

use crate::{
    database::{Error, Range},
    numbers::RoomNumber,
    sync::Inner,
    tables::rooms::Timeline,
};

/// Types of events that move a room up.
const BUMPING: [&str; 9] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];
/// Events that are looked at; if none of them moves a room up, the oldest stands for it.
const EXAMINED_MAX: usize = 200;
/// Events that are read at once.
const PAGE: usize = 20;

impl Inner {
    /// Where the last event stands that moves a joined room up, as of a position.
    pub(super) async fn bump_stamp(&self, room: RoomNumber, until: Position) -> Result<Position, Error> {
        let known = self.facts.bumps.get(&room).filter(|(as_of, _)| *as_of <= until);
        let low = known.map(|(as_of, _)| as_of).unwrap_or_default();
        if let Some((as_of, stamp)) = known
            && self.activity.last_event(room).is_some_and(|last| last <= as_of)
        {
            return Ok(stamp);
        }
        let mut high = until;
        let mut oldest = until;
        let mut examined = 0_usize;
        while examined < EXAMINED_MAX && high > low {
            let range = Range::<Timeline>::between(&(room, low.next()), &(room, high.next()));
            let page = self.sources.database.scan(&range.reversed().limit(PAGE)).await?;
            let numbers: Vec<_> = page.rows.iter().map(|(_, number)| *number).collect();
            let events = self.sources.rooms.events().load_many(room, &numbers).await?;
            examined = examined.saturating_add(events.len());
            for (((_, at), _), event) in page.rows.iter().zip(&events) {
                oldest = *at;
                if BUMPING.contains(&event.record.kind.as_str()) {
                    return Ok(self.note_bump(room, until, *at));
                }
            }
            if !page.more {
                break;
            }
            high = Position::new(oldest.get().saturating_sub(1));
        }
        // Nothing since, or nothing in all that was looked at.
        let stamp = known.map_or(oldest, |(_, stamp)| stamp);
        Ok(self.note_bump(room, until, stamp))
    }

    fn note_bump(&self, room: RoomNumber, as_of: Position, stamp: Position) -> Position {
        self.facts.bumps.insert(room, (as_of, stamp));
        stamp
    }
}
