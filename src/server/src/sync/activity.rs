//! What changed last, in memory: the last event of each room, and the last change of what each user alone sees.
//!
//! Fed by the log (`follow`), so that a sync reads only rooms and tables that have something new. It knows
//! everything from `started` on and up to `followed`; about what is older it answers "perhaps".

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use allod_storage::Position;
use roaring::RoaringBitmap;
use tokio::sync::watch;

use crate::numbers::{RoomNumber, UserNumber};

/// Users, or rooms, whose number ends alike share a slot: a change of one counts for all.
const SLOTS: usize = 4096;

/// Positions of last changes. Clones share them.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// From here on all changes are known.
    started: AtomicU64,
    /// All changes up to here are known.
    followed: watch::Sender<Position>,
    /// By room number; zero is unknown.
    events: RwLock<Vec<AtomicU64>>,
    memberships: Slots,
    /// By room: when somebody's membership changed.
    members: Slots,
    /// By room: when its current state changed.
    states: Slots,
    /// By room: when somebody's public receipt moved.
    receipts: Slots,
    /// The last public receipt of anybody in any room.
    last_receipt: AtomicU64,
    user_data: Slots,
    inboxes: Slots,
    /// The last change of anybody's devices.
    device_lists: AtomicU64,
}

/// Positions by the number of a user or room.
#[derive(Debug)]
struct Slots(Box<[AtomicU64]>);

impl Slots {
    fn new() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }

    fn slot(&self, number: u32) -> Option<&AtomicU64> {
        let number = usize::try_from(number).unwrap_or_default();
        self.0.get(number.checked_rem(self.0.len())?)
    }

    fn changed(&self, number: u32, at: Position) {
        if let Some(slot) = self.slot(number) {
            slot.fetch_max(at.get(), Ordering::AcqRel);
        }
    }

    fn last(&self, number: u32) -> u64 {
        self.slot(number).map_or(u64::MAX, |slot| slot.load(Ordering::Acquire))
    }
}

impl Activity {
    /// Knows nothing of what happened before `head`.
    pub fn new(head: Position) -> Self {
        Self(Arc::new(Inner {
            started: AtomicU64::new(head.get()),
            followed: watch::Sender::new(head),
            events: RwLock::default(),
            memberships: Slots::new(),
            members: Slots::new(),
            states: Slots::new(),
            receipts: Slots::new(),
            last_receipt: AtomicU64::new(0),
            user_data: Slots::new(),
            inboxes: Slots::new(),
            device_lists: AtomicU64::new(0),
        }))
    }

    /// The position up to which everything is known.
    pub fn followed(&self) -> Position {
        *self.0.followed.borrow()
    }

    /// Waits until everything up to `position` is known.
    pub async fn reach(&self, position: Position) {
        if self.followed() >= position {
            return;
        }
        // The sender lives as long as `self`, so this ends only when it is there.
        let _ = self.0.followed.subscribe().wait_for(|followed| *followed >= position).await;
    }

    /// The room's last event, if it is known.
    pub fn last_event(&self, room: RoomNumber) -> Option<Position> {
        let events = self.0.events.read().unwrap_or_else(PoisonError::into_inner);
        let last = events.get(index(room))?.load(Ordering::Acquire);
        (last > 0).then_some(Position::new(last))
    }

    /// The last events of rooms, in their order, where they are known.
    pub fn last_events(&self, rooms: &[RoomNumber]) -> Vec<Option<Position>> {
        let events = self.0.events.read().unwrap_or_else(PoisonError::into_inner);
        let last =
            |room: &RoomNumber| events.get(index(*room)).map_or(0, |last| last.load(Ordering::Acquire));
        rooms.iter().map(last).map(|last| (last > 0).then_some(Position::new(last))).collect()
    }

    /// Of these rooms, those that may have an event after `since`, and those of which nothing is known.
    pub fn split_by_last_event(
        &self,
        rooms: impl Iterator<Item = RoomNumber>,
        since: Position,
    ) -> (Vec<RoomNumber>, Vec<RoomNumber>) {
        let events = self.0.events.read().unwrap_or_else(PoisonError::into_inner);
        let (mut changed, mut unknown) = (Vec::new(), Vec::new());
        for room in rooms {
            match events.get(index(room)).map_or(0, |last| last.load(Ordering::Acquire)) {
                0 => unknown.push(room),
                last if last > since.get() => changed.push(room),
                _ => {}
            }
        }
        (changed, unknown)
    }

    /// An event entered the room at `at`, or was read to be its last.
    pub fn event(&self, room: RoomNumber, at: Position) {
        let index = index(room);
        let known = {
            let events = self.0.events.read().unwrap_or_else(PoisonError::into_inner);
            events.get(index).map(|last| last.fetch_max(at.get(), Ordering::AcqRel))
        };
        if known.is_none() {
            let mut events = self.0.events.write().unwrap_or_else(PoisonError::into_inner);
            if events.len() <= index {
                events.resize_with(index.saturating_add(1).next_power_of_two(), AtomicU64::default);
            }
            if let Some(last) = events.get(index) {
                last.fetch_max(at.get(), Ordering::AcqRel);
            }
        }
    }

    /// The user's membership of the room changed.
    pub(super) fn membership(&self, room: RoomNumber, user: UserNumber, at: Position) {
        self.0.memberships.changed(user.0, at);
        self.0.members.changed(room.0, at);
    }

    /// The room's current state changed.
    pub(super) fn state(&self, room: RoomNumber, at: Position) {
        self.0.states.changed(room.0, at);
    }

    /// Somebody's public receipt in the room moved.
    pub(super) fn receipt(&self, room: RoomNumber, at: Position) {
        self.0.receipts.changed(room.0, at);
        self.0.last_receipt.fetch_max(at.get(), Ordering::AcqRel);
    }

    /// The user's account data or private receipts changed.
    pub(super) fn user_data(&self, user: UserNumber, at: Position) {
        self.0.user_data.changed(user.0, at);
    }

    /// One of the user's devices was sent something.
    pub(super) fn inbox(&self, user: UserNumber, at: Position) {
        self.0.inboxes.changed(user.0, at);
    }

    /// Somebody's devices changed.
    pub(super) fn device_list(&self, at: Position) {
        self.0.device_lists.fetch_max(at.get(), Ordering::AcqRel);
    }

    /// Everything up to `position` was told.
    pub(super) fn followed_to(&self, position: Position) {
        self.0.followed.send_if_modified(|followed| {
            let moves = position > *followed;
            *followed = position.max(*followed);
            moves
        });
    }

    /// Something was missed: only from `head` on is everything known again.
    pub(super) fn restart(&self, head: Position) {
        self.0.started.fetch_max(head.get(), Ordering::AcqRel);
        for last in self.0.events.read().unwrap_or_else(PoisonError::into_inner).iter() {
            last.store(0, Ordering::Release);
        }
        self.followed_to(head);
    }

    /// Whether the user's membership of any room may have changed after `since`.
    pub fn membership_changed(&self, user: UserNumber, since: Position) -> bool {
        self.perhaps(since, self.0.memberships.last(user.0))
    }

    /// Whether anybody's membership of the room may have changed after `since`.
    pub fn members_changed(&self, room: RoomNumber, since: Position) -> bool {
        self.perhaps(since, self.0.members.last(room.0))
    }

    /// Whether the room's current state may have changed after `since`.
    pub fn state_changed(&self, room: RoomNumber, since: Position) -> bool {
        self.perhaps(since, self.0.states.last(room.0))
    }

    /// Whether a public receipt in any room may have moved after `since`.
    pub fn any_receipt_changed(&self, since: Position) -> bool {
        self.perhaps(since, self.0.last_receipt.load(Ordering::Acquire))
    }

    /// Whether a public receipt in the room may have moved after `since`.
    pub fn receipt_changed(&self, room: RoomNumber, since: Position) -> bool {
        self.perhaps(since, self.0.receipts.last(room.0))
    }

    /// Whether any of these rooms may have an event, or a public receipt, after `since`.
    pub fn any_room_changed(&self, rooms: &RoaringBitmap, since: Position) -> bool {
        let receipts = self.any_receipt_changed(since);
        let events = self.0.events.read().unwrap_or_else(PoisonError::into_inner);
        rooms.iter().map(RoomNumber).any(|room| {
            let last = events.get(index(room)).map_or(0, |last| last.load(Ordering::Acquire));
            // Zero: nothing is known of the room.
            last == 0 || last > since.get() || (receipts && self.receipt_changed(room, since))
        })
    }

    /// Whether the user's account data may have changed after `since`.
    pub fn user_data_changed(&self, user: UserNumber, since: Position) -> bool {
        self.perhaps(since, self.0.user_data.last(user.0))
    }

    /// Whether one of the user's devices may have been sent something after `since`.
    pub fn inbox_changed(&self, user: UserNumber, since: Position) -> bool {
        self.perhaps(since, self.0.inboxes.last(user.0))
    }

    /// Whether anybody's devices may have changed after `since`.
    pub fn device_list_changed(&self, since: Position) -> bool {
        self.perhaps(since, self.0.device_lists.load(Ordering::Acquire))
    }

    fn perhaps(&self, since: Position, last: u64) -> bool {
        since.get() < self.0.started.load(Ordering::Acquire) || last > since.get()
    }
}

fn index(room: RoomNumber) -> usize {
    usize::try_from(room.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: fn(u64) -> Position = Position::new;

    #[test]
    fn rooms_are_unknown_until_told_and_never_move_back() {
        let activity = Activity::new(P(10));
        let rooms = || [RoomNumber(1), RoomNumber(700)].into_iter();
        assert_eq!(activity.split_by_last_event(rooms(), P(10)).1.len(), 2);
        activity.event(RoomNumber(700), P(12));
        activity.event(RoomNumber(700), P(11));
        activity.event(RoomNumber(1), P(4));
        assert_eq!(activity.last_event(RoomNumber(700)), Some(P(12)));
        assert_eq!(activity.split_by_last_event(rooms(), P(11)), (vec![RoomNumber(700)], vec![]));
        assert_eq!(activity.split_by_last_event(rooms(), P(12)), (vec![], vec![]));
        activity.restart(P(20));
        assert_eq!(activity.last_event(RoomNumber(1)), None);
    }

    #[test]
    fn what_is_older_than_the_start_may_have_changed() {
        let activity = Activity::new(P(10));
        let user = UserNumber(1);
        assert!(activity.membership_changed(user, P(9)));
        assert!(!activity.membership_changed(user, P(10)));
        activity.membership(RoomNumber(9), user, P(12));
        assert!(activity.membership_changed(user, P(11)));
        assert!(!activity.membership_changed(user, P(12)));
        assert!(!activity.membership_changed(UserNumber(2), P(10)));
    }

    #[tokio::test]
    async fn reaching_waits_for_the_log() {
        let activity = Activity::new(P(10));
        activity.reach(P(10)).await;
        let other = activity.clone();
        let ((), ()) = tokio::join!(activity.reach(P(12)), async {
            other.followed_to(P(11));
            other.followed_to(P(12));
        });
        assert_eq!(activity.followed(), P(12));
    }
}
