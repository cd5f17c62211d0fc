//! What a sync tells besides rooms: account data, typing, receipts, presence, messages to the device, keys.

use std::collections::{BTreeMap, HashSet};

use allod_storage::Position;
use serde_json::json;

use super::answer::{Answering, bare_event};
use crate::{
    account_data::Datum,
    database::Error,
    numbers::{RoomNumber, UserNumber},
    presence::Change,
    rooms::send::Caller,
    sync::{Inner, json::Json, plan::JoinedRoom, sharing::Sharing},
};

impl Answering<'_> {
    /// Reads receipts and typing of all joined rooms.
    pub(super) async fn read_ephemeral(&mut self) -> Result<(), Error> {
        let filter = &self.filter.ephemeral;
        if filter.is_closed() {
            return Ok(());
        }
        let mut by_room: BTreeMap<RoomNumber, Vec<Vec<u8>>> = BTreeMap::new();
        if filter.matches_type("m.receipt") {
            let user = self.request.caller.user;
            let rooms = self.rooms_with_receipts(user);
            for (room, contents) in self.inner.sources.receipts.changes(&rooms, user, self.position).await? {
                let events = contents.iter().map(|content| bare_event("m.receipt", content));
                by_room.entry(room).or_default().extend(events);
            }
        }
        if filter.matches_type("m.typing") {
            let known = self.known_ephemeral();
            let unchanged = known == Some(self.inner.sources.sequence.last());
            for joined in &self.plan.joined {
                if unchanged && joined.since.is_some() {
                    continue;
                }
                let Some((version, users)) = self.inner.sources.typing.in_room(joined.room) else { continue };
                // That nobody types is news only to who may believe otherwise.
                let is_news = match known.filter(|_| joined.since.is_some()) {
                    Some(known) => version > known,
                    None => !users.is_empty(),
                };
                if is_news {
                    let event = json!({ "type": "m.typing", "content": { "user_ids": users } });
                    by_room.entry(joined.room).or_default().push(event.to_string().into_bytes());
                }
            }
        }
        for room in by_room.keys().copied().collect::<Vec<_>>() {
            let id = &self.inner.sources.rooms.get(room).await?.room_id;
            if !filter.matches_room(id) {
                by_room.remove(&room);
            }
        }
        self.ephemeral = by_room;
        Ok(())
    }

    /// Joined rooms in which receipts may have moved that the reader sees, and from where on.
    fn rooms_with_receipts(&self, user: UserNumber) -> Vec<(RoomNumber, Option<Position>)> {
        let activity = &self.inner.activity;
        let moved = |joined: &&JoinedRoom| {
            joined.since.is_none_or(|since| {
                activity.receipt_changed(joined.room, since) || activity.user_data_changed(user, since)
            })
        };
        self.plan.joined.iter().filter(moved).map(|joined| (joined.room, joined.since)).collect()
    }

    /// Writes `presence`; whether there is any.
    pub(super) async fn write_presence(&self, json: &mut Json, sharing: &Sharing) -> Result<bool, Error> {
        let filter = &self.filter.presence;
        if filter.is_closed() || !filter.matches_type("m.presence") {
            return Ok(false);
        }
        let known = self.known_ephemeral();
        let presence = &self.inner.sources.presence;
        let mut shown = presence.changes_with_rooms(known.unwrap_or(0));
        let new: HashSet<UserNumber> = shown.iter().map(|change| change.user).collect();
        if known.is_some() && !sharing.coming.is_empty() {
            // Who comes to share a room is new as well, whenever their presence changed.
            let old = presence.changes_with_rooms(0).into_iter().filter(|change| !new.contains(&change.user));
            shown.extend(old.filter(|change| sharing.coming.contains(change.user.0)));
        }
        let own = self.request.caller.user;
        let mut events = Vec::new();
        for Change { user, user_id, rooms, content, .. } in shown {
            // Where users of other servers are, is known as of when they were last told of.
            let is_local = user_id.server_name() == self.request.caller.user_id.server_name();
            let shares = user == own
                || sharing.coming.contains(user.0)
                || if is_local {
                    !self.inner.memberships.current(user).await?.joined.is_disjoint(&self.rooms.joined)
                } else {
                    !rooms.is_disjoint(&self.rooms.joined)
                };
            if shares && filter.matches_sender(&user_id) {
                events
                    .push(json!({ "type": "m.presence", "sender": user_id, "content": content }).to_string());
            }
        }
        if !events.is_empty() {
            json.events("presence", &events);
        }
        Ok(!events.is_empty())
    }

    /// Writes `account_data`; whether there is any.
    pub(super) fn write_account_data(&self, json: &mut Json, data: &[Datum]) -> bool {
        let filter = &self.filter.account_data;
        let wanted = data.iter().filter(|datum| filter.matches_type(&datum.event_type));
        let events: Vec<_> = wanted.map(|datum| bare_event(&datum.event_type, &datum.content)).collect();
        if !events.is_empty() {
            json.events("account_data", &events);
        }
        !events.is_empty()
    }

    /// Writes `to_device`, and deletes what has arrived; returns up to where the inbox was told.
    pub(super) async fn write_to_device(&self, json: &mut Json, tells: &mut bool) -> Result<Position, Error> {
        let Some(device) = self.request.caller.device else { return Ok(self.position) };
        let inner = self.inner;
        let user = self.request.caller.user;
        if inner.inbox_is_empty(&self.request.caller) {
            return Ok(self.position);
        }
        let acknowledged = self.known.map_or(Position::ZERO, |token| token.inbox);
        let received = inner.sources.to_device.receive(user, device, acknowledged, self.position).await?;
        if received.events.is_empty() {
            inner.empty_inboxes.insert(device, self.position);
        } else {
            inner.empty_inboxes.remove(&device);
            json.events("to_device", received.events.iter().map(|event| event.get()));
            *tells = true;
        }
        Ok(received.upto)
    }
}

impl Inner {
    /// Writes how many keys of the caller's device are left.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync>
    pub(in crate::sync) async fn write_key_counts(
        &self,
        json: &mut Json,
        caller: &Caller,
    ) -> Result<(), Error> {
        let Some(device) = caller.device else { return Ok(()) };
        let known = self.key_counts(caller.user, device).await?;
        let counts = &known.1;
        json.object("device_one_time_keys_count");
        // Some clients take a missing count for "unchanged", so none is said to be none.
        if !counts.one_time.iter().any(|(algorithm, _)| algorithm == "signed_curve25519") {
            json.member("signed_curve25519", &0);
        }
        for (algorithm, count) in &counts.one_time {
            json.member(algorithm, count);
        }
        json.close();
        json.member("device_unused_fallback_key_types", &counts.unused_fallback);
        Ok(())
    }
}
