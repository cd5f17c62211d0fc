//! What a device is told of keys and messages, whatever it has in view.

use std::{fmt, str::FromStr};

use allod_storage::{Position, Store};
use roaring::RoaringBitmap;

use super::{Extensions, SlidingError, answer::Answering};
use crate::{
    database::Error,
    sync::{json::Json, plan::plan, sharing::Whereabouts, token::BadSyncToken},
};

/// Up to where a device has its messages. Its form is `t<generation>_<position>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InboxToken {
    generation: u32,
    position: Position,
}

impl fmt::Display for InboxToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "t{}_{}", self.generation, self.position)
    }
}

impl FromStr for InboxToken {
    type Err = BadSyncToken;

    fn from_str(text: &str) -> Result<Self, BadSyncToken> {
        let (generation, position) =
            text.strip_prefix('t').and_then(|rest| rest.split_once('_')).ok_or(BadSyncToken)?;
        let generation = generation.parse().map_err(|_| BadSyncToken)?;
        let position = position.parse().map(Position::new).map_err(|_| BadSyncToken)?;
        Ok(Self { generation, position })
    }
}

/// Up to where the device says that it has its messages: nowhere, by a token of another history.
pub(super) fn acknowledged(extensions: &Extensions, store: &Store) -> Result<Position, SlidingError> {
    let Some(Some(since)) = &extensions.to_device else { return Ok(Position::ZERO) };
    let token: InboxToken = since.parse().map_err(|_| SlidingError::BadInboxToken)?;
    let is_current = token.generation == store.generation() && token.position <= store.head();
    Ok(if is_current { token.position } else { Position::ZERO })
}

impl Answering<'_> {
    /// Writes messages to the device, and deletes those up to `acknowledged`; whether there are any.
    pub(super) async fn write_to_device(
        &self,
        json: &mut Json,
        acknowledged: Position,
    ) -> Result<bool, Error> {
        let inner = self.inner;
        let (user, device) = (self.request.caller.user, self.request.device);
        let generation = inner.sources.database.store().generation();
        let (mut events, mut position) = (Vec::new(), self.position);
        if !inner.inbox_is_empty(&self.request.caller) {
            let received = inner.sources.to_device.receive(user, device, acknowledged, self.position).await?;
            (events, position) = (received.events, received.upto);
            if events.is_empty() {
                inner.empty_inboxes.insert(device, self.position);
            } else {
                inner.empty_inboxes.remove(&device);
            }
        }
        json.object("to_device");
        json.member("next_batch", &InboxToken { generation, position }.to_string());
        json.array("events");
        for event in &events {
            json.element(event.get().as_bytes());
        }
        json.close_array();
        json.close();
        Ok(!events.is_empty())
    }

    /// Writes whose devices changed since the last answer, and how many keys the device has left; whether anybody's did.
    pub(super) async fn write_e2ee(&self, json: &mut Json) -> Result<bool, Error> {
        let (inner, own) = (self.inner, self.request.caller.user);
        json.object("e2ee");
        let mut tells = false;
        // Who begins knows no devices yet, so nothing has changed.
        if let Some(since) = self.base().and_then(|base| base.device_lists) {
            let changes = inner.memberships.changes(own, since, self.position).await?;
            let plan = plan(&self.rooms, Some(since), &changes, false);
            let reader = Whereabouts {
                own,
                joined: &self.rooms.joined,
                newly_joined: &plan.newly_joined,
                newly_left: &plan.newly_left,
                window: (Some(since), self.position),
            };
            let stayed: RoaringBitmap = plan
                .joined
                .iter()
                .filter(|joined| joined.since.is_some())
                .map(|joined| joined.room.0)
                .collect();
            let changed = inner.changes_of_members(&stayed, since, self.position).await?;
            let sharing = inner.sharing(reader, &changed).await?;
            let window = (Some(since), self.position);
            tells = inner.write_device_lists(json, reader, window, &sharing).await?;
        }
        inner.write_key_counts(json, &self.request.caller).await?;
        json.close();
        Ok(tells)
    }
}
