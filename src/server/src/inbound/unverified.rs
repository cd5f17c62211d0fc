//! Events that came when the key to verify them with was not to be had: they wait, and are looked at again and again,
//! until the key is there, their server says that there is none, or their time is over. Nothing of them is believed before.
//!
//! They are rows, so that a restart goes on. How long the pauses are is in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use allod_matrix::auth::References;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::staging::Staging;
use crate::{
    clock::Clock,
    database::{Corrupt, Database, Error, Range, Write},
    federation::verify::{Verifier, VerifyError},
    numbers::{Hash128, RoomNumber},
    rooms::Rooms,
    tables::inbound::{StagedRecord, UnverifiedEvent, UnverifiedRecord},
    tasks::Tasks,
};

/// The shortest pause between two looks, and the longest.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Events of one room that wait at most; more are refused.
const IN_ROOM_MAX: usize = 200;
/// Events that wait in all rooms together.
const IN_ALL_MAX: usize = 10_000;
/// Rows that are looked at together.
const PAGE_ROWS: usize = 100;

type Key = (RoomNumber, Hash128);

/// The events that wait. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Unverified(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    rooms: Rooms,
    verifier: Verifier,
    staging: Staging,
    clock: Clock,
    tasks: Tasks,
    /// How many wait, as of the last look and what came since.
    waiting: AtomicUsize,
    /// Ends a pause.
    woken: Notify,
}

/// What the service is made from.
#[derive(Debug)]
pub(super) struct UnverifiedSources {
    pub(super) database: Database,
    pub(super) rooms: Rooms,
    pub(super) verifier: Verifier,
    pub(super) staging: Staging,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
}

impl Unverified {
    /// Goes on with what waits.
    pub(super) fn start(sources: UnverifiedSources) -> Self {
        let UnverifiedSources { database, rooms, verifier, staging, clock, tasks } = sources;
        let (waiting, woken) = (AtomicUsize::new(0), Notify::new());
        let inner = Inner { database, rooms, verifier, staging, clock, tasks, waiting, woken };
        let service = Self(Arc::new(inner));
        let running = service.clone();
        service.0.tasks.spawn("unverified events", async move { running.run().await });
        service
    }

    /// Whether so many more events may wait for a room.
    pub(super) async fn has_space(&self, room: RoomNumber, more: usize) -> Result<bool, Error> {
        if self.0.waiting.load(Ordering::Relaxed) >= IN_ALL_MAX {
            return Ok(false);
        }
        let range = Range::<UnverifiedEvent>::prefix(&room).limit(IN_ROOM_MAX);
        let waiting = self.0.database.scan(&range).await?.rows.len();
        Ok(waiting.saturating_add(more) < IN_ROOM_MAX)
    }

    /// Puts an event where it waits, with the commit of `write`. To be followed by [`Unverified::more`].
    pub(super) fn put(&self, write: &mut Write, room: RoomNumber, event: Unseen) {
        let Unseen { origin, json } = event;
        // Not by its id: a forged copy has that too, and must not take the place of the genuine one.
        let name = self.0.database.hash("unverified event", &json);
        let record = UnverifiedRecord { origin, json, since_ms: self.0.clock.now_ms() };
        write.put::<UnverifiedEvent>(&(room, name), &record);
    }

    /// So many more wait.
    pub(super) fn more(&self, count: usize) {
        if count > 0 {
            self.0.waiting.fetch_add(count, Ordering::Relaxed);
            self.0.woken.notify_one();
        }
    }

    /// A server spoke, so its keys may be had now.
    pub(super) fn wake(&self) {
        if self.0.waiting.load(Ordering::Relaxed) > 0 {
            self.0.woken.notify_one();
        }
    }

    async fn run(&self) {
        let mut pause = Duration::ZERO;
        loop {
            let before = self.0.waiting.load(Ordering::Relaxed);
            match self.look().await {
                Ok(0) => pause = PAUSE,
                Ok(left) if left < before => pause = PAUSE,
                Ok(_) => pause = pause.saturating_mul(2).clamp(PAUSE, PAUSE_MAX),
                Err(error) => {
                    tracing::warn!(%error, "events without keys could not be looked at; trying again later");
                    pause = PAUSE_MAX;
                }
            }
            if self.rests(pause).await {
                return;
            }
        }
    }

    /// Waits until the next look; whether the server is stopping. What comes meanwhile ends the wait, but not at once.
    async fn rests(&self, pause: Duration) -> bool {
        let rest = async {
            if self.0.waiting.load(Ordering::Relaxed) == 0 {
                self.0.woken.notified().await;
            }
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                () = tokio::time::sleep(pause.saturating_sub(PAUSE)) => {}
                () = self.0.woken.notified() => {}
            }
        };
        tokio::select! {
            () = rest => false,
            () = self.0.tasks.stopping().cancelled() => true,
        }
    }

    /// Looks once for the keys of all that waits; how many are left.
    pub(super) async fn look(&self) -> Result<usize, Error> {
        let (mut left, mut range) = (0_usize, Range::<UnverifiedEvent>::whole().limit(PAGE_ROWS));
        loop {
            let page = self.0.database.scan(&range).await?;
            let last = page.rows.last().map(|(key, _)| *key).filter(|_| page.more);
            let mut by_room: BTreeMap<RoomNumber, Vec<(Key, UnverifiedRecord)>> = BTreeMap::new();
            for (key, record) in page.rows {
                by_room.entry(key.0).or_default().push((key, record));
            }
            for (room, rows) in by_room {
                left = left.saturating_add(self.check(room, rows).await?);
            }
            match last {
                Some(last) if !self.0.tasks.stopping().is_cancelled() => range = range.continued_after(&last),
                _ => break,
            }
        }
        self.0.waiting.store(left, Ordering::Relaxed);
        Ok(left)
    }

    /// Puts those events into their room's queue whose keys are there now, and drops those that are not to be believed;
    /// how many are left.
    async fn check(&self, number: RoomNumber, rows: Vec<(Key, UnverifiedRecord)>) -> Result<usize, Error> {
        if !self.0.staging.has_space(number) {
            return Ok(rows.len());
        }
        let room = self.0.rooms.get(number).await?;
        let mut events: Vec<Box<RawValue>> = Vec::with_capacity(rows.len());
        for (_, record) in &rows {
            let event = serde_json::from_slice(&record.json);
            events.push(event.map_err(|_| Error::Corrupt("UnverifiedEvent", Corrupt("no JSON")))?);
        }
        let checked = self.0.verifier.check(&room.room_id, &room.rules, &events, References::Limited).await?;
        let (mut write, mut left, mut staged) = (Write::new(), 0_usize, 0_u32);
        for ((key, record), checked) in rows.into_iter().zip(checked) {
            match checked {
                Ok(event) => {
                    let origin = record.origin;
                    let (event_id, json) = (event.pdu().event_id.to_string(), event.json().to_vec());
                    Staging::put(&mut write, number, staged, &StagedRecord { origin, event_id, json });
                    staged = staged.saturating_add(1);
                    write.delete::<UnverifiedEvent>(&key);
                }
                Err(VerifyError::NoKey(_)) => left = left.saturating_add(1),
                Err(error) => {
                    tracing::info!(room_id = %room.room_id, origin = record.origin, %error, "an event that waited is dropped");
                    write.delete::<UnverifiedEvent>(&key);
                    write.erase::<UnverifiedEvent>(&key);
                }
            }
        }
        if !write.is_empty() {
            self.0.database.commit(write).await?;
        }
        if staged > 0 {
            self.0.staging.wake(number, usize::try_from(staged).unwrap_or(usize::MAX));
        }
        Ok(left)
    }
}

/// An event that is to wait.
#[derive(Debug)]
pub(super) struct Unseen {
    /// The server that sent it.
    pub(super) origin: String,
    /// The event as it came.
    pub(super) json: Vec<u8>,
}
