//! What is missing of a room's past: fetched when somebody here looks at it, or by `super::repair`.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use allod_matrix::auth::References;
use ruma::{OwnedEventId, OwnedServerName};

use super::{Inbound, gaps::Gaps, peers::Peers};
use crate::{
    clock::Clock,
    numbers::RoomNumber,
    rooms::{Room, Rooms, ingest::IngestError},
};

/// Events fetched at once.
pub(super) const EVENTS: u32 = 100;
/// Gaps of a room that are looked at.
const GAPS_MAX: usize = 1_000;
/// Ends from which one request goes back.
const ENDS_MAX: usize = 20;
/// Servers that are asked for the same.
const SERVERS_MAX: usize = 3;
/// How long somebody who looks waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long nobody is asked again after nobody had anything.
const PAUSE_MS: u64 = 30_000;
/// Rooms of which that is remembered.
const ROOMS_MAX: usize = 10_000;

/// Rooms whose past is being fetched, one reader's turn at a time, and when nobody had any of it.
#[derive(Debug, Default)]
struct Running(Mutex<BTreeMap<RoomNumber, Arc<tokio::sync::Mutex<u64>>>>);

impl Running {
    fn of(&self, room: RoomNumber) -> Arc<tokio::sync::Mutex<u64>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() >= ROOMS_MAX {
            running.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(running.entry(room).or_default())
    }
}

/// Fetches the past. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Backfills {
    rooms: Rooms,
    gaps: Gaps,
    peers: Arc<dyn Peers>,
    clock: Clock,
    running: Arc<Running>,
}

impl Backfills {
    pub(super) fn new(rooms: Rooms, gaps: Gaps, peers: Arc<dyn Peers>, clock: Clock) -> Self {
        Self { rooms, gaps, peers, clock, running: Arc::default() }
    }

    /// Fetches events that are missing where others between these depths cite them, from the first of the servers that
    /// has some: whether any came.
    pub(super) async fn fill(
        &self,
        room: &Arc<Room>,
        servers: &[OwnedServerName],
        depths: RangeInclusive<u64>,
    ) -> Result<bool, IngestError> {
        let turn = self.running.of(room.number);
        let mut nothing_until_ms = turn.lock().await;
        // Asked for only now: who waited for another's turn may find it done.
        let gaps = self.rooms.backward_extremities(room, GAPS_MAX).await?;
        let ends: Vec<OwnedEventId> = gaps
            .into_iter()
            .filter(|(_, cited_at)| depths.contains(cited_at))
            .map(|(event_id, _)| event_id)
            .take(ENDS_MAX)
            .collect();
        if ends.is_empty() || self.clock.now_ms() < *nothing_until_ms {
            return Ok(false);
        }
        for server in servers.iter().take(SERVERS_MAX) {
            let fetched =
                self.peers.backfill(server, &room.room_id, ends.clone(), EVENTS).await.unwrap_or_default();
            let events = self.gaps.verified(room, &fetched, References::Unlimited).await?;
            if events.is_empty() {
                continue;
            }
            if self.gaps.place_past(room, server, &events).await? {
                return Ok(true);
            }
        }
        *nothing_until_ms = self.clock.now_ms().saturating_add(PAUSE_MS);
        Ok(false)
    }
}

impl Inbound {
    /// Fetches some of the room's past if there is a gap between these depths: whether anything came. Takes no longer
    /// than a reader may wait.
    pub async fn fill_history(&self, room: &Arc<Room>, depths: RangeInclusive<u64>) -> bool {
        let fill = async {
            let servers = self.servers_in(room).await?;
            let others = servers.iter().filter(|server| **server != *self.0.users.server_name());
            let others: Vec<OwnedServerName> = others.take(SERVERS_MAX).cloned().collect();
            self.0.backfills.fill(room, &others, depths).await
        };
        match tokio::time::timeout(PATIENCE, fill).await {
            Ok(Ok(came)) => came,
            Ok(Err(error)) => {
                tracing::info!(room_id = %room.room_id, %error, "the past of a room was not fetched");
                false
            }
            Err(_) => {
                tracing::info!(room_id = %room.room_id, "the past of a room was not fetched in time");
                false
            }
        }
    }
}
