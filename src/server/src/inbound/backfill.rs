//! The past of rooms that were joined late: fetched when somebody here looks at it.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use allod_matrix::auth::References;
use ruma::OwnedEventId;

use super::Inbound;
use crate::{
    numbers::RoomNumber,
    rooms::{Room, ingest::IngestError},
};

/// Events fetched at once.
const EVENTS: u32 = 100;
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
pub(super) struct Running(Mutex<BTreeMap<RoomNumber, Arc<tokio::sync::Mutex<u64>>>>);

impl Running {
    fn of(&self, room: RoomNumber) -> Arc<tokio::sync::Mutex<u64>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() >= ROOMS_MAX {
            running.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(running.entry(room).or_default())
    }
}

impl Inbound {
    /// Fetches some of the room's past if there is a gap between these depths: whether anything came. Takes no longer
    /// than a reader may wait.
    pub async fn fill_history(&self, room: &Arc<Room>, depths: RangeInclusive<u64>) -> bool {
        match tokio::time::timeout(PATIENCE, self.fill(room, depths)).await {
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

    async fn fill(&self, room: &Arc<Room>, depths: RangeInclusive<u64>) -> Result<bool, IngestError> {
        let turn = self.0.backfills.of(room.number);
        let mut nothing_until_ms = turn.lock().await;
        // Asked for only now: who waited for another's turn may find it done.
        let gaps = self.0.rooms.backward_extremities(room, GAPS_MAX).await?;
        let ends: Vec<OwnedEventId> = gaps
            .into_iter()
            .filter(|(_, cited_at)| depths.contains(cited_at))
            .map(|(event_id, _)| event_id)
            .take(ENDS_MAX)
            .collect();
        if ends.is_empty() || self.0.clock.now_ms() < *nothing_until_ms {
            return Ok(false);
        }
        let servers = self.servers_in(room).await?;
        let others = servers.iter().filter(|server| **server != *self.0.users.server_name());
        for server in others.take(SERVERS_MAX) {
            let fetched =
                self.0.peers.backfill(server, &room.room_id, ends.clone(), EVENTS).await.unwrap_or_default();
            let events = self.0.gaps.verified(room, &fetched, References::Unlimited).await?;
            if events.is_empty() {
                continue;
            }
            if self.0.gaps.place_past(room, server, &events).await? {
                return Ok(true);
            }
        }
        *nothing_until_ms = self.0.clock.now_ms().saturating_add(PAUSE_MS);
        Ok(false)
    }
}
