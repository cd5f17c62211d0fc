//! Which pushers have something to send, and when each is tried: in memory and without I/O.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use allod_storage::Position;

use crate::{random::Random, retry, tables::push::PusherKey};

/// Deliveries under way at a time.
pub(super) const DELIVERIES_MAX: usize = 64;
/// The first pause after a gateway did not take something.
const FIRST: Duration = Duration::from_secs(2);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(3_600);

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing is left.
    Done,
    /// The gateway did not take it.
    Failed,
    /// It is not time yet: until then, in milliseconds since the epoch.
    Later(u64),
}

/// A pusher with something to do.
#[derive(Debug, Default)]
struct Work {
    /// When it is tried, in milliseconds since the epoch; none while a delivery is under way.
    due_ms: Option<u64>,
    /// Whether something came while a delivery was under way.
    again: bool,
    failures: u32,
    /// A row that was taken, though that could not be written down.
    taken: Option<Position>,
}

/// The pushers with something to do.
#[derive(Debug, Default)]
pub(super) struct Book {
    work: HashMap<PusherKey, Work>,
    due: BTreeSet<(u64, PusherKey)>,
    running: usize,
}

impl Book {
    /// There is something for a pusher. One that waits for its gateway waits on.
    pub(super) fn tell(&mut self, key: PusherKey) {
        if let Some(work) = self.work.get_mut(&key) {
            work.again = true;
        } else {
            self.work.insert(key, Work { due_ms: Some(0), ..Work::default() });
            self.due.insert((0, key));
        }
    }

    /// The next pusher to deliver to.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<PusherKey> {
        if self.running >= DELIVERIES_MAX || !self.has_ready(now_ms) {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        let work = self.work.entry(key).or_default();
        (work.due_ms, work.again) = (None, false);
        self.running = self.running.saturating_add(1);
        Some(key)
    }

    /// Whether somebody's time has come.
    pub(super) fn has_ready(&self, now_ms: u64) -> bool {
        self.next_ms().is_some_and(|due_ms| due_ms <= now_ms)
    }

    /// When the next is due, in milliseconds since the epoch.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// A delivery has ended.
    pub(super) fn done(&mut self, key: PusherKey, outcome: Outcome, now_ms: u64, random: &Random) {
        self.running = self.running.saturating_sub(1);
        let Some(work) = self.work.get_mut(&key) else { return };
        let due_ms = match outcome {
            Outcome::Done if work.again => {
                work.failures = 0;
                now_ms
            }
            Outcome::Done => {
                self.work.remove(&key);
                return;
            }
            Outcome::Later(due_ms) => {
                work.failures = 0;
                due_ms
            }
            Outcome::Failed => {
                work.failures = work.failures.saturating_add(1);
                let pause = retry::pause(work.failures, FIRST, LONGEST, random);
                now_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
            }
        };
        work.due_ms = Some(due_ms);
        self.due.insert((due_ms, key));
    }

    /// How often in a row the gateway has not taken what is first.
    pub(super) fn failures(&self, key: &PusherKey) -> u32 {
        self.work.get(key).map_or(0, |work| work.failures)
    }

    /// Something was taken: failures count anew.
    pub(super) fn taken(&mut self, key: &PusherKey, row: Position) {
        if let Some(work) = self.work.get_mut(key) {
            (work.failures, work.taken) = (0, Some(row));
        }
    }

    /// Whether a row was taken in this run of the server.
    pub(super) fn was_taken(&self, key: &PusherKey, row: Position) -> bool {
        self.work.get(key).is_some_and(|work| work.taken >= Some(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::{DeviceNumber, Hash128, UserNumber};

    fn key(user: u32) -> PusherKey {
        (UserNumber(user), DeviceNumber(1), Hash128::default())
    }

    #[test]
    fn who_fails_waits_longer_each_time_and_holds_up_nobody() {
        let (mut book, random) = (Book::default(), Random::seeded(1));
        book.tell(key(1));
        book.tell(key(1));
        assert_eq!((book.take(10), book.take(10)), (Some(key(1)), None));
        book.done(key(1), Outcome::Failed, 10, &random);
        let first = book.next_ms().unwrap();
        assert!((1_010..=2_010).contains(&first), "{first}");
        // News do not end the pause.
        book.tell(key(1));
        book.tell(key(2));
        assert_eq!((book.take(10), book.take(10)), (Some(key(2)), None));
        book.done(key(2), Outcome::Done, 10, &random);
        assert_eq!(book.take(first), Some(key(1)));
        assert_eq!(book.failures(&key(1)), 1);
        book.done(key(1), Outcome::Failed, first, &random);
        assert!(book.next_ms().unwrap() >= first + 2_000);
    }

    #[test]
    fn what_comes_during_a_delivery_leads_to_another() {
        let (mut book, random) = (Book::default(), Random::seeded(1));
        book.tell(key(1));
        book.take(0).unwrap();
        book.tell(key(1));
        book.done(key(1), Outcome::Done, 5, &random);
        assert_eq!(book.take(5), Some(key(1)));
        book.done(key(1), Outcome::Done, 5, &random);
        assert_eq!(book.take(u64::MAX), None);
    }

    #[test]
    fn deliveries_at_a_time_are_bounded() {
        let (mut book, random) = (Book::default(), Random::seeded(1));
        (0..100).for_each(|user| book.tell(key(user)));
        let taken: Vec<_> = std::iter::from_fn(|| book.take(0)).collect();
        assert_eq!(taken.len(), DELIVERIES_MAX);
        book.done(taken[0], Outcome::Done, 0, &random);
        assert!(book.take(0).is_some() && book.take(0).is_none());
    }
}
