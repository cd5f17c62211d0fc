//! Events that were acknowledged and wait for their room: a queue for each, so that a slow room holds up no other.
//!
//! The queues are rows; a restart goes on where they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use allod_matrix::event::Pdu;
use allod_storage::Position;
use bytes::Bytes;
use ruma::{EventId, OwnedServerName};
use tokio::sync::watch;

use super::{gaps::Gaps, repair::Repairs};
use crate::{
    database::{Corrupt, Database, Error, Range, Write},
    numbers::RoomNumber,
    rooms::{
        Room, Rooms,
        ingest::{IngestError, Verified},
    },
    tables::inbound::{InboundStaging, StagedRecord},
    tasks::Tasks,
};

/// Events of a queue that are handed in together.
const CHUNK_EVENTS: usize = 50;
/// Events that may wait for one room before no more are taken.
const WAITING_MAX: usize = 5_000;
/// How long a queue rests when its room or the store takes nothing, and how often.
const REST: Duration = Duration::from_millis(500);
const RESTS_MAX: u32 = 240;

/// The queues. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Staging(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    rooms: Rooms,
    gaps: Gaps,
    repairs: Repairs,
    tasks: Tasks,
    queues: Mutex<BTreeMap<RoomNumber, Queue>>,
    /// How many queues are being drained.
    running: watch::Sender<usize>,
}

/// What the queues are made from.
#[derive(Debug)]
pub(super) struct StagingSources {
    pub(super) database: Database,
    pub(super) rooms: Rooms,
    pub(super) gaps: Gaps,
    pub(super) repairs: Repairs,
    pub(super) tasks: Tasks,
}

/// A queue that is being drained.
#[derive(Debug, Default)]
struct Queue {
    waiting: usize,
    /// Whether something came since it was last looked at.
    more: bool,
}

impl Staging {
    /// Opens the queues and goes on with what stands in them.
    pub(super) async fn open(sources: StagingSources) -> Result<Self, Error> {
        let StagingSources { database, rooms, gaps, repairs, tasks } = sources;
        let (queues, running) = (Mutex::default(), watch::Sender::new(0));
        let staging = Self(Arc::new(Inner { database, rooms, gaps, repairs, tasks, queues, running }));
        let waiting = staging.0.database.scan_all(Range::<InboundStaging>::whole()).await?;
        let mut counts: BTreeMap<RoomNumber, usize> = BTreeMap::new();
        for ((room, _, _), _) in waiting {
            let count = counts.entry(room).or_default();
            *count = count.saturating_add(1);
        }
        for (room, count) in counts {
            staging.wake(room, count);
        }
        Ok(staging)
    }

    /// What closes gaps.
    #[cfg(test)]
    pub(super) fn repairs(&self) -> &Repairs {
        &self.0.repairs
    }

    /// Whether events wait for the room.
    pub fn is_busy(&self, room: RoomNumber) -> bool {
        self.queues().contains_key(&room)
    }

    /// How many events wait, and for how many rooms.
    pub fn waiting(&self) -> (usize, usize) {
        let queues = self.queues();
        (queues.values().map(|queue| queue.waiting).sum(), queues.len())
    }

    /// Ends when nothing waits for the room any more.
    pub async fn placed(&self, room: RoomNumber) {
        let mut running = self.0.running.subscribe();
        while self.is_busy(room) && running.changed().await.is_ok() {}
    }

    /// Whether the room's queue takes more.
    pub fn has_space(&self, room: RoomNumber) -> bool {
        self.queues().get(&room).is_none_or(|queue| queue.waiting < WAITING_MAX)
    }

    /// Puts an event into a queue with the commit of `write`; `index` tells those of one commit apart. To be followed by
    /// [`Staging::wake`].
    pub fn put(write: &mut Write, room: RoomNumber, index: u32, staged: &StagedRecord) {
        write.put::<InboundStaging>(&(room, Position::PENDING, index), staged);
    }

    /// Drains the room's queue, to which `added` events were committed.
    pub fn wake(&self, room: RoomNumber, added: usize) {
        let mut queues = self.queues();
        if let Some(queue) = queues.get_mut(&room) {
            queue.waiting = queue.waiting.saturating_add(added);
            queue.more = true;
            return;
        }
        queues.insert(room, Queue { waiting: added, more: false });
        drop(queues);
        self.0.running.send_modify(|running| *running = running.saturating_add(1));
        let staging = self.clone();
        drop(self.0.tasks.spawn("inbound", async move {
            staging.drain(room).await;
            staging.0.running.send_modify(|running| *running = running.saturating_sub(1));
        }));
    }

    /// Ends when nothing waits any more.
    pub async fn idle(&self) {
        let mut running = self.0.running.subscribe();
        // The sender is this service's own.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    async fn drain(&self, number: RoomNumber) {
        let mut rests = 0_u32;
        loop {
            let left = match self.step(number).await {
                Ok(done) => {
                    rests = 0;
                    !done
                }
                Err(error) => {
                    tracing::warn!(room = number.0, %error, "received events wait");
                    rests = rests.saturating_add(1);
                    if rests > RESTS_MAX || self.rest().await {
                        self.queues().remove(&number);
                        return;
                    }
                    true
                }
            };
            if !left && self.ends(number) {
                return;
            }
        }
    }

    /// Waits a little; whether the server is stopping.
    async fn rest(&self) -> bool {
        let stopping = self.0.tasks.stopping();
        tokio::select! {
            () = stopping.cancelled() => true,
            () = tokio::time::sleep(REST) => false,
        }
    }

    /// Takes the queue out, unless something has just come.
    fn ends(&self, room: RoomNumber) -> bool {
        let mut queues = self.queues();
        let ends = queues.get_mut(&room).is_none_or(|queue| !std::mem::take(&mut queue.more));
        if ends {
            queues.remove(&room);
        }
        ends
    }

    /// Hands in the first events of a queue; whether there were none.
    async fn step(&self, number: RoomNumber) -> Result<bool, IngestError> {
        if self.0.tasks.stopping().is_cancelled() {
            return Err(IngestError::Interrupted);
        }
        let page = Range::<InboundStaging>::prefix(&number).limit(CHUNK_EVENTS);
        let rows = self.0.database.scan(&page).await?.rows;
        if rows.is_empty() {
            return Ok(true);
        }
        let room = self.0.rooms.get(number).await?;
        let mut by_origin: BTreeMap<OwnedServerName, Vec<Verified>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (_, staged) in &rows {
            let (origin, event) = restore(&room, staged)?;
            if seen.insert(event.pdu().event_id.clone()) {
                by_origin.entry(origin).or_default().push(event);
            }
        }
        let (mut lost, mut leaves_gap) = (BTreeSet::new(), false);
        for (origin, events) in by_origin {
            let taken = self.0.gaps.take(&room, &origin, events).await?;
            leaves_gap |= taken.leaves_gap;
            lost.extend(taken.lost.into_iter().map(|event| event.pdu().event_id.clone()));
        }
        let mut write = Write::new();
        for (key, _) in &rows {
            write.delete::<InboundStaging>(key);
        }
        let misses = leaves_gap || !lost.is_empty();
        if !lost.is_empty() {
            let lost: BTreeSet<&str> = lost.iter().map(|event_id| event_id.as_str()).collect();
            let mut stranded: Vec<_> = rows.iter().map(|(_, staged)| staged.clone()).collect();
            stranded.retain(|staged| lost.contains(staged.event_id.as_str()));
            self.0.repairs.strand(number, stranded, &mut write).await?;
        }
        self.0.database.commit(write).await.map_err(Error::from)?;
        if misses {
            self.0.repairs.due(number);
        } else {
            self.0.repairs.wake(number);
        }
        if let Some(queue) = self.queues().get_mut(&number) {
            queue.waiting = queue.waiting.saturating_sub(rows.len());
        }
        Ok(false)
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, BTreeMap<RoomNumber, Queue>> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event as it was when it was put into the queue.
pub(super) fn restore(room: &Room, staged: &StagedRecord) -> Result<(OwnedServerName, Verified), Error> {
    let damaged = || Error::Corrupt("InboundStaging", Corrupt("a staged event does not parse"));
    let origin = OwnedServerName::try_from(staged.origin.as_str()).map_err(|_| damaged())?;
    let event_id = EventId::parse(staged.event_id.as_str()).map_err(|_| damaged())?;
    let pdu = Pdu::parse(&staged.json, event_id, &room.room_id, &room.rules).map_err(|_| damaged())?;
    Ok((origin, Verified::vouch(Arc::new(pdu), Bytes::copy_from_slice(&staged.json))))
}
