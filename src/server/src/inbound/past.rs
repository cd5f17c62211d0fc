//! Single events of a room's past that somebody here looks at: by their id, or by a time.

use std::{sync::Arc, time::Duration};

use allod_matrix::auth::References;
use ruma::{EventId, OwnedEventId, OwnedServerName};

use super::Inbound;
use crate::{
    rooms::{Room, ingest::IngestError, read::Direction},
    tables::rooms::EventStatus,
};

/// Servers that are asked for the same.
const SERVERS_MAX: usize = 3;
/// How long somebody who looks waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

impl Inbound {
    /// Fetches an event of the part of the room's history that is missing here; whether it came.
    pub async fn fetch_event(&self, room: &Arc<Room>, event_id: &EventId) -> bool {
        let fetch = async {
            let here = self.0.rooms.event(room, event_id).await?;
            if here.is_some_and(|here| here.record.status != EventStatus::Outlier) {
                return Ok(false);
            }
            for server in self.to_ask(room).await? {
                if self.fetch_event_from(room, &server, event_id.to_owned()).await? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        in_time(room, fetch).await
    }

    /// Asks for the event nearest to a time, in milliseconds since the epoch, where others may have one that is nearer than
    /// the one here, if any, with the time `here_ms`; it is part of the room's history then. Whether there is one.
    pub async fn fetch_event_at_time(
        &self,
        room: &Arc<Room>,
        (at_ms, direction): (u64, Direction),
        here_ms: Option<u64>,
    ) -> bool {
        if here_ms == Some(at_ms) {
            return false;
        }
        let fetch = async {
            for server in self.to_ask(room).await? {
                let asked = self.0.peers.event_at_time(&server, &room.room_id, at_ms, direction).await;
                let Ok((event_id, found_ms)) = asked else { continue };
                let fits = match direction {
                    Direction::Forward => found_ms >= at_ms,
                    Direction::Backward => found_ms <= at_ms,
                };
                let is_nearer =
                    here_ms.is_none_or(|here_ms| found_ms.abs_diff(at_ms) < here_ms.abs_diff(at_ms));
                if !fits || !is_nearer {
                    return Ok(false);
                }
                if self.fetch_event_from(room, &server, event_id).await? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        in_time(room, fetch).await
    }

    /// The servers that may have more of a room than this one; none if nothing is missing.
    async fn to_ask(&self, room: &Arc<Room>) -> Result<Vec<OwnedServerName>, IngestError> {
        if self.0.rooms.backward_extremities(room, 1).await?.is_empty() {
            return Ok(Vec::new());
        }
        let servers = self.servers_in(room).await?;
        let others = servers.iter().filter(|server| **server != *self.0.users.server_name());
        Ok(others.take(SERVERS_MAX).cloned().collect())
    }

    /// Places an event that a server has in the room's past; whether it is there.
    async fn fetch_event_from(
        &self,
        room: &Arc<Room>,
        server: &OwnedServerName,
        event_id: OwnedEventId,
    ) -> Result<bool, IngestError> {
        let Ok(event) = self.0.peers.event(server, event_id.clone()).await else { return Ok(false) };
        let mut events = self.0.gaps.verified(room, &[event], References::Unlimited).await?;
        // What stands above every gap is no part of the past: it is on its way, and must arrive as news.
        let gaps = self.0.rooms.backward_extremities(room, 1).await?;
        let above = gaps.first().map_or(0, |(_, depth)| *depth);
        events.retain(|event| event.pdu().event_id == event_id && event.pdu().depth < above);
        self.0.gaps.place_past(room, server, &events).await
    }
}

async fn in_time(room: &Room, fetch: impl Future<Output = Result<bool, IngestError>>) -> bool {
    match tokio::time::timeout(PATIENCE, fetch).await {
        Ok(Ok(came)) => came,
        Ok(Err(error)) => {
            tracing::info!(room_id = %room.room_id, %error, "an event of the past was not fetched");
            false
        }
        Err(_) => {
            tracing::info!(room_id = %room.room_id, "an event of the past was not fetched in time");
            false
        }
    }
}
