//! A window of a room's timeline, in the order of arrival: the newest events that the reader may see and wants.

use std::{collections::HashSet, sync::Arc};

use allod_matrix::filter::EventFilter;
use allod_storage::{Position, SCAN_ROWS_MAX};

use super::{
    room_delta::{Known, RoomReader, Window},
    tail::Place,
};
use crate::{
    database::{Error, Range},
    numbers::{RoomNumber, UserNumber},
    rooms::{Room, access::View, event::StoredEvent, pagination::PaginationToken, visibility::Sights},
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
    /// Whether one of the events may have others that relate to it.
    pub(crate) may_be_related: bool,
    /// What the states around them say to the reader.
    pub(crate) sights: Sights,
}

/// A page of a timeline, the newest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) rows: Vec<Place>,
    /// Whether there are older ones in the window.
    more: bool,
}

impl RoomReader {
    /// Reads a window of a timeline.
    pub(super) async fn timeline(
        &self,
        view: &View,
        window: Window,
        known: Known<'_>,
        wish: TimelineWish<'_>,
    ) -> Result<Timeline, Error> {
        let room = view.room.number;
        let low = window.since.unwrap_or(Position::ZERO).next();
        let mut timeline = Timeline {
            may_be_related: known.prefetched.is_none_or(|prefetched| prefetched.may_be_related),
            ..Timeline::default()
        };
        if low > window.until {
            return Ok(timeline);
        }
        let mut examined = 0_usize;
        let mut newest = None;
        if let Some(head) = known.head {
            // From there, each event tells what the state before it says.
            self.rooms.sight(view, head.value.root, &mut timeline.sights).await?;
        }
        let mut places = match known.prefetched {
            Some(prefetched) => prefetched.places.clone(),
            None => self.newest_places(room, window, wish.limit.saturating_add(1)).await?,
        };
        'pages: loop {
            let numbers: Vec<_> = places.rows.iter().map(|(_, number)| *number).collect();
            let events = self.rooms.events().load_many(room, &numbers).await?;
            newest = newest.or_else(|| events.first().cloned());
            examined = examined.saturating_add(events.len());
            let visible = self.rooms.visible_with(view, &events, &mut timeline.sights).await?;
            for (((position, _), event), visible) in places.rows.iter().zip(events).zip(visible) {
                let shown =
                    (visible || is_own_membership(view, &event)) && wanted(&wish, &view.room, &event)?;
                if shown && timeline.events.len() >= wish.limit {
                    timeline.limited = true;
                    break 'pages;
                }
                let is_behind_gap = event.is_behind_gap();
                if shown {
                    timeline.events.push((*position, event));
                }
                // What lies in the gap must be asked for, so nothing from before it may stand beside what came after.
                if is_behind_gap {
                    timeline.limited = true;
                    break 'pages;
                }
            }
            let Some((last, _)) = places.rows.last().filter(|_| places.more) else { break };
            if examined >= EXAMINED_MAX {
                timeline.limited = true;
                break;
            }
            let older = Window { until: Position::new(last.get().saturating_sub(1)), ..window };
            places = self.read_places(room, older, PAGE_ROWS.min(SCAN_ROWS_MAX)).await?;
        }
        timeline.events.reverse();
        timeline.prev_batch = prev_batch(&timeline, newest.as_deref());
        Ok(timeline)
    }

    /// The newest places of a window: from memory, where they are known there.
    async fn newest_places(&self, room: RoomNumber, window: Window, limit: usize) -> Result<Places, Error> {
        if let Some(since) = window.since
            && let Some((rows, more)) = self.tails.newest(room, since, window.until, limit)
        {
            return Ok(Places { rows, more });
        }
        self.read_places(room, window, limit).await
    }

    async fn read_places(&self, room: RoomNumber, window: Window, limit: usize) -> Result<Places, Error> {
        Ok(self.read_places_many(&[room], window, limit).await?.pop().unwrap_or_default())
    }

    /// The newest places of several rooms, in their order.
    pub(super) async fn read_places_many(
        &self,
        rooms: &[RoomNumber],
        window: Window,
        limit: usize,
    ) -> Result<Vec<Places>, Error> {
        let low = window.since.unwrap_or(Position::ZERO).next();
        if low > window.until {
            return Ok(vec![Places::default(); rooms.len()]);
        }
        let range = |room: &RoomNumber| {
            let range = Range::<TimelineTable>::between(&(*room, low), &(*room, window.until.next()));
            range.reversed().limit(limit)
        };
        let pages = self.database.scan_many(&rooms.iter().map(range).collect::<Vec<_>>()).await?;
        let places = pages.into_iter().map(|page| {
            let rows = page.rows.into_iter().map(|((_, position), number)| (position, number)).collect();
            Places { rows, more: page.more }
        });
        Ok(places.collect())
    }
}

/// Just before the first event; where none is shown, behind the newest there is.
fn prev_batch(timeline: &Timeline, newest: Option<&StoredEvent>) -> Option<PaginationToken> {
    match (timeline.events.first(), newest) {
        (Some((position, first)), _) => {
            let before = PaginationToken::before(first.record.depth, first.number);
            Some(before.knowing_from(position.get()))
        }
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
