//! Waking long polls: a waiter says which user and rooms it is about, and is woken when something may have changed there.
//!
//! A wake-up is a hint and carries nothing: the waiter registers, reads what it is after, and sleeps until it is woken. One
//! that comes between the registration and the sleep is kept. The commit log's consumer and the services whose state
//! is in memory only (typing, presence) call the `wake` functions.
//!
//! An event costs what its room's waiting members are, not what all waiters are: rooms are indexed by the users that
//! have them. A user who stops waiting stays indexed for a while, since polls follow each other.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use roaring::RoaringBitmap;
use tokio::sync::Notify;

use crate::numbers::{RoomNumber, UserNumber};

/// Users kept in the index besides twice those that were waiting when it was last swept.
const IDLE_USERS_MAX: usize = 4096;

/// The registry of waiters.
#[derive(Clone, Debug, Default)]
pub struct Wakes(Arc<RwLock<Registry>>);

#[derive(Debug)]
struct Registry {
    next: u64,
    waiting: usize,
    users: HashMap<UserNumber, User>,
    /// The users of each room.
    rooms: HashMap<RoomNumber, RoaringBitmap>,
    /// More users than this lead to a sweep.
    users_max: usize,
}

/// A user who waits, or did a while ago.
#[derive(Debug, Default)]
struct User {
    rooms: Arc<RoaringBitmap>,
    waiters: Vec<(u64, Arc<Notify>)>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { next: 0, waiting: 0, users: HashMap::new(), rooms: HashMap::new(), users_max: IDLE_USERS_MAX }
    }
}

impl Wakes {
    /// Without waiters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a waiter for a user and a set of rooms. Register first, read then, or a change in between is missed.
    /// The rooms replace those of the user's other waiters.
    pub fn register(&self, user: UserNumber, rooms: &Arc<RoaringBitmap>) -> Waiter {
        let notify = Arc::new(Notify::new());
        let mut registry = self.write();
        registry.sweep();
        registry.set_rooms(user, rooms);
        let id = registry.next;
        registry.next = id.wrapping_add(1);
        registry.waiting = registry.waiting.saturating_add(1);
        registry.users.entry(user).or_default().waiters.push((id, Arc::clone(&notify)));
        drop(registry);
        Waiter { wakes: self.clone(), id, user, notify }
    }

    /// Wakes the waiters of a user.
    pub fn wake_user(&self, user: UserNumber) {
        self.read().wake(user);
    }

    /// Wakes all waiters that have this room.
    pub fn wake_room(&self, room: RoomNumber) {
        let registry = self.read();
        for user in registry.rooms.get(&room).into_iter().flatten() {
            registry.wake(UserNumber(user));
        }
    }

    /// Wakes all waiters that have one of these rooms.
    pub fn wake_rooms(&self, changed: &RoaringBitmap) {
        let registry = self.read();
        let in_rooms = changed.iter().filter_map(|room| registry.rooms.get(&RoomNumber(room)));
        let users = in_rooms.fold(RoaringBitmap::new(), |users, in_room| users | in_room);
        for user in users {
            registry.wake(UserNumber(user));
        }
    }

    /// Wakes everybody: when it is not known what was missed.
    #[expect(clippy::iter_over_hash_type, reason = "the order in which waiters are woken does not matter")]
    pub fn wake_all(&self) {
        for user in self.read().users.values() {
            user.wake();
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.read().waiting
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl User {
    fn wake(&self) {
        for (_, notify) in &self.waiters {
            notify.notify_one();
        }
    }
}

impl Registry {
    fn wake(&self, user: UserNumber) {
        if let Some(user) = self.users.get(&user) {
            user.wake();
        }
    }

    fn set_rooms(&mut self, user: UserNumber, rooms: &Arc<RoaringBitmap>) {
        let known = self.users.entry(user).or_default();
        if Arc::ptr_eq(&known.rooms, rooms) {
            return;
        }
        let before = std::mem::replace(&mut known.rooms, Arc::clone(rooms));
        for room in &*before - &**rooms {
            self.remove(user, room);
        }
        for room in &**rooms - &*before {
            self.rooms.entry(RoomNumber(room)).or_default().insert(user.0);
        }
    }

    fn remove(&mut self, user: UserNumber, room: u32) {
        if let Some(users) = self.rooms.get_mut(&RoomNumber(room)) {
            users.remove(user.0);
            if users.is_empty() {
                self.rooms.remove(&RoomNumber(room));
            }
        }
    }

    /// Forgets users who do not wait, if there have come to be many.
    fn sweep(&mut self) {
        if self.users.len() <= self.users_max {
            return;
        }
        let idle: Vec<_> =
            self.users.iter().filter(|(_, user)| user.waiters.is_empty()).map(|(id, _)| *id).collect();
        for id in idle {
            let Some(user) = self.users.remove(&id) else { continue };
            for room in &*user.rooms {
                self.remove(id, room);
            }
        }
        self.users_max = self.users.len().saturating_mul(2).saturating_add(IDLE_USERS_MAX);
    }
}

/// A registered waiter; dropping it ends the registration.
#[derive(Debug)]
pub struct Waiter {
    wakes: Wakes,
    id: u64,
    user: UserNumber,
    notify: Arc<Notify>,
}

impl Waiter {
    /// Ends when the waiter is woken, at once if it was since the last time. Cancel safe.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Waits for other rooms from now on: after the user joined or left some.
    pub fn set_rooms(&self, rooms: &Arc<RoaringBitmap>) {
        self.wakes.write().set_rooms(self.user, rooms);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut registry = self.wakes.write();
        registry.waiting = registry.waiting.saturating_sub(1);
        if let Some(user) = registry.users.get_mut(&self.user) {
            user.waiters.retain(|(id, _)| *id != self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn rooms(numbers: &[u32]) -> Arc<RoaringBitmap> {
        Arc::new(numbers.iter().collect())
    }

    fn was_woken(waiter: &Waiter) -> bool {
        waiter.woken().now_or_never().is_some()
    }

    #[test]
    fn waiters_are_woken_by_user_and_by_room_and_once() {
        let wakes = Wakes::new();
        let alice = wakes.register(UserNumber(1), &rooms(&[1, 2]));
        let bob = wakes.register(UserNumber(2), &rooms(&[2, 3]));
        assert!(!was_woken(&alice));
        wakes.wake_user(UserNumber(1));
        assert!(was_woken(&alice) && !was_woken(&bob));
        assert!(!was_woken(&alice));
        wakes.wake_room(RoomNumber(2));
        wakes.wake_room(RoomNumber(2));
        assert!(was_woken(&alice) && was_woken(&bob));
        assert!(!was_woken(&alice) && !was_woken(&bob));
        wakes.wake_rooms(&rooms(&[3, 9]));
        assert!(!was_woken(&alice) && was_woken(&bob));
        bob.set_rooms(&rooms(&[7]));
        wakes.wake_room(RoomNumber(3));
        assert!(!was_woken(&bob));
        wakes.wake_room(RoomNumber(7));
        assert!(was_woken(&bob));
        wakes.wake_all();
        assert!(was_woken(&alice) && was_woken(&bob));
    }

    #[test]
    fn all_waiters_of_a_user_are_woken() {
        let wakes = Wakes::new();
        let phone = wakes.register(UserNumber(1), &rooms(&[1]));
        let laptop = wakes.register(UserNumber(1), &rooms(&[1]));
        wakes.wake_room(RoomNumber(1));
        assert!(was_woken(&phone) && was_woken(&laptop));
        drop(phone);
        assert_eq!(wakes.waiting(), 1);
        wakes.wake_room(RoomNumber(1));
        assert!(was_woken(&laptop));
    }

    #[test]
    fn users_who_stopped_waiting_are_forgotten_in_the_end() {
        let wakes = Wakes::new();
        let last = wakes.register(UserNumber(0), &rooms(&[1]));
        for user in 1..=IDLE_USERS_MAX {
            drop(wakes.register(UserNumber(user.try_into().unwrap()), &rooms(&[1, 2])));
        }
        assert_eq!(wakes.waiting(), 1);
        let new = wakes.register(UserNumber(u32::MAX), &rooms(&[1]));
        assert_eq!(wakes.read().users.len(), 2);
        assert_eq!(wakes.read().rooms.keys().collect::<Vec<_>>(), [&RoomNumber(1)]);
        wakes.wake_room(RoomNumber(1));
        assert!(was_woken(&last) && was_woken(&new));
    }
}
