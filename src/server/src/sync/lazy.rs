//! Which members a device, or one of its connections, has been told of, so that lazily loaded members are not repeated.
//!
//! In memory and bounded: what is lost is told again. What was put into a response counts as told only when the listener
//! comes back with that response's token or a later one, so a response that got lost costs nothing but a repetition.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use allod_matrix::state::EntryKey;
use allod_storage::Position;
use quick_cache::{Weighter, sync::Cache};

use crate::numbers::{DeviceNumber, EventNumber, RoomNumber};

/// Members remembered for all listeners together.
const MEMBERS_MAX: u64 = 200_000;
/// Members remembered for one listener and room.
const MEMBERS_PER_ROOM_MAX: usize = 2_000;
/// What an entry weighs besides its members.
const ENTRY_WEIGHT: u64 = 4;

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Listener {
    /// A device that syncs with `/v3/sync`.
    Device(DeviceNumber),
    /// A connection of a sliding sync.
    Connection(u64),
}

type Told = Arc<HashMap<EntryKey, (EventNumber, Position)>>;

#[derive(Clone)]
struct ByMembers;

impl Weighter<(Listener, RoomNumber), Told> for ByMembers {
    fn weight(&self, _key: &(Listener, RoomNumber), told: &Told) -> u64 {
        u64::try_from(told.len()).unwrap_or(u64::MAX).saturating_add(ENTRY_WEIGHT)
    }
}

/// What listeners have been told.
#[derive(Clone)]
pub(crate) struct ToldMembers {
    cache: Arc<Cache<(Listener, RoomNumber), Told, ByMembers>>,
    /// Serialises changes; they are short.
    changing: Arc<Mutex<()>>,
}

impl std::fmt::Debug for ToldMembers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ToldMembers").finish_non_exhaustive()
    }
}

impl ToldMembers {
    /// Nobody was told anything.
    pub(crate) fn new() -> Self {
        let items = usize::try_from(MEMBERS_MAX / 16).unwrap_or(usize::MAX);
        Self {
            cache: Arc::new(Cache::with_weighter(items, MEMBERS_MAX, ByMembers)),
            changing: Arc::default(),
        }
    }

    /// Of these members (by state entry and event), those that a listener whose token is at `since` was not told yet.
    /// With `since` absent it knows none.
    pub(crate) fn untold(
        &self,
        listener: Listener,
        room: RoomNumber,
        since: Option<Position>,
        members: &[(EntryKey, EventNumber)],
    ) -> Vec<(EntryKey, EventNumber)> {
        let told = since.and_then(|since| Some((since, self.cache.get(&(listener, room))?)));
        let Some((since, told)) = told else { return members.to_vec() };
        let is_told = |key: &EntryKey, event: &EventNumber| {
            told.get(key).is_some_and(|(known, at)| known == event && *at <= since)
        };
        members.iter().filter(|(key, event)| !is_told(key, event)).copied().collect()
    }

    /// Remembers what a response at `at` tells a listener whose token was `since`.
    pub(crate) fn tell(
        &self,
        listener: Listener,
        room: RoomNumber,
        since: Option<Position>,
        at: Position,
        members: &[(EntryKey, EventNumber)],
    ) {
        if members.is_empty() && since.is_some() {
            return;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (listener, room);
        let mut told = match (since, self.cache.get(&key)) {
            (Some(_), Some(told)) => (*told).clone(),
            _ => HashMap::new(),
        };
        // What was told in responses after this token got lost.
        told.retain(|_, (_, told_at)| since.is_some_and(|since| *told_at <= since));
        if told.len().saturating_add(members.len()) > MEMBERS_PER_ROOM_MAX {
            told.clear();
        }
        told.extend(members.iter().take(MEMBERS_PER_ROOM_MAX).map(|(entry, event)| (*entry, (*event, at))));
        if told.is_empty() {
            self.cache.remove(&key);
        } else {
            self.cache.insert(key, Arc::new(told));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Listener = Listener::Device(DeviceNumber(1));
    const ROOM: RoomNumber = RoomNumber(1);
    const ALICE: (EntryKey, EventNumber) = (EntryKey([1; 16]), EventNumber(5));
    const BOB: (EntryKey, EventNumber) = (EntryKey([2; 16]), EventNumber(6));
    const P: fn(u64) -> Option<Position> = |number| Some(Position::new(number));

    #[test]
    fn a_member_is_told_once_and_again_after_a_change() {
        let told = ToldMembers::new();
        assert_eq!(told.untold(DEVICE, ROOM, None, &[ALICE]), [ALICE]);
        told.tell(DEVICE, ROOM, None, Position::new(10), &[ALICE]);
        assert_eq!(told.untold(DEVICE, ROOM, P(10), &[ALICE, BOB]), [BOB]);
        let renamed = (ALICE.0, EventNumber(9));
        assert_eq!(told.untold(DEVICE, ROOM, P(10), &[renamed]), [renamed]);
        assert_eq!(told.untold(Listener::Device(DeviceNumber(2)), ROOM, P(10), &[ALICE]), [ALICE]);
    }

    #[test]
    fn a_lost_response_was_not_told() {
        let told = ToldMembers::new();
        told.tell(DEVICE, ROOM, None, Position::new(10), &[ALICE]);
        told.tell(DEVICE, ROOM, P(10), Position::new(20), &[BOB]);
        // The response at 20 got lost: the device comes back with 10.
        assert_eq!(told.untold(DEVICE, ROOM, P(10), &[ALICE, BOB]), [BOB]);
        // This one is about something else, and arrives; the lost one stays lost.
        told.tell(DEVICE, ROOM, P(10), Position::new(30), &[(EntryKey([3; 16]), EventNumber(8))]);
        assert_eq!(told.untold(DEVICE, ROOM, P(30), &[ALICE, BOB]), [BOB]);
    }

    #[test]
    fn a_first_sync_begins_anew() {
        let told = ToldMembers::new();
        told.tell(DEVICE, ROOM, None, Position::new(10), &[ALICE]);
        told.tell(DEVICE, ROOM, None, Position::new(12), &[]);
        assert_eq!(told.untold(DEVICE, ROOM, P(12), &[ALICE]), [ALICE]);
    }
}
