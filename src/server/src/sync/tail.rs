//! The newest places of rooms' timelines, in memory, so that the many who wait for a room do not each read them.
//!
//! A tail begins where somebody first asked, and the log's consumer makes it longer; rooms that nobody asks about cost
//! nothing.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use allod_storage::Position;
use quick_cache::sync::Cache;

use super::activity::Activity;
use crate::numbers::{EventNumber, RoomNumber};

/// Rooms whose newest places are kept.
const ROOMS_KEPT_MAX: usize = 10_000;
/// Places kept of a room; older ones are read.
const PLACES_KEPT_MAX: usize = 128;

/// A place in a room's timeline.
pub(super) type Place = (Position, EventNumber);

/// The newest places of rooms' timelines. Clones share them.
#[derive(Clone)]
pub(crate) struct Tails {
    activity: Activity,
    rooms: Arc<Cache<RoomNumber, Arc<Tail>>>,
}

impl std::fmt::Debug for Tails {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tails").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Tail(Mutex<Places>);

#[derive(Debug)]
struct Places {
    /// All places after this position are here, as far as the log has been followed.
    from: Position,
    /// The oldest first.
    places: VecDeque<Place>,
}

impl Tail {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tails {
    /// None yet; `activity` knows how far the log was followed.
    pub(super) fn new(activity: Activity) -> Self {
        Self { activity, rooms: Arc::new(Cache::new(ROOMS_KEPT_MAX)) }
    }

    /// The room's newest places after `since` and up to `until`, the newest first, at most `limit`, and whether there are
    /// more; `None` if the store must be asked.
    pub(super) fn newest(
        &self,
        room: RoomNumber,
        since: Position,
        until: Position,
        limit: usize,
    ) -> Option<(Vec<Place>, bool)> {
        if until > self.activity.followed() {
            return None;
        }
        let Some(tail) = self.rooms.get(&room) else {
            self.begin(room);
            return None;
        };
        let tail = tail.places();
        if since < tail.from {
            return None;
        }
        let newest = tail.places.iter().rev().skip_while(|(position, _)| *position > until);
        let mut newest = newest.take_while(|(position, _)| *position > since);
        let places: Vec<_> = newest.by_ref().take(limit).copied().collect();
        Some((places, newest.next().is_some()))
    }

    /// Keeps the places of a room from now on.
    fn begin(&self, room: RoomNumber) {
        let tail =
            Arc::new(Tail(Mutex::new(Places { from: Position::new(u64::MAX), places: VecDeque::new() })));
        self.rooms.insert(room, Arc::clone(&tail));
        // The record behind this position may have been noted just before the tail was there.
        let from = self.activity.followed().next();
        tail.places().from = from;
    }

    /// The log tells of an event. Called for each record in order, before it counts as followed.
    pub(super) fn append(&self, room: RoomNumber, at: Position, event: EventNumber) {
        let Some(tail) = self.rooms.get(&room) else { return };
        let mut tail = tail.places();
        tail.places.push_back((at, event));
        if tail.places.len() > PLACES_KEPT_MAX
            && let Some((oldest, _)) = tail.places.pop_front()
        {
            tail.from = tail.from.max(oldest);
        }
    }

    /// Forgets everything: something was missed.
    pub(super) fn clear(&self) {
        self.rooms.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: fn(u64) -> Position = Position::new;
    const ROOM: RoomNumber = RoomNumber(7);

    /// Follows one event, as the log's consumer does.
    fn follow(tails: &Tails, at: u64) {
        tails.append(ROOM, P(at), EventNumber(u32::try_from(at).unwrap()));
        tails.activity.followed_to(P(at));
    }

    fn positions(tails: &Tails, since: u64, until: u64, limit: usize) -> Option<(Vec<u64>, bool)> {
        let (places, more) = tails.newest(ROOM, P(since), P(until), limit)?;
        Some((places.iter().map(|(position, _)| position.get()).collect(), more))
    }

    #[test]
    fn a_tail_knows_what_was_followed_since_it_was_asked_for() {
        let tails = Tails::new(Activity::new(P(10)));
        assert_eq!(positions(&tails, 10, 10, 5), None);
        follow(&tails, 11);
        follow(&tails, 12);
        follow(&tails, 13);
        // The first record may have been missed.
        assert_eq!(positions(&tails, 10, 13, 5), None);
        assert_eq!(positions(&tails, 11, 13, 5), Some((vec![13, 12], false)));
        assert_eq!(positions(&tails, 11, 12, 5), Some((vec![12], false)));
        assert_eq!(positions(&tails, 11, 13, 1), Some((vec![13], true)));
        assert_eq!(positions(&tails, 13, 13, 5), Some((vec![], false)));
        // What lies ahead of the log's consumer is not known.
        assert_eq!(positions(&tails, 13, 14, 5), None);
    }

    #[test]
    fn a_long_tail_loses_its_oldest_places() {
        let tails = Tails::new(Activity::new(P(0)));
        assert_eq!(positions(&tails, 0, 0, 1), None);
        let last = 1 + u64::try_from(PLACES_KEPT_MAX).unwrap() + 20;
        (1..=last).for_each(|at| follow(&tails, at));
        assert_eq!(positions(&tails, 1, last, 500), None);
        let (places, more) = positions(&tails, 21, last, 500).unwrap();
        assert_eq!((places.len(), more), (PLACES_KEPT_MAX, false));
        tails.clear();
        assert_eq!(positions(&tails, last, last, 1), None);
    }
}
