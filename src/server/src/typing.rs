//! Who is typing where. In memory only: never written, gone at a restart, which is what a new `boot` in sync tokens says.
//!
//! Typing and presence share one [`Sequence`]: every change takes the next number, and a sync token holds the last.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use roaring::RoaringBitmap;
use ruma::{OwnedUserId, UserId};
use tokio::sync::{Notify, broadcast};

use crate::{
    clock::Clock,
    numbers::{RoomNumber, UserNumber},
    tasks::Tasks,
    wake::Wakes,
};

/// Longest time that a user is shown as typing without saying so again.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Most users shown as typing in a room.
pub const TYPING_PER_ROOM_MAX: usize = 100;

/// Numbers for changes of state that is in memory only, in the order in which they happen.
#[derive(Clone, Debug, Default)]
pub struct Sequence(Arc<AtomicU64>);

impl Sequence {
    /// Starts at zero: nothing happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of the last change.
    pub fn last(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// The number of a new change. Taken while the changed state is locked, so that who reads [`Sequence::last`] first
    /// and the state then sees every change up to it.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst).saturating_add(1)
    }
}

/// Somebody started, still does, or stopped typing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// Where.
    pub room: RoomNumber,
    /// Who.
    pub user: UserNumber,
    /// The user's id.
    pub user_id: OwnedUserId,
    /// Whether they are typing.
    pub typing: bool,
}

/// Changes that a slow follower may be behind before it misses some.
const FOLLOWED_MAX: usize = 512;

/// The service of typing notifications.
#[derive(Clone, Debug)]
pub struct Typing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    wakes: Wakes,
    sequence: Sequence,
    rooms: Mutex<HashMap<RoomNumber, Room>>,
    /// Told when somebody started, so that the expiry looks at the new deadline.
    started: Notify,
    /// Tells who is typing beyond this server.
    told: broadcast::Sender<Typed>,
}

/// A room in which somebody is typing or was.
#[derive(Debug, Default)]
struct Room {
    /// The number of the last change.
    version: u64,
    /// Who is typing, and until when in milliseconds since the epoch.
    users: BTreeMap<UserNumber, (OwnedUserId, u64)>,
}

impl Typing {
    /// Nobody types.
    pub fn new(clock: Clock, wakes: Wakes, sequence: Sequence) -> Self {
        let (rooms, started, told) = (Mutex::default(), Notify::new(), broadcast::Sender::new(FOLLOWED_MAX));
        Self(Arc::new(Inner { clock, wakes, sequence, rooms, started, told }))
    }

    /// Everything that clients say of typing from now on, repetitions included, but for times that run out.
    pub fn follow(&self) -> broadcast::Receiver<Typed> {
        self.0.told.subscribe()
    }

    /// A user started typing, or still does.
    pub fn start(&self, room: RoomNumber, user: UserNumber, user_id: &UserId, timeout: Duration) {
        let until = self.0.clock.now_ms().saturating_add(millis(timeout.min(TIMEOUT_MAX)));
        let mut rooms = self.rooms();
        let state = rooms.entry(room).or_default();
        if state.users.len() >= TYPING_PER_ROOM_MAX && !state.users.contains_key(&user) {
            return;
        }
        let new = state.users.insert(user, (user_id.to_owned(), until)).is_none();
        if new {
            state.version = self.0.sequence.next();
        }
        drop(rooms);
        self.0.started.notify_one();
        // Nobody may be following.
        let _ = self.0.told.send(Typed { room, user, user_id: user_id.to_owned(), typing: true });
        if new {
            self.0.wakes.wake_room(room);
        }
    }

    /// A user stopped typing, sent the message, or left.
    pub fn stop(&self, room: RoomNumber, user: UserNumber) {
        let mut rooms = self.rooms();
        let Some(state) = rooms.get_mut(&room) else { return };
        let Some((user_id, _)) = state.users.remove(&user) else { return };
        state.version = self.0.sequence.next();
        drop(rooms);
        let _ = self.0.told.send(Typed { room, user, user_id, typing: false });
        self.0.wakes.wake_room(room);
    }

    /// Who is typing in a room, in a stable order, and the number of the last change there; `None` if nobody typed there
    /// since the start.
    pub fn in_room(&self, room: RoomNumber) -> Option<(u64, Vec<OwnedUserId>)> {
        let rooms = self.rooms();
        let state = rooms.get(&room)?;
        let now = self.0.clock.now_ms();
        let typing =
            state.users.values().filter(|(_, until)| *until > now).map(|(user_id, _)| user_id.clone());
        Some((state.version, typing.collect()))
    }

    /// Whether anybody started or stopped typing in one of these rooms after the change `since`.
    pub fn changed_in(&self, wanted: &RoaringBitmap, since: u64) -> bool {
        let rooms = self.rooms();
        rooms.iter().any(|(room, state)| state.version > since && wanted.contains(room.0))
    }

    /// The rooms where anybody started or stopped typing after the change `since`.
    pub fn changed_rooms(&self, since: u64) -> RoaringBitmap {
        let rooms = self.rooms();
        rooms.iter().filter(|(_, state)| state.version > since).map(|(room, _)| room.0).collect()
    }

    /// What changed in these rooms after the change `since`: who is typing there now, perhaps nobody.
    pub fn changes(
        &self,
        wanted: impl IntoIterator<Item = RoomNumber>,
        since: u64,
    ) -> Vec<(RoomNumber, Vec<OwnedUserId>)> {
        let changed = wanted.into_iter().filter_map(|room| {
            let (version, users) = self.in_room(room)?;
            (version > since).then_some((room, users))
        });
        changed.collect()
    }

    /// Removes those whose time is up, wakes who waits for their rooms, and returns when the next one's time is up.
    pub fn expire(&self) -> Option<u64> {
        let now = self.0.clock.now_ms();
        let mut expired = Vec::new();
        let mut next: Option<u64> = None;
        let mut rooms = self.rooms();
        // Changes of several rooms at one moment have no order among each other.
        #[expect(clippy::iter_over_hash_type, reason = "rooms expire independently")]
        for (room, state) in rooms.iter_mut() {
            let before = state.users.len();
            state.users.retain(|_, (_, until)| *until > now);
            if state.users.len() < before {
                state.version = self.0.sequence.next();
                expired.push(*room);
            }
            let first = state.users.values().map(|(_, until)| *until).min();
            next = next.into_iter().chain(first).min();
        }
        drop(rooms);
        for room in expired {
            self.0.wakes.wake_room(room);
        }
        next
    }

    /// Starts the task that lets typing expire; it sleeps while nobody types.
    pub fn run_expiry(&self, tasks: &Tasks) {
        let (typing, stopping) = (self.clone(), tasks.stopping().clone());
        tasks.spawn("typing expiry", async move {
            loop {
                let next = typing.expire().map(|at| at.saturating_sub(typing.0.clock.now_ms()));
                let due = async {
                    match next {
                        Some(wait_ms) => tokio::time::sleep(Duration::from_millis(wait_ms.max(1))).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = due => {}
                    () = typing.0.started.notified() => {}
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomNumber, Room>> {
        self.0.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, user_id};

    use super::*;

    const ROOM: RoomNumber = RoomNumber(1);
    const ALICE: UserNumber = UserNumber(1);

    fn typing() -> (Typing, Clock, Sequence) {
        let (clock, sequence) = (Clock::manual(1_000_000), Sequence::new());
        (Typing::new(clock.clone(), Wakes::new(), sequence.clone()), clock, sequence)
    }

    #[test]
    fn typing_starts_stops_and_changes_are_seen_once() {
        let (typing, _, sequence) = typing();
        assert_eq!(typing.in_room(ROOM), None);
        typing.start(ROOM, ALICE, user_id!("@alice:a"), Duration::from_secs(30));
        assert_eq!(typing.changes([ROOM], 0), vec![(ROOM, vec![owned_user_id!("@alice:a")])]);
        let seen = sequence.last();
        typing.start(ROOM, ALICE, user_id!("@alice:a"), Duration::from_secs(30));
        assert_eq!(typing.changes([ROOM], seen), vec![]);
        typing.stop(ROOM, ALICE);
        typing.stop(ROOM, ALICE);
        assert_eq!(typing.changes([ROOM], seen), vec![(ROOM, vec![])]);
        assert_eq!(sequence.last(), seen + 1);
    }

    #[test]
    fn typing_expires_and_the_timeout_is_capped() {
        let (typing, clock, sequence) = typing();
        typing.start(ROOM, ALICE, user_id!("@alice:a"), Duration::from_secs(3_600));
        assert_eq!(typing.expire(), Some(1_000_000 + 120_000));
        clock.advance(TIMEOUT_MAX);
        let seen = sequence.last();
        assert_eq!(typing.expire(), None);
        assert_eq!(typing.changes([ROOM], seen), vec![(ROOM, vec![])]);
    }
}
