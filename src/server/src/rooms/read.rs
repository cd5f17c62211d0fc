//! Reading a room: pages of its history, single events and their surroundings, state and members.

use std::sync::Arc;

use allod_storage::Position;
use ruma::{EventId, UserId};
use serde_json::Value;

use super::{Rooms, access::View, event::StoredEvent, pagination::PaginationToken};
use crate::{
    database::{Error, Range},
    numbers::EventNumber,
    tables::rooms::{Depth, Membership, Timeline},
};

/// Which way a page goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To older events.
    Backward,
    /// To newer ones.
    Forward,
}

/// A page of history.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// Visible events in the order read.
    pub events: Vec<Arc<StoredEvent>>,
    /// Where the page began.
    pub start: PaginationToken,
    /// Where the next page begins; `None` at the end of the room's history.
    pub end: Option<PaginationToken>,
}

/// An event with what stands around it.
#[derive(Clone, Debug)]
pub struct Context {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Events before it, the nearest first.
    pub before: Vec<Arc<StoredEvent>>,
    /// Events after it, the nearest first.
    pub after: Vec<Arc<StoredEvent>>,
    /// Where going back from the oldest event begins.
    pub start: PaginationToken,
    /// Where going on from the newest event begins.
    pub end: PaginationToken,
}

/// Most rows examined for one page; what is invisible or filtered out counts too.
pub(super) const EXAMINED_MAX: usize = 5_000;
/// Events among which is looked for ones that a late arrival stands before.
const LATE_EVENTS_MAX: usize = 200;

impl Rooms {
    /// A page of the events that the viewer may see and `wanted` accepts.
    pub async fn history(
        &self,
        view: &View,
        from: PaginationToken,
        to: Option<PaginationToken>,
        direction: Direction,
        limit: usize,
        wanted: impl Fn(&StoredEvent) -> bool + Send,
    ) -> Result<HistoryPage, Error> {
        let mut page = HistoryPage { events: Vec::new(), start: from, end: None };
        let arrived = if direction == Direction::Backward { from.arrived } else { 0 };
        let mut cursor = if from.goes_on { from } else { self.late_point(view, from, arrived).await? };
        let mut examined = 0_usize;
        loop {
            let missing = limit.saturating_sub(page.events.len());
            // Read somewhat more than asked for, since some may be invisible.
            let chunk = missing.saturating_add(8).min(allod_storage::SCAN_ROWS_MAX);
            let (events, more) = self.history_chunk(view, cursor, to, direction, chunk).await?;
            let visible = self.visible(view, &events).await?;
            let known = self.arrived_since(view, &events, arrived).await?;
            for ((event, visible), known) in events.into_iter().zip(visible).zip(known) {
                if page.events.len() >= limit {
                    page.end = Some(cursor);
                    return Ok(page);
                }
                cursor = point_past(&event, direction).knowing_from(arrived).going_on();
                examined = examined.saturating_add(1);
                if visible && !known && wanted(&event) {
                    page.events.push(event);
                }
            }
            if !more {
                return Ok(page);
            }
            if page.events.len() >= limit || examined >= EXAMINED_MAX {
                page.end = Some(cursor);
                return Ok(page);
            }
        }
    }

    /// Where going back begins for a reader who knows what arrived from a position on: behind the last event near the
    /// point that arrived before, since one that came late may stand before others that are not known.
    async fn late_point(
        &self,
        view: &View,
        from: PaginationToken,
        arrived: u64,
    ) -> Result<PaginationToken, Error> {
        if arrived == 0 {
            return Ok(from);
        }
        let (above, _) = self.history_chunk(view, from, None, Direction::Forward, LATE_EVENTS_MAX).await?;
        let unknown = above.iter().rev().find(|event| event.position.get() < arrived);
        Ok(unknown.map_or(from, |event| point_past(event, Direction::Forward)))
    }

    /// For each event, whether it arrived at this position or later; what was fetched of the past did not arrive.
    async fn arrived_since(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        arrived: u64,
    ) -> Result<Vec<bool>, Error> {
        if arrived == 0 || events.iter().all(|event| event.position.get() < arrived) {
            return Ok(vec![false; events.len()]);
        }
        let places: Vec<_> = events.iter().map(|event| (view.room.number, event.position)).collect();
        let rows = self.core.database.get_all::<Timeline>(&places).await?;
        let known = events.iter().zip(rows);
        Ok(known.map(|(event, row)| event.position.get() >= arrived && row == Some(event.number)).collect())
    }

    async fn history_chunk(
        &self,
        view: &View,
        cursor: PaginationToken,
        to: Option<PaginationToken>,
        direction: Direction,
        limit: usize,
    ) -> Result<(Vec<Arc<StoredEvent>>, bool), Error> {
        let room = view.room.number;
        let (low, high) = match direction {
            Direction::Backward => (to.unwrap_or(PaginationToken::START), cursor),
            Direction::Forward => (cursor, to.unwrap_or(PaginationToken::END)),
        };
        if low >= high {
            return Ok((Vec::new(), false));
        }
        let mut range =
            Range::<Depth>::between(&(room, low.depth, low.number), &(room, high.depth, high.number))
                .limit(limit);
        if direction == Direction::Backward {
            range = range.reversed();
        }
        let rows = self.core.database.scan(&range).await?;
        let numbers: Vec<EventNumber> = rows.rows.iter().map(|((_, _, number), ())| *number).collect();
        Ok((self.core.events.load_many(room, &numbers).await?, rows.more))
    }

    /// The point in the order of depth just behind what had arrived at `position`.
    pub async fn point_at(&self, view: &View, position: Position) -> Result<PaginationToken, Error> {
        let room = view.room.number;
        let range = Range::<Timeline>::between(&(room, Position::ZERO), &(room, position.next()));
        let rows = self.core.database.scan(&range.reversed().limit(1)).await?;
        let Some((_, number)) = rows.rows.first() else { return Ok(PaginationToken::START) };
        let event = self.core.events.load(room, *number).await?;
        Ok(PaginationToken::behind(event.record.depth, event.number))
    }

    /// Root of the state just before a point in the order of depth; of the newest that the viewer may see, if that point lies
    /// in what they may not.
    pub async fn root_before(
        &self,
        view: &View,
        point: PaginationToken,
    ) -> Result<crate::tables::rooms::StateRoot, Error> {
        let (before, _) = self.history_chunk(view, point, None, Direction::Backward, 1).await?;
        if let Some(event) = before.first() {
            let visible = self.visible(view, std::slice::from_ref(event)).await?;
            let is_visible = visible.first().is_some_and(|visible| *visible);
            return Ok(if is_visible { event.record.state_after } else { view.root });
        }
        // Before its first event a room has no members to name; its creator, who joins next, is the nearest answer.
        let (first, _) =
            self.history_chunk(view, PaginationToken::START, None, Direction::Forward, 2).await?;
        Ok(first.last().map(|event| event.record.state_after).unwrap_or_default())
    }

    /// An event of this room that the viewer may see.
    pub async fn visible_event(
        &self,
        view: &View,
        event_id: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        let Some(number) = self.core.events.number(&view.room, event_id).await? else { return Ok(None) };
        let event = self.core.events.load(view.room.number, number).await?;
        let visible = self.visible(view, std::slice::from_ref(&event)).await?;
        Ok(visible.first().is_some_and(|visible| *visible).then_some(event))
    }

    /// An event and at most `limit` events around it, half before and half after.
    pub async fn context(
        &self,
        view: &View,
        event_id: &EventId,
        limit: usize,
        wanted: impl Fn(&StoredEvent) -> bool + Send + Copy,
    ) -> Result<Option<Context>, Error> {
        let Some(event) = self.visible_event(view, event_id).await? else { return Ok(None) };
        let at = PaginationToken::before(event.record.depth, event.number);
        let past = PaginationToken::behind(event.record.depth, event.number);
        let half = limit / 2;
        let before = self.history(view, at, None, Direction::Backward, half, wanted).await?;
        let after =
            self.history(view, past, None, Direction::Forward, limit.saturating_sub(half), wanted).await?;
        Ok(Some(Context {
            start: before
                .events
                .last()
                .map_or(at, |event| PaginationToken::before(event.record.depth, event.number)),
            end: after
                .events
                .last()
                .map_or(past, |event| PaginationToken::behind(event.record.depth, event.number)),
            event,
            before: before.events,
            after: after.events,
        }))
    }

    /// The whole state that the viewer may see, or all of one type.
    pub async fn state_events(
        &self,
        view: &View,
        kind: Option<&str>,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        self.state_events_at(view, view.root, kind).await
    }

    /// The same for another state of the room.
    pub async fn state_events_at(
        &self,
        view: &View,
        root: crate::tables::rooms::StateRoot,
        kind: Option<&str>,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let entries = self.core.states.all(&view.room, root, kind).await?;
        let mut numbers: Vec<_> = entries.into_iter().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        let mut events = self.core.events.load_many(view.room.number, &numbers).await?;
        if let Some(kind) = kind {
            events.retain(|event| event.record.kind == kind);
        }
        Ok(events)
    }

    /// One piece of the state that the viewer may see.
    pub async fn state_event(
        &self,
        view: &View,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        match self.core.states.get(&view.room, view.root, kind, state_key).await? {
            Some(number) => self.core.events.get(view.room.number, number).await,
            None => Ok(None),
        }
    }

    /// The name and picture that a member has in the room.
    pub async fn profile_in(&self, view: &View, user_id: &UserId) -> Result<Option<Value>, Error> {
        let Some(event) = self.state_event(view, "m.room.member", user_id.as_str()).await? else {
            return Ok(None);
        };
        let content = event.pdu(&view.room)?.content_as::<Value>().unwrap_or_default();
        let field = |key: &str| content.get(key).filter(|value| value.is_string()).cloned();
        let pairs =
            ["displayname", "avatar_url"].into_iter().filter_map(|key| Some((key.to_owned(), field(key)?)));
        Ok(Some(Value::Object(pairs.collect())))
    }

    /// The member events of a state whose membership `wanted` accepts.
    pub async fn member_events(
        &self,
        view: &View,
        root: crate::tables::rooms::StateRoot,
        wanted: impl Fn(Membership) -> bool,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        let mut events = self.state_events_at(view, root, Some("m.room.member")).await?;
        let mut kept = Vec::with_capacity(events.len());
        for event in events.drain(..) {
            let membership = super::membership::of(&*event.pdu(&view.room)?).unwrap_or(Membership::Leave);
            if wanted(membership) {
                kept.push(event);
            }
        }
        Ok(kept)
    }
}

fn point_past(event: &StoredEvent, direction: Direction) -> PaginationToken {
    match direction {
        Direction::Backward => PaginationToken::before(event.record.depth, event.number),
        Direction::Forward => PaginationToken::behind(event.record.depth, event.number),
    }
}
