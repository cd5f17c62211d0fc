//! The events that relate to another one, page by page.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::OwnedEventId;

use super::{
    Core, Rooms,
    access::View,
    event::StoredEvent,
    pagination::PaginationToken,
    read::{Direction, EXAMINED_MAX, HistoryPage},
};
use crate::{
    database::{Error, Range},
    numbers::{EventNumber, Hash128, RoomNumber, UserNumber},
    tables::rooms::{Aggregate, EditRecord, Relating, Relation, RelationRecord},
};

/// How many steps away from the event a recursive page looks.
pub const HOPS_MAX: u8 = 3;
/// Most related events that a recursive page looks at.
const DESCENDANTS_MAX: usize = 5_000;

/// Which of the events that relate to another are wanted.
#[derive(Clone, Debug)]
pub struct RelationWish {
    /// The other.
    pub parent: OwnedEventId,
    /// Only relations of this type.
    pub rel_type: Option<String>,
    /// Only events of this type.
    pub kind: Option<String>,
    /// Whether to include what relates to it by way of others.
    pub recurse: bool,
}

/// Which part of a list, in the order of depth.
#[derive(Clone, Copy, Debug)]
pub struct PageWish {
    /// Where to begin, if not at the end.
    pub from: Option<PaginationToken>,
    /// Where to stop.
    pub to: Option<PaginationToken>,
    /// Which way to go.
    pub direction: Direction,
    /// How many events at most.
    pub limit: usize,
}

/// A related event, before it is loaded.
#[derive(Clone, Debug)]
struct Child {
    point: PaginationToken,
    record: RelationRecord,
}

impl Rooms {
    /// A page of the events that relate to another and that the viewer may see, without those of `ignored` users.
    /// `None` if the viewer may not see that other event.
    pub async fn relations(
        &self,
        view: &View,
        wish: &RelationWish,
        page_wish: PageWish,
        ignored: &HashSet<UserNumber>,
    ) -> Result<Option<HistoryPage>, Error> {
        let Some(parent) = self.visible_event(view, &wish.parent).await? else { return Ok(None) };
        let PageWish { from, to, direction, limit } = page_wish;
        let room = view.room.number;
        let all = if wish.recurse { Some(self.descendants(room, parent.number).await?) } else { None };
        let mut cursor = from.unwrap_or(match direction {
            Direction::Backward => PaginationToken::END,
            Direction::Forward => PaginationToken::START,
        });
        let mut page = HistoryPage { events: Vec::new(), start: cursor, end: None };
        let mut examined = 0_usize;
        loop {
            let missing = limit.saturating_sub(page.events.len());
            // Somewhat more than asked for, since some may be invisible.
            let chunk = missing.saturating_add(8).min(allod_storage::SCAN_ROWS_MAX);
            let span = Span::new(cursor, to, direction, chunk);
            let (children, more) = match &all {
                Some(all) => span.cut(all),
                None => self.children(room, parent.number, wish.rel_type.as_deref(), span).await?,
            };
            let mut shown = self.wanted_children(view, &children, wish, ignored).await?;
            for child in children {
                if page.events.len() >= limit {
                    page.end = Some(cursor);
                    return Ok(Some(page));
                }
                cursor = match direction {
                    Direction::Backward => child.point,
                    Direction::Forward => PaginationToken::behind(child.point.depth, child.point.number),
                };
                examined = examined.saturating_add(1);
                page.events.extend(shown.remove(&child.point.number));
            }
            if !more {
                return Ok(Some(page));
            }
            if page.events.len() >= limit || examined >= EXAMINED_MAX {
                page.end = Some(cursor);
                return Ok(Some(page));
            }
        }
    }

    /// Those of the children that are wanted and visible.
    async fn wanted_children(
        &self,
        view: &View,
        children: &[Child],
        wish: &RelationWish,
        ignored: &HashSet<UserNumber>,
    ) -> Result<HashMap<EventNumber, Arc<StoredEvent>>, Error> {
        let is_wanted = |record: &RelationRecord| {
            wish.rel_type.as_ref().is_none_or(|rel_type| *rel_type == record.rel_type)
                && wish.kind.as_ref().is_none_or(|kind| *kind == record.kind)
                && !ignored.contains(&record.sender)
        };
        let wanted = children.iter().filter(|child| is_wanted(&child.record));
        let numbers: Vec<_> = wanted.map(|child| child.point.number).collect();
        let events = self.core.events.load_many(view.room.number, &numbers).await?;
        let visible = self.visible(view, &events).await?;
        let shown = events.into_iter().zip(visible).filter(|(_, visible)| *visible);
        Ok(shown.map(|(event, _)| (event.number, event)).collect())
    }

    /// What relates to an event directly: as many as the span asks for, and whether there are more.
    async fn children(
        &self,
        room: RoomNumber,
        parent: EventNumber,
        rel_type: Option<&str>,
        span: Span,
    ) -> Result<(Vec<Child>, bool), Error> {
        let Span { low, high, direction, limit } = span;
        let ways: &[Relating] = match rel_type {
            None => &Relating::ALL,
            Some("m.reference") => &[Relating::Reference],
            Some("m.annotation") => &[Relating::Annotation],
            Some("m.replace") => &[Relating::Edit, Relating::Other],
            Some("m.thread") => &[Relating::Thread, Relating::Other],
            Some(_) => &[Relating::Other],
        };
        let mut children = Vec::new();
        let mut more = false;
        if low >= high {
            return Ok((children, more));
        }
        for way in ways {
            let mut range = Range::<Relation>::between(
                &(room, parent, *way, low.depth, low.number),
                &(room, parent, *way, high.depth, high.number),
            );
            if direction == Direction::Backward {
                range = range.reversed();
            }
            let page = self.core.database.scan(&range.limit(limit)).await?;
            more |= page.more;
            children.extend(page.rows.into_iter().map(child_of));
        }
        // The first of all are among the first of each.
        children.sort_unstable_by_key(|child| child.point);
        if direction == Direction::Backward {
            children.reverse();
        }
        more |= children.len() > limit;
        children.truncate(limit);
        Ok((children, more))
    }

    /// What relates to an event in up to [`HOPS_MAX`] steps, the oldest first.
    async fn descendants(&self, room: RoomNumber, parent: EventNumber) -> Result<Vec<Child>, Error> {
        let mut all: Vec<Child> = Vec::new();
        let mut level = vec![parent];
        let mut seen = HashSet::from([parent]);
        for _ in 0..HOPS_MAX {
            let keys: Vec<_> = level.iter().map(|event| (room, *event)).collect();
            let aggregates = self.core.database.get_all::<Aggregate>(&keys).await?;
            let mut next = Vec::new();
            for (parent, _) in level.iter().zip(aggregates).filter(|(_, aggregate)| aggregate.is_some()) {
                let mut range = Range::<Relation>::prefix(&(room, *parent));
                while all.len() < DESCENDANTS_MAX {
                    let page = self.core.database.scan(&range).await?;
                    let last = page.rows.last().map(|(key, _)| *key).filter(|_| page.more);
                    let new = page.rows.into_iter().map(child_of);
                    let new = new.filter(|child| seen.insert(child.point.number));
                    let before = all.len();
                    all.extend(new);
                    next.extend(all.iter().skip(before).map(|child| child.point.number));
                    let Some(last) = last else { break };
                    range = range.continued_after(&last);
                }
            }
            level = next;
        }
        all.sort_unstable_by_key(|child| child.point);
        Ok(all)
    }
}

/// A part of what is between two points.
#[derive(Clone, Copy, Debug)]
struct Span {
    low: PaginationToken,
    high: PaginationToken,
    direction: Direction,
    limit: usize,
}

impl Span {
    fn new(cursor: PaginationToken, to: Option<PaginationToken>, direction: Direction, limit: usize) -> Self {
        let (low, high) = match direction {
            Direction::Backward => (to.unwrap_or(PaginationToken::START), cursor),
            Direction::Forward => (cursor, to.unwrap_or(PaginationToken::END)),
        };
        Self { low, high, direction, limit }
    }

    /// The span's part of a sorted list, and whether there is more of it.
    fn cut(self, all: &[Child]) -> (Vec<Child>, bool) {
        let inside = all.iter().filter(|child| self.low <= child.point && child.point < self.high);
        let count = inside.clone().count();
        let cut: Vec<Child> = match self.direction {
            Direction::Backward => inside.rev().take(self.limit).cloned().collect(),
            Direction::Forward => inside.take(self.limit).cloned().collect(),
        };
        let more = cut.len() < count;
        (cut, more)
    }
}

type RelationKey = (RoomNumber, EventNumber, Relating, u64, EventNumber);

fn child_of(row: (RelationKey, RelationRecord)) -> Child {
    let ((_, _, _, depth, number), record) = row;
    Child { point: PaginationToken::before(depth, number), record }
}

impl Core {
    /// What stands in keys for one way of relating to an event, where it matters how often someone does.
    pub(super) fn way(&self, relating: Relating, record: &RelationRecord) -> Option<Hash128> {
        match relating {
            Relating::Thread => Some(self.thread_way()),
            Relating::Annotation => {
                let key = record.key.as_deref().unwrap_or_default();
                Some(self.database.hash("annotation", format!("{}\0{key}", record.kind)))
            }
            Relating::Reference | Relating::Edit | Relating::Other => None,
        }
    }

    /// The way of replying in a thread.
    pub(super) fn thread_way(&self) -> Hash128 {
        self.database.hash("relation", "m.thread")
    }
}

impl StoredEvent {
    /// The event as an edit of another.
    pub(super) fn as_edit(&self) -> EditRecord {
        EditRecord {
            origin_server_ts: self.record.origin_server_ts,
            event_id: self.record.event_id.clone(),
            event: self.number,
        }
    }
}
