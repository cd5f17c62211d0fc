//! Who is online. In memory only, like typing, and counted in the same [`Sequence`].
//!
//! What is shown follows from what the user's clients want shown and from time: without a sync a user goes offline, without
//! activity unavailable. `currently_active` outlasts an activity by a minute, so that not every message is a change.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use roaring::RoaringBitmap;
use ruma::{OwnedUserId, UInt, UserId, events::presence::PresenceEventContent, presence::PresenceState};
use tokio::sync::{Notify, watch};

use crate::{clock::Clock, numbers::UserNumber, tasks::Tasks, typing::Sequence, wake::Wakes};

/// A user who does not sync for this long is offline, in milliseconds.
pub const OFFLINE_AFTER_MS: u64 = 30_000;
/// A user who does nothing for this long is unavailable, in milliseconds.
pub const UNAVAILABLE_AFTER_MS: u64 = 300_000;
/// A user who did something within this time is currently active, in milliseconds.
pub const ACTIVE_FOR_MS: u64 = 60_000;
/// Longest status message, in bytes.
pub const STATUS_BYTES_MAX: usize = 1024;
/// How late an expiry may be noticed.
const EXPIRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// Why presence was not set.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// The state is none of the three.
    #[error("unknown presence state")]
    UnknownState,
    /// The status message is too long.
    #[error("the status message is too long")]
    StatusTooLong,
}

/// What another server says of a user.
#[derive(Clone, Debug)]
pub struct Told {
    /// The state.
    pub state: PresenceState,
    /// The status message.
    pub status: Option<String>,
    /// For how long the user has done nothing, in milliseconds.
    pub idle_ms: u64,
}

/// The service of presence.
#[derive(Clone, Debug)]
pub struct Presence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    wakes: Wakes,
    sequence: Sequence,
    enabled: AtomicBool,
    known: Mutex<Known>,
    /// Told when the first user appears, so that the expiry starts.
    appeared: Notify,
    /// The number of the newest change.
    newest: watch::Sender<u64>,
}

/// What is shown of somebody now.
#[derive(Clone, Debug)]
pub struct Change {
    /// The number of the change.
    pub version: u64,
    /// Who it is.
    pub user: UserNumber,
    /// Their id.
    pub user_id: OwnedUserId,
    /// Where it is shown.
    pub rooms: Arc<RoaringBitmap>,
    /// What is shown.
    pub content: PresenceEventContent,
}

#[derive(Debug, Default)]
struct Known {
    users: HashMap<UserNumber, Person>,
    /// Users by the number of their last change.
    changes: BTreeMap<u64, UserNumber>,
}

/// What is known about a user who was seen since the start.
#[derive(Debug)]
struct Person {
    user_id: OwnedUserId,
    /// The number of the last change of what is shown.
    version: u64,
    /// What the user's clients want to be shown.
    wanted: PresenceState,
    status: Option<String>,
    last_active_ms: u64,
    last_sync_ms: u64,
    /// Syncs that are waiting.
    syncs: u32,
    /// What was last shown.
    shown: Shown,
    /// Where it is shown.
    rooms: Arc<RoaringBitmap>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    state: PresenceState,
    active: bool,
    status: Option<String>,
}

impl Presence {
    /// Nobody was seen yet.
    pub fn new(clock: Clock, wakes: Wakes, sequence: Sequence) -> Self {
        let (enabled, known, appeared) = (AtomicBool::new(true), Mutex::default(), Notify::new());
        let newest = watch::Sender::new(0);
        Self(Arc::new(Inner { clock, wakes, sequence, enabled, known, appeared, newest }))
    }

    /// Turns presence on or off for the whole server. Off, everybody is offline and nobody is told.
    pub fn set_enabled(&self, enabled: bool) {
        self.0.enabled.store(enabled, Ordering::Relaxed);
    }

    /// What the user says of themselves. `rooms` are those where it is shown.
    pub fn set(
        &self,
        user: UserNumber,
        user_id: &UserId,
        rooms: Arc<RoaringBitmap>,
        state: PresenceState,
        status: Option<String>,
    ) -> Result<(), PresenceError> {
        if !matches!(state, PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline) {
            return Err(PresenceError::UnknownState);
        }
        if status.as_ref().is_some_and(|status| status.len() > STATUS_BYTES_MAX) {
            return Err(PresenceError::StatusTooLong);
        }
        self.change(user, user_id, Some(rooms), |known, now| {
            if state == PresenceState::Online {
                known.last_active_ms = now;
            }
            known.last_sync_ms = now;
            known.wanted = state;
            known.status = status;
        });
        Ok(())
    }

    /// What another server says of a user of its own, of whom it tells again when that changes.
    pub fn hear(&self, user: UserNumber, user_id: &UserId, rooms: Arc<RoaringBitmap>, told: Told) {
        let Told { state, status, idle_ms } = told;
        self.change(user, user_id, Some(rooms), |known, now| {
            known.last_active_ms = now.saturating_sub(idle_ms);
            known.last_sync_ms = now;
            known.syncs = u32::from(state != PresenceState::Offline);
            known.wanted = state;
            known.status = status.filter(|status| status.len() <= STATUS_BYTES_MAX);
        });
    }

    /// A sync with this `set_presence` began; it lasts until the guard is dropped.
    pub fn syncing(
        &self,
        user: UserNumber,
        user_id: &UserId,
        rooms: Arc<RoaringBitmap>,
        set: &PresenceState,
    ) -> Syncing {
        if !matches!(set, PresenceState::Online | PresenceState::Unavailable) {
            return Syncing { presence: None, user };
        }
        self.change(user, user_id, Some(rooms), |known, now| {
            if *set == PresenceState::Online
                && (known.wanted != *set || known.shown.state == PresenceState::Offline)
            {
                known.last_active_ms = now;
            }
            known.wanted = set.clone();
            known.syncs = known.syncs.saturating_add(1);
        });
        Syncing { presence: Some(self.clone()), user }
    }

    /// The user did something: sent an event, read, typed.
    pub fn active(&self, user: UserNumber, user_id: &UserId) {
        self.change(user, user_id, None, |known, now| known.last_active_ms = now);
    }

    /// What is shown of a user; offline if they were not seen.
    pub fn get(&self, user: UserNumber) -> PresenceEventContent {
        let now = self.0.clock.now_ms();
        let known = self.known();
        match known.users.get(&user).filter(|_| self.is_enabled()) {
            Some(user) => user.content(now),
            None => PresenceEventContent::new(PresenceState::Offline),
        }
    }

    /// Whether anybody changed after the change `since`.
    pub fn has_changes(&self, since: u64) -> bool {
        self.is_enabled()
            && self.known().changes.range((Bound::Excluded(since), Bound::Unbounded)).next().is_some()
    }

    /// Who changed after the change `since`, in order, with what is shown now. The caller keeps those who share a room
    /// with the one who asks.
    pub fn changes(&self, since: u64) -> Vec<(UserNumber, OwnedUserId, PresenceEventContent)> {
        if !self.is_enabled() {
            return Vec::new();
        }
        let now = self.0.clock.now_ms();
        let known = self.known();
        let changed = known.changes.range((Bound::Excluded(since), Bound::Unbounded));
        let users = changed.filter_map(|(_, user)| Some((*user, known.users.get(user)?)));
        users.map(|(user, known)| (user, known.user_id.clone(), known.content(now))).collect()
    }

    /// The number of the newest change, each time there is one.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// All that changed after the change `since`, in order, and where it is shown.
    pub fn changes_with_rooms(&self, since: u64) -> Vec<Change> {
        if !self.is_enabled() {
            return Vec::new();
        }
        let now = self.0.clock.now_ms();
        let known = self.known();
        let changed = known.changes.range((Bound::Excluded(since), Bound::Unbounded));
        let changes = changed.filter_map(|(version, user)| {
            let person = known.users.get(user)?;
            Some(Change {
                version: *version,
                user: *user,
                user_id: person.user_id.clone(),
                rooms: Arc::clone(&person.rooms),
                content: person.content(now),
            })
        });
        changes.collect()
    }

    /// Lets time have its effect on what is shown; returns whether anybody is known.
    pub fn expire(&self) -> bool {
        let now = self.0.clock.now_ms();
        let mut known = self.known();
        // Known users whose state depends on time: those who are not offline.
        #[expect(clippy::iter_over_hash_type, reason = "sorted before anything follows from it")]
        let mut due: Vec<UserNumber> = {
            let mut due = Vec::new();
            for (user, known) in &known.users {
                if known.shown != known.to_show(now) {
                    due.push(*user);
                }
            }
            due
        };
        due.sort_unstable();
        let mut rooms = Vec::with_capacity(due.len());
        for user in &due {
            rooms.extend(self.settle(&mut known, *user, now));
        }
        let anybody = known.users.values().any(|user| user.shown.state != PresenceState::Offline);
        drop(known);
        self.wake(&due, &rooms);
        anybody
    }

    /// Starts the task that lets presence expire; it sleeps while everybody is offline.
    pub fn run_expiry(&self, tasks: &Tasks) {
        let (presence, stopping) = (self.clone(), tasks.stopping().clone());
        tasks.spawn("presence expiry", async move {
            loop {
                let due = async {
                    if presence.expire() {
                        tokio::time::sleep(EXPIRY_DELAY_MAX).await;
                    } else {
                        presence.0.appeared.notified().await;
                    }
                };
                tokio::select! {
                    () = due => {}
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    fn change(
        &self,
        user: UserNumber,
        user_id: &UserId,
        rooms: Option<Arc<RoaringBitmap>>,
        change: impl FnOnce(&mut Person, u64),
    ) {
        if !self.is_enabled() {
            return;
        }
        let now = self.0.clock.now_ms();
        let mut known = self.known();
        let state = known.users.entry(user).or_insert_with(|| Person::new(user_id));
        if let Some(rooms) = rooms {
            state.rooms = rooms;
        }
        change(state, now);
        let rooms = self.settle(&mut known, user, now);
        drop(known);
        self.0.appeared.notify_one();
        if let Some(rooms) = rooms {
            self.wake(&[user], &[rooms]);
        }
    }

    /// Shows what is to be shown; returns where, if that is a change.
    fn settle(&self, known: &mut Known, user: UserNumber, now: u64) -> Option<Arc<RoaringBitmap>> {
        let state = known.users.get_mut(&user)?;
        let shown = state.to_show(now);
        if state.shown == shown {
            return None;
        }
        state.shown = shown;
        known.changes.remove(&state.version);
        state.version = self.0.sequence.next();
        known.changes.insert(state.version, user);
        self.0.newest.send_replace(state.version);
        Some(Arc::clone(&state.rooms))
    }

    fn wake(&self, users: &[UserNumber], rooms: &[Arc<RoaringBitmap>]) {
        let all: RoaringBitmap = rooms.iter().fold(RoaringBitmap::new(), |all, rooms| all | &**rooms);
        if !all.is_empty() {
            self.0.wakes.wake_rooms(&all);
        }
        for user in users {
            self.0.wakes.wake_user(*user);
        }
    }

    fn is_enabled(&self) -> bool {
        self.0.enabled.load(Ordering::Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Person {
    fn new(user_id: &UserId) -> Self {
        Self {
            user_id: user_id.to_owned(),
            version: 0,
            wanted: PresenceState::Offline,
            status: None,
            last_active_ms: 0,
            last_sync_ms: 0,
            syncs: 0,
            shown: Shown { state: PresenceState::Offline, active: false, status: None },
            rooms: Arc::default(),
        }
    }

    fn to_show(&self, now: u64) -> Shown {
        let gone = self.syncs == 0 && now.saturating_sub(self.last_sync_ms) >= OFFLINE_AFTER_MS;
        let idle_ms = now.saturating_sub(self.last_active_ms);
        let state = match &self.wanted {
            _ if gone => PresenceState::Offline,
            PresenceState::Online if idle_ms >= UNAVAILABLE_AFTER_MS => PresenceState::Unavailable,
            wanted => wanted.clone(),
        };
        let active = state == PresenceState::Online && idle_ms < ACTIVE_FOR_MS;
        Shown { state, active, status: self.status.clone() }
    }

    fn content(&self, now: u64) -> PresenceEventContent {
        let mut content = PresenceEventContent::new(self.shown.state.clone());
        content.currently_active = (self.shown.state != PresenceState::Offline).then_some(self.shown.active);
        content.status_msg.clone_from(&self.shown.status);
        if self.last_active_ms > 0 {
            content.last_active_ago = Some(UInt::new_saturating(now.saturating_sub(self.last_active_ms)));
        }
        content
    }
}

/// A sync in progress.
#[derive(Debug)]
pub struct Syncing {
    /// `None` if the sync does not count as being there.
    presence: Option<Presence>,
    user: UserNumber,
}

impl Drop for Syncing {
    fn drop(&mut self) {
        let Some(presence) = &self.presence else { return };
        let now = presence.0.clock.now_ms();
        if let Some(known) = presence.known().users.get_mut(&self.user) {
            known.syncs = known.syncs.saturating_sub(1);
            known.last_sync_ms = now;
        }
    }
}

#[cfg(test)]
mod tests;
