//! What is to be sent to one server: events in order while it can be reached, and rooms of which it is behind while it
//! cannot. In memory and without I/O; [`super::checkpoint`] makes it durable.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::sync::Notify;

use super::backoff::Backoff;
use crate::numbers::{EventNumber, Hash128, RoomNumber, UserNumber};

/// Events that wait for a server in memory; with more it counts as behind.
pub(super) const QUEUE_EVENTS_MAX: usize = 500;
/// Events of one transaction.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#transactions>
pub(super) const TRANSACTION_EVENTS_MAX: usize = 50;
/// Ephemeral data of one transaction.
pub(super) const TRANSACTION_EDUS_MAX: usize = 100;
/// Ephemeral data that waits for a server and may be lost; the oldest goes first.
const EDUS_MAX: usize = 400;

/// An event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Where the log spoke of it.
    pub(super) position: u64,
    /// Its room.
    pub(super) room: RoomNumber,
    /// The event.
    pub(super) event: EventNumber,
}

/// Of what a server is behind in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lag {
    /// The position of the first event that it was not given.
    pub(super) from: u64,
    /// The position of the last one.
    pub(super) upto: u64,
}

/// What one piece of ephemeral data is about; a newer one takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EduSubject {
    /// A user typing in a room.
    Typing(RoomNumber, UserNumber),
    /// What a user has read in a room.
    Receipt(RoomNumber, UserNumber, Hash128),
    /// Whether a user is online.
    Presence(UserNumber),
}

/// Ephemeral data that may be lost.
#[derive(Clone, Debug)]
pub(super) struct Edu {
    /// What it is about.
    pub(super) subject: EduSubject,
    /// Its type.
    pub(super) kind: &'static str,
    /// Its content as JSON.
    pub(super) content: Arc<str>,
}

/// A server.
#[derive(Debug, Default)]
pub(super) struct Destination {
    pub(super) hash: Hash128,
    pub(super) backoff: Backoff,
    /// Whether a task sends to it.
    pub(super) running: bool,
    /// Whether there may be rows of what must not be lost.
    pub(super) has_rows: bool,
    /// How often it was said that there are.
    pub(super) rows_told: u64,
    /// Ends its pause.
    pub(super) woken: Arc<Notify>,
    /// Events in order; those of the transaction under way are still among them.
    queue: VecDeque<Waiting>,
    edus: VecDeque<Edu>,
    lagging: BTreeMap<RoomNumber, Lag>,
}

/// What is sent next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// These events.
    Events(Vec<Waiting>),
    /// What it missed in a room.
    CatchUp(RoomNumber, Lag),
    /// No events.
    Nothing,
}

impl Destination {
    /// One that is new, or was not reached before the server was started.
    pub(super) fn new(hash: Hash128, backoff: Backoff) -> Self {
        Self { hash, backoff, ..Self::default() }
    }

    /// Adds a room that it was behind of when the server was last stopped.
    pub(super) fn was_lagging(&mut self, room: RoomNumber, lag: Lag) {
        self.lagging.insert(room, lag);
    }

    /// Adds an event; the rooms of which it is behind from now on.
    pub(super) fn push(&mut self, waiting: Waiting) -> Vec<RoomNumber> {
        if self.lagging.is_empty() && self.queue.len() < QUEUE_EVENTS_MAX && self.backoff.is_well() {
            self.queue.push_back(waiting);
            return Vec::new();
        }
        let mut behind = self.fall_behind();
        behind.extend(self.lag(waiting));
        behind
    }

    /// There may be rows for it.
    pub(super) fn tell_rows(&mut self) {
        self.has_rows = true;
        self.rows_told = self.rows_told.wrapping_add(1);
    }

    /// Adds ephemeral data. A server that is not reached will not want to know later.
    pub(super) fn push_edu(&mut self, edu: Edu) {
        if !self.backoff.is_well() {
            return;
        }
        if let Some(older) = self.edus.iter_mut().find(|older| older.subject == edu.subject) {
            *older = edu;
            return;
        }
        if self.edus.len() >= EDUS_MAX {
            self.edus.pop_front();
        }
        self.edus.push_back(edu);
    }

    /// It was not reached: what waits becomes rooms of which it is behind. Which those are is the answer.
    pub(super) fn fall_behind(&mut self) -> Vec<RoomNumber> {
        self.edus.clear();
        let queue = std::mem::take(&mut self.queue);
        queue.into_iter().filter_map(|waiting| self.lag(waiting)).collect()
    }

    fn lag(&mut self, waiting: Waiting) -> Option<RoomNumber> {
        let mut new = false;
        let lag = self.lagging.entry(waiting.room).or_insert_with(|| {
            new = true;
            Lag { from: waiting.position, upto: waiting.position }
        });
        lag.upto = lag.upto.max(waiting.position);
        new.then_some(waiting.room)
    }

    /// What is sent next: what it is behind of comes first, so that it gets the events of a room in their order.
    pub(super) fn next(&self) -> Next {
        if let Some((room, lag)) = self.lagging.iter().min_by_key(|(_, lag)| lag.from) {
            return Next::CatchUp(*room, *lag);
        }
        if self.queue.is_empty() {
            return Next::Nothing;
        }
        Next::Events(self.queue.iter().take(TRANSACTION_EVENTS_MAX).copied().collect())
    }

    /// Takes ephemeral data out, at most so much.
    pub(super) fn take_edus(&mut self, limit: usize) -> Vec<Edu> {
        let count = limit.min(self.edus.len());
        self.edus.drain(..count).collect()
    }

    /// It has these events.
    pub(super) fn delivered(&mut self, events: &[Waiting]) {
        for event in events {
            if self.queue.front() == Some(event) {
                self.queue.pop_front();
            }
        }
    }

    /// It has what it missed in a room up to there.
    pub(super) fn caught_up(&mut self, room: RoomNumber, upto: u64) {
        match self.lagging.get_mut(&room) {
            Some(lag) if lag.upto > upto => lag.from = upto.saturating_add(1),
            Some(_) => {
                self.lagging.remove(&room);
            }
            None => {}
        }
    }

    /// It may not be spoken to any more: nothing waits for it. The rooms of which it was behind are the answer.
    pub(super) fn give_up(&mut self) -> Vec<RoomNumber> {
        self.queue.clear();
        self.edus.clear();
        std::mem::take(&mut self.lagging).into_keys().collect()
    }

    /// From where on it is behind in a room.
    pub(super) fn lags_from(&self, room: RoomNumber) -> Option<u64> {
        self.lagging.get(&room).map(|lag| lag.from)
    }

    /// The first event that is held in memory alone.
    pub(super) fn first_waiting(&self) -> Option<u64> {
        self.queue.front().map(|waiting| waiting.position)
    }

    /// Whether there is something to send.
    pub(super) fn has_work(&self) -> bool {
        self.has_rows || !self.queue.is_empty() || !self.edus.is_empty() || !self.lagging.is_empty()
    }

    /// Events that wait in memory, and rooms of which it is behind.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.lagging.len())
    }

    /// Whether a row must name it: it is not reached, or is behind.
    pub(super) fn is_remembered(&self) -> bool {
        !self.backoff.is_well() || !self.lagging.is_empty()
    }

    /// Whether nothing needs to be remembered of it.
    pub(super) fn is_idle(&self) -> bool {
        !self.running && !self.has_work() && self.backoff.is_well()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(position: u64, room: u32) -> Waiting {
        Waiting { position, room: RoomNumber(room), event: EventNumber(u32::try_from(position).unwrap()) }
    }

    #[test]
    fn a_server_that_is_reached_gets_events_in_order() {
        let mut destination = Destination::default();
        for position in 1..=60 {
            assert_eq!(destination.push(waiting(position, 1)), []);
        }
        let Next::Events(first) = destination.next() else { panic!("events were pushed") };
        assert_eq!((first.len(), first[0].position), (TRANSACTION_EVENTS_MAX, 1));
        assert_eq!(destination.first_waiting(), Some(1));
        destination.delivered(&first);
        assert_eq!(destination.first_waiting(), Some(51));
        let Next::Events(rest) = destination.next() else { panic!("events are left") };
        destination.delivered(&rest);
        assert_eq!(destination.next(), Next::Nothing);
        assert!(!destination.has_work());
    }

    #[test]
    fn a_server_that_is_not_reached_falls_behind_room_by_room() {
        let mut destination = Destination::default();
        destination.push(waiting(3, 1));
        destination.push(waiting(4, 2));
        destination.push(waiting(5, 1));
        assert_eq!(destination.fall_behind(), [RoomNumber(1), RoomNumber(2)]);
        assert_eq!(destination.first_waiting(), None);
        assert_eq!(destination.push(waiting(6, 2)), []);
        assert_eq!(destination.push(waiting(7, 3)), [RoomNumber(3)]);
        assert_eq!(destination.next(), Next::CatchUp(RoomNumber(1), Lag { from: 3, upto: 5 }));
        destination.caught_up(RoomNumber(1), 5);
        assert_eq!(destination.next(), Next::CatchUp(RoomNumber(2), Lag { from: 4, upto: 6 }));
        // Something came while it was catching up.
        destination.push(waiting(8, 2));
        destination.caught_up(RoomNumber(2), 6);
        assert_eq!(destination.lags_from(RoomNumber(2)), Some(7));
        destination.caught_up(RoomNumber(2), 8);
        destination.caught_up(RoomNumber(3), 7);
        assert!(!destination.has_work());
        destination.push(waiting(9, 1));
        assert_eq!(destination.next(), Next::Events(vec![waiting(9, 1)]));
    }

    #[test]
    fn a_server_with_too_much_waiting_falls_behind() {
        let mut destination = Destination::default();
        for position in 0..u64::try_from(QUEUE_EVENTS_MAX).unwrap() {
            assert_eq!(destination.push(waiting(position, 1)), []);
        }
        assert_eq!(destination.push(waiting(1_000, 2)), [RoomNumber(1), RoomNumber(2)]);
        assert_eq!(destination.lags_from(RoomNumber(1)), Some(0));
        assert_eq!(destination.first_waiting(), None);
    }

    #[test]
    fn newer_ephemeral_data_takes_the_place_of_older() {
        let mut destination = Destination::default();
        let edu = |user, content: &str| Edu {
            subject: EduSubject::Typing(RoomNumber(1), UserNumber(user)),
            kind: "m.typing",
            content: content.into(),
        };
        for (user, content) in [(1, "a"), (2, "b"), (1, "c")] {
            destination.push_edu(edu(user, content));
        }
        let contents: Vec<_> = destination.take_edus(10).iter().map(|edu| edu.content.to_string()).collect();
        assert_eq!(contents, ["c", "b"]);
        for user in 0..u32::try_from(EDUS_MAX).unwrap() + 5 {
            destination.push_edu(edu(user, ""));
        }
        assert_eq!(destination.take_edus(usize::MAX).len(), EDUS_MAX);
    }
}
