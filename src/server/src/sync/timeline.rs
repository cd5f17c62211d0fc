//! A window of a room's timeline, in the order of arrival: the newest events that the reader may see and wants.

use std::{collections::HashSet, sync::Arc};

use allod_matrix::filter::EventFilter;
use allod_storage::{Position, SCAN_ROWS_MAX};

use super::room_delta::{RoomReader, Window};
use crate::{
    database::{Error, Range},
    numbers::UserNumber,
    rooms::{Room, access::View, event::StoredEvent, pagination::PaginationToken},
    tables::rooms::Timeline as TimelineTable,
};

/// Most rows examined for one timeline: what is invisible or filtered out counts too.
const EXAMINED_MAX: usize = 1000;
/// Rows read at once after the first page.
const PAGE_ROWS: usize = 100;

/// What of a timeline a client wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimelineWish<'a> {
    /// Which events.
    pub(crate) filter: &'a EventFilter,
    /// How many at most.
    pub(crate) limit: usize,
    /// Whose messages are left out.
    pub(crate) ignored: &'a HashSet<UserNumber>,
}

/// The newest events of a window, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    /// The events.
    pub(crate) events: Vec<(Position, Arc<StoredEvent>)>,
    /// Whether there are more in the window.
    pub(crate) limited: bool,
    /// Where going back begins.
    pub(crate) prev_batch: Option<PaginationToken>,
}

impl RoomReader {
    /// Reads a window of a timeline.
    pub(super) async fn timeline(
        &self,
        view: &View,
        window: Window,
        wish: TimelineWish<'_>,
    ) -> Result<Timeline, Error> {
        let room = view.room.number;
        let low = window.since.unwrap_or(Position::ZERO).next();
        let mut timeline = Timeline::default();
        if low > window.until {
            return Ok(timeline);
        }
        let mut range = Range::<TimelineTable>::between(&(room, low), &(room, window.until.next()))
            .reversed()
            .limit(wish.limit.saturating_add(1));
        let mut examined = 0_usize;
        let mut newest = None;
        'pages: loop {
            let page = self.database.scan(&range).await?;
            let numbers: Vec<_> = page.rows.iter().map(|(_, number)| *number).collect();
            let events = self.rooms.events().load_many(room, &numbers).await?;
            newest = newest.or_else(|| events.first().cloned());
            examined = examined.saturating_add(events.len());
            let visible = self.rooms.visible(view, &events).await?;
            for (((key, _), event), visible) in page.rows.iter().zip(events).zip(visible) {
                if !(visible || is_own_membership(view, &event)) || !wanted(&wish, &view.room, &event)? {
                    continue;
                }
                if timeline.events.len() >= wish.limit {
                    timeline.limited = true;
                    break 'pages;
                }
                timeline.events.push((key.1, event));
            }
            let Some((last, _)) = page.rows.last().filter(|_| page.more) else { break };
            if examined >= EXAMINED_MAX {
                timeline.limited = true;
                break;
            }
            range = range.continued_after(last).limit(PAGE_ROWS.min(SCAN_ROWS_MAX));
        }
        timeline.events.reverse();
        timeline.prev_batch = prev_batch(&timeline, newest.as_deref());
        Ok(timeline)
    }
}

/// Just before the first event; where none is shown, behind the newest there is.
fn prev_batch(timeline: &Timeline, newest: Option<&StoredEvent>) -> Option<PaginationToken> {
    match (timeline.events.first(), newest) {
        (Some((_, first)), _) => Some(PaginationToken::before(first.record.depth, first.number)),
        (None, Some(newest)) => Some(PaginationToken::behind(newest.record.depth, newest.number)),
        (None, None) => None,
    }
}

/// Everyone sees what becomes of their own membership: else nobody would learn of a ban.
fn is_own_membership(view: &View, event: &StoredEvent) -> bool {
    event.record.kind == "m.room.member"
        && event.record.state_key.as_deref() == Some(view.caller.user_id.as_str())
}

fn wanted(wish: &TimelineWish<'_>, room: &Room, event: &StoredEvent) -> Result<bool, Error> {
    if event.record.state_key.is_none() && wish.ignored.contains(&event.record.sender) {
        return Ok(false);
    }
    matches(wish.filter, room, event)
}

/// Whether a filter lets an event through; parses the event only if the filter asks for more than its type.
pub(super) fn matches(filter: &EventFilter, room: &Room, event: &StoredEvent) -> Result<bool, Error> {
    if filter.is_open() {
        return Ok(true);
    }
    Ok(filter.matches_type(&event.record.kind) && filter.matches(&*event.pdu(room)?))
}
