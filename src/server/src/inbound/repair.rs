//! Gaps that stay are closed in the background: what is missing is asked for again and again, of one server after the
//! other, until the room is whole.
//!
//! What is to be done is in rows already, the events that wait and the gaps of the graph, so that a restart goes on. How
//! often something was tried is in memory: a new start, and everything new in the room, tries at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::OwnedServerName;
use tokio::sync::{Notify, Semaphore};

use super::{
    backfill::{self, Backfills},
    gaps::Gaps,
    staging::restore,
};
use crate::{
    clock::Clock,
    database::{Database, Error, Range, Write},
    numbers::{Hash128, RoomNumber},
    rooms::{
        Room, Rooms,
        ingest::{IngestError, Verified},
    },
    tables::inbound::{StagedRecord, StrandedEvent, StrandedRecord},
    tasks::Tasks,
};

/// How long after something was missed it is asked for again; also the shortest time between two attempts of which the
/// first came to nothing.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest such time.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// After so many attempts in a row that came to nothing, a room rests until something new happens in it.
const FAILURES_MAX: u32 = 30;
/// Events of a room that wait at most; more are dropped.
const STRANDED_MAX: usize = 200;
/// Events that one attempt hands in again.
const STRANDED_AT_ONCE: usize = 50;
/// Requests for the past in one attempt.
const PAGES: usize = 20;
/// Events that are fetched for a room before it rests: a chain without end has an end.
const EVENTS_MAX: usize = 20_000;
/// Rooms that are repaired side by side.
const ROOMS_AT_ONCE: usize = 4;

/// Repairs rooms. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Repairs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    rooms: Rooms,
    gaps: Gaps,
    backfills: Backfills,
    clock: Clock,
    tasks: Tasks,
    own_name: OwnedServerName,
    jobs: Mutex<BTreeMap<RoomNumber, Job>>,
    turns: Semaphore,
}

/// A room that is being repaired.
#[derive(Debug, Default)]
struct Job {
    /// Ends its pause.
    woken: Arc<Notify>,
    /// Whether more was missed since it was last looked at.
    more: bool,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Whether nothing is missing any more.
    pub(super) whole: bool,
    /// Pages of events that came.
    pub(super) pages: usize,
}

/// What repairs are made from.
#[derive(Debug)]
pub(super) struct RepairSources {
    pub(super) database: Database,
    pub(super) rooms: Rooms,
    pub(super) gaps: Gaps,
    pub(super) backfills: Backfills,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    pub(super) own_name: OwnedServerName,
}

impl Repairs {
    /// Goes on with what is missing in any room.
    pub(super) fn start(sources: RepairSources) -> Self {
        let RepairSources { database, rooms, gaps, backfills, clock, tasks, own_name } = sources;
        let (jobs, turns) = (Mutex::default(), Semaphore::new(ROOMS_AT_ONCE));
        let inner = Inner { database, rooms, gaps, backfills, clock, tasks, own_name, jobs, turns };
        let repairs = Self(Arc::new(inner));
        let resumed = repairs.clone();
        repairs.0.tasks.spawn("repair", async move {
            if let Err(error) = resumed.resume().await {
                tracing::warn!(%error, "it is not known which rooms miss something; they are repaired when they are used");
            }
        });
        repairs
    }

    async fn resume(&self) -> Result<(), Error> {
        let mut damaged = self.0.rooms.rooms_with_gaps().await?;
        let mut range = Range::<StrandedEvent>::whole().limit(1);
        loop {
            let page = self.0.database.scan(&range).await?;
            let Some(((room, _), _)) = page.rows.first() else { break };
            damaged.push(*room);
            range = Range::<StrandedEvent>::after(&(), room).limit(1);
        }
        for number in damaged {
            if self.0.tasks.stopping().is_cancelled() {
                return Ok(());
            }
            let room = self.0.rooms.get(number).await?;
            if !self.is_whole(&room).await? {
                self.due(number);
            }
        }
        Ok(())
    }

    /// Puts events that miss something where they wait, with the commit of `write`. To be followed by [`Repairs::due`].
    pub(super) async fn strand(
        &self,
        room: RoomNumber,
        events: Vec<StagedRecord>,
        write: &mut Write,
    ) -> Result<(), Error> {
        let waiting =
            self.0.database.scan(&Range::<StrandedEvent>::prefix(&room).limit(STRANDED_MAX)).await?;
        let space = STRANDED_MAX.saturating_sub(waiting.rows.len());
        if events.len() > space {
            tracing::warn!(
                room = room.0,
                dropped = events.len().saturating_sub(space),
                "too many events wait"
            );
        }
        let since_ms = self.0.clock.now_ms();
        for staged in events.into_iter().take(space) {
            let name = self.name(&staged.event_id);
            write.put::<StrandedEvent>(&(room, name), &StrandedRecord { staged, since_ms });
        }
        Ok(())
    }

    fn name(&self, event_id: &str) -> Hash128 {
        self.0.database.hash("event", event_id)
    }

    /// Something is missing in the room.
    pub(super) fn due(&self, room: RoomNumber) {
        let mut jobs = self.jobs();
        if let Some(job) = jobs.get_mut(&room) {
            job.more = true;
            job.woken.notify_one();
            return;
        }
        jobs.insert(room, Job::default());
        drop(jobs);
        let repairs = self.clone();
        self.0.tasks.spawn("repair", async move { repairs.repair(room).await });
    }

    /// Something came in the room: what it misses may be to be had again.
    pub(super) fn wake(&self, room: RoomNumber) {
        if let Some(job) = self.jobs().get(&room) {
            job.woken.notify_one();
        }
    }

    async fn repair(&self, number: RoomNumber) {
        let (mut failures, mut pages, mut pause) = (0_u32, 0_usize, PAUSE);
        loop {
            if self.rests(number, pause).await {
                return;
            }
            let attempt = {
                let Ok(_turn) = self.0.turns.acquire().await else { return };
                self.attempt(number, failures).await
            };
            let attempt = attempt.unwrap_or_else(|error| {
                tracing::info!(room = number.0, %error, "a room was not repaired; trying again later");
                Attempt::default()
            });
            failures = if attempt.pages > 0 || attempt.whole { 0 } else { failures.saturating_add(1) };
            pages = pages.saturating_add(attempt.pages);
            pause = pause_after(failures);
            let spent = pages.saturating_mul(usize::try_from(backfill::EVENTS).unwrap_or(usize::MAX));
            if failures > FAILURES_MAX || spent > EVENTS_MAX {
                tracing::warn!(room = number.0, "a room stays incomplete: what it misses is not to be had");
                self.jobs().remove(&number);
                return;
            }
            if attempt.whole && self.ends(number) {
                return;
            }
        }
    }

    /// Waits until the next attempt; whether the server is stopping. What comes meanwhile ends the wait, but not at once.
    async fn rests(&self, room: RoomNumber, pause: Duration) -> bool {
        let Some(woken) = self.jobs().get(&room).map(|job| Arc::clone(&job.woken)) else { return true };
        let stopping = self.0.tasks.stopping();
        let rest = async {
            tokio::time::sleep(pause.min(PAUSE)).await;
            tokio::select! {
                () = tokio::time::sleep(pause.saturating_sub(PAUSE)) => {}
                () = woken.notified() => {}
            }
        };
        tokio::select! {
            () = rest => false,
            () = stopping.cancelled() => true,
        }
    }

    /// Takes the job out, unless more has just been missed.
    fn ends(&self, room: RoomNumber) -> bool {
        let mut jobs = self.jobs();
        let ends = jobs.get_mut(&room).is_none_or(|job| !std::mem::take(&mut job.more));
        if ends {
            jobs.remove(&room);
        }
        ends
    }

    /// Asks once for what the room misses; the servers in turn, by how often it was in vain.
    pub(super) async fn attempt(&self, number: RoomNumber, failures: u32) -> Result<Attempt, IngestError> {
        let room = self.0.rooms.get(number).await?;
        let in_room = self.0.rooms.servers_in(&room).await?;
        if !in_room.contains(&self.0.own_name) {
            // Nobody here is concerned any more.
            return Ok(Attempt { whole: true, pages: 0 });
        }
        let mut servers: Vec<_> = in_room.into_iter().filter(|server| *server != self.0.own_name).collect();
        let first = usize::try_from(failures).unwrap_or(0).checked_rem(servers.len()).unwrap_or(0);
        servers.rotate_left(first);
        let mut attempt = Attempt::default();
        if self.place_stranded(&room, &servers).await? {
            attempt.pages = 1;
        }
        let depths = self.0.rooms.depth_of_beginning(&room).await?.saturating_add(1)..=u64::MAX;
        for _ in 0..PAGES {
            if !self.0.backfills.fill(&room, &servers, depths.clone()).await? {
                break;
            }
            attempt.pages = attempt.pages.saturating_add(1);
        }
        attempt.whole = self.is_whole(&room).await?;
        Ok(attempt)
    }

    async fn is_whole(&self, room: &Room) -> Result<bool, Error> {
        let stranded = self.0.database.scan(&Range::<StrandedEvent>::prefix(&room.number).limit(1)).await?;
        Ok(stranded.rows.is_empty() && self.0.rooms.open_gaps(room, 1).await?.is_empty())
    }

    /// Hands in events that wait, and what they build on; whether any has its place now.
    async fn place_stranded(
        &self,
        room: &Arc<Room>,
        servers: &[OwnedServerName],
    ) -> Result<bool, IngestError> {
        let range = Range::<StrandedEvent>::prefix(&room.number).limit(STRANDED_AT_ONCE);
        let rows = self.0.database.scan(&range).await?.rows;
        let mut by_origin: BTreeMap<OwnedServerName, Vec<Verified>> = BTreeMap::new();
        for (_, stranded) in &rows {
            let (origin, event) = restore(room, &stranded.staged)?;
            by_origin.entry(origin).or_default().push(event);
        }
        let mut lost = Vec::new();
        for (origin, events) in by_origin {
            // Whoever sent an event is asked first; which others are, differs from time to time.
            let mut asked = servers.to_vec();
            if let Some(place) = asked.iter().position(|server| *server == origin) {
                asked.remove(place);
            }
            asked.insert(0, origin);
            lost.extend(self.0.gaps.take_again(room, &asked, events).await?.lost);
        }
        let lost: Vec<Hash128> = lost.iter().map(|event| self.name(event.pdu().event_id.as_str())).collect();
        let mut write = Write::new();
        for (key, _) in rows.iter().filter(|((_, name), _)| !lost.contains(name)) {
            write.delete::<StrandedEvent>(key);
        }
        if write.is_empty() {
            return Ok(false);
        }
        self.0.database.commit(write).await.map_err(Error::from)?;
        Ok(true)
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<RoomNumber, Job>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long is waited after so many attempts in vain.
fn pause_after(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    PAUSE.saturating_mul(doubled).min(PAUSE_MAX)
}
