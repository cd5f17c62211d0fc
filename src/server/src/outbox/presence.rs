//! Telling other servers who of this one is online: those that share a room with them.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#presence>

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{OwnedServerName, presence::PresenceState};
use serde_json::{Value, json};

use super::{
    Inner,
    destination::{Edu, EduSubject},
};
use crate::{database::Error, numbers::RoomNumber, presence::Change};

/// Changes that come within this time are told together.
const PAUSE: Duration = Duration::from_millis(500);
/// Rooms of one user whose servers are told.
const ROOMS_MAX: usize = 1_000;

impl Inner {
    /// Starts telling other servers who is online.
    pub(super) fn start_presence(self: &Arc<Self>) {
        let (inner, mut newest) = (Arc::clone(self), self.sources.presence.follow());
        let stopping = self.sources.tasks.stopping().clone();
        self.sources.tasks.spawn("outbox presence", async move {
            let mut told = *newest.borrow_and_update();
            loop {
                tokio::select! {
                    changed = newest.changed() => if changed.is_err() { return },
                    () = stopping.cancelled() => return,
                }
                for change in inner.sources.presence.changes_with_rooms(told) {
                    told = told.max(change.version);
                    if let Err(error) = inner.hand_out_presence(&change).await {
                        tracing::debug!(%error, "other servers are not told who is online");
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    async fn hand_out_presence(self: &Arc<Self>, change: &Change) -> Result<(), Error> {
        if !self.sources.identity.is_ours(&change.user_id) {
            return Ok(());
        }
        let mut servers: BTreeSet<OwnedServerName> = BTreeSet::new();
        for room in change.rooms.iter().take(ROOMS_MAX) {
            let room = self.sources.rooms.get(RoomNumber(room)).await?;
            servers.extend(self.recipients.of_room(&room).await?);
        }
        let content = json!({ "push": [update(change)] }).to_string();
        let subject = EduSubject::Presence(change.user);
        self.send_edu(&servers, &Edu { subject, kind: "m.presence", content: content.into() });
        Ok(())
    }
}

fn update(change: &Change) -> Value {
    let content = &change.content;
    let idle_ms = content.last_active_ago.map_or(0, u64::from);
    let mut update = json!({
        "user_id": change.user_id,
        "presence": content.presence,
        "last_active_ago": idle_ms,
        "currently_active": content.presence == PresenceState::Online && content.currently_active == Some(true),
    });
    if let (Some(status), Some(update)) = (&content.status_msg, update.as_object_mut()) {
        update.insert("status_msg".to_owned(), status.as_str().into());
    }
    update
}
