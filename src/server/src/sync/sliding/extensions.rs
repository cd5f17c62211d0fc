//! What an answer tells besides rooms: messages and keys of the device, account data, receipts, typing, followed threads.

use std::collections::BTreeMap;

use allod_storage::Position;
use roaring::RoaringBitmap;
use ruma::{EventId, RoomId};
use serde_json::json;

use super::{
    ExtensionRooms,
    answer::Answering,
    connection::{Coverage, State, Step},
};
use crate::{
    account_data::Datum,
    database::Error,
    numbers::RoomNumber,
    sync::{json::Json, v3::bare_event},
};

/// Most changes of followed threads in one answer.
const THREAD_CHANGES_MAX: usize = 100;

impl Answering<'_> {
    /// Writes `extensions`; whether they tell anything.
    pub(super) async fn write_extensions(
        &self,
        json: &mut Json,
        inbox: Position,
        step: &mut Step,
    ) -> Result<bool, Error> {
        let wanted = &self.request.extensions;
        let mut tells = false;
        json.object("extensions");
        if wanted.to_device.is_some() {
            tells |= self.write_to_device(json, inbox).await?;
        }
        if wanted.e2ee {
            tells |= self.write_e2ee(json).await?;
            step.device_lists = true;
        }
        if let Some(rooms) = &wanted.account_data {
            let rooms = self.rooms_of(rooms).await?;
            tells |= self.write_account_data(json, &rooms).await?;
            step.account_data = Some(rooms);
        }
        if let Some(rooms) = &wanted.receipts {
            let rooms = &self.rooms_of(rooms).await? & &*self.rooms.joined;
            tells |= self.write_receipts(json, &rooms).await?;
            step.receipts = Some(rooms);
        }
        if let Some(rooms) = &wanted.typing {
            let rooms = &self.rooms_of(rooms).await? & &*self.rooms.joined;
            tells |= self.write_typing(json, &rooms).await?;
            step.typing = rooms;
        }
        if let Some(limit) = wanted.thread_subscriptions {
            tells |= self.write_threads(json, limit).await?;
            step.threads = true;
        }
        json.close();
        Ok(tells)
    }

    /// The rooms in view that an extension is for.
    async fn rooms_of(&self, wanted: &ExtensionRooms) -> Result<RoaringBitmap, Error> {
        let mut rooms = RoaringBitmap::new();
        for (name, list) in &self.view.lists {
            if wanted.lists.as_ref().is_none_or(|lists| lists.contains(name)) {
                rooms |= &list.rooms;
            }
        }
        let named = self.view.subscriptions.keys();
        match &wanted.rooms {
            None => rooms.extend(named.map(|room| room.0)),
            Some(wanted) => {
                for id in wanted {
                    let room = self.inner.room_named(id).await?;
                    rooms.extend(room.map(|room| room.0).filter(|room| self.view.rooms.contains(*room)));
                }
            }
        }
        Ok(rooms)
    }

    /// What each room of an extension is known up to, by what it is covered.
    fn since(&self, room: RoomNumber, coverage: impl Fn(&State) -> &Coverage) -> Option<Position> {
        let base = self.base()?;
        coverage(base).since(room, base.position)
    }

    async fn write_account_data(&self, json: &mut Json, rooms: &RoaringBitmap) -> Result<bool, Error> {
        let user = self.request.caller.user;
        let service = &self.inner.sources.account_data;
        let base = self.base();
        let global_since = base.and_then(|base| base.global_data);
        let mut recent = Vec::new();
        if let Some(position) = base.map(|base| base.position) {
            let since = global_since.unwrap_or(position);
            if self.inner.activity.user_data_changed(user, since) {
                recent = service.changes(user, Some(since), self.position).await?;
            }
            recent.retain(|datum| datum.room.is_none() || datum.position > position);
        }
        let live = base.map(|base| base.account_data.live() & rooms).unwrap_or_default();
        let others = rooms - &live;
        let mut earlier = Vec::new();
        if global_since.is_none() || !others.is_empty() {
            earlier = service.changes(user, None, self.position).await?;
        }
        let is_new = |room: RoomNumber, datum: &Datum| {
            let since = self.since(room, |base| &base.account_data);
            others.contains(room.0) && since.is_none_or(|since| datum.position > since)
        };
        let mut global: Vec<Datum> = Vec::new();
        let mut by_room: BTreeMap<RoomNumber, Vec<Datum>> = BTreeMap::new();
        for datum in earlier {
            match datum.room {
                None if global_since.is_none() => global.push(datum),
                Some(room) if is_new(room, &datum) => by_room.entry(room).or_default().push(datum),
                None | Some(_) => {}
            }
        }
        for datum in recent {
            match datum.room {
                None if global_since.is_some() => global.push(datum),
                Some(room) if live.contains(room.0) => by_room.entry(room).or_default().push(datum),
                None | Some(_) => {}
            }
        }
        let push_rules = &self.inner.sources.push_rules;
        let user_id = &self.request.caller.user_id;
        push_rules.complete(user, user_id, &mut global, global_since.is_none()).await?;
        self.write_data(json, &global, &by_room).await
    }

    async fn write_data(
        &self,
        json: &mut Json,
        global: &[Datum],
        rooms: &BTreeMap<RoomNumber, Vec<Datum>>,
    ) -> Result<bool, Error> {
        let write = |json: &mut Json, name: &str, data: &[Datum]| {
            json.array(name);
            for datum in data {
                json.element(&bare_event(&datum.event_type, &datum.content));
            }
            json.close_array();
        };
        json.object("account_data");
        write(json, "global", global);
        json.object("rooms");
        for (room, data) in rooms {
            let room = self.inner.sources.rooms.get(*room).await?;
            write(json, room.room_id.as_str(), data);
        }
        json.close();
        json.close();
        Ok(!global.is_empty() || !rooms.is_empty())
    }

    async fn write_receipts(&self, json: &mut Json, rooms: &RoaringBitmap) -> Result<bool, Error> {
        let user = self.request.caller.user;
        let (activity, receipts) = (&self.inner.activity, &self.inner.sources.receipts);
        let mut changed = Vec::new();
        let mut events = BTreeMap::new();
        for room in rooms.iter().map(RoomNumber) {
            let since = self.since(room, |base| &base.receipts);
            if let Some(shown) = self.shown.get(&room) {
                let content = receipts.at_events(room, shown, user, (since, self.position)).await?;
                events.extend(content.map(|content| (room, content)));
            } else if since.is_none_or(|since| {
                activity.receipt_changed(room, since) || activity.user_data_changed(user, since)
            }) {
                changed.push((room, since));
            }
        }
        for (room, contents) in receipts.changes(&changed, user, self.position).await? {
            events.extend(contents.into_iter().next().map(|content| (room, content)));
        }
        json.object("receipts");
        json.object("rooms");
        for (room, content) in &events {
            json.key(self.inner.sources.rooms.get(*room).await?.room_id.as_str());
            json.element(&bare_event("m.receipt", content));
        }
        json.close();
        json.close();
        Ok(!events.is_empty())
    }

    async fn write_typing(&self, json: &mut Json, rooms: &RoaringBitmap) -> Result<bool, Error> {
        let typing = &self.inner.sources.typing;
        let (told, ephemeral) = match self.base() {
            Some(base) => (rooms & &base.typing, base.ephemeral),
            None => (RoaringBitmap::new(), 0),
        };
        let mut news = typing.changed_rooms(ephemeral) & &told;
        news |= (rooms - &told) & typing.changed_rooms(0);
        json.object("typing");
        json.object("rooms");
        let mut tells = false;
        for room in news.iter().map(RoomNumber) {
            let Some((_, users)) = typing.in_room(room) else { continue };
            // That nobody types is news only to who may believe otherwise.
            let is_known = self.base().is_some_and(|base| base.rooms.contains_key(&room));
            if users.is_empty() && !is_known {
                continue;
            }
            let event = json!({ "type": "m.typing", "content": { "user_ids": users } });
            json.key(self.inner.sources.rooms.get(room).await?.room_id.as_str());
            json.element(event.to_string().as_bytes());
            tells = true;
        }
        json.close();
        json.close();
        Ok(tells)
    }

    /// Writes which threads the user follows, or no longer does (MSC4308).
    async fn write_threads(&self, json: &mut Json, limit: usize) -> Result<bool, Error> {
        let since = self.base().and_then(|base| base.threads);
        let service = &self.inner.sources.thread_subscriptions;
        let user = self.request.caller.user;
        if since.is_some_and(|since| !self.inner.activity.user_data_changed(user, since)) {
            return Ok(false);
        }
        let limit = limit.clamp(1, THREAD_CHANGES_MAX);
        let page = service.page(user, since.unwrap_or_default(), self.position, limit).await?;
        if page.changes.is_empty() {
            return Ok(false);
        }
        json.object("io.element.msc4308.thread_subscriptions");
        for (name, wanted) in [("subscribed", true), ("unsubscribed", false)] {
            let mut rooms: BTreeMap<&RoomId, BTreeMap<&EventId, serde_json::Value>> = BTreeMap::new();
            for change in page.changes.iter().filter(|change| change.now.subscribed == wanted) {
                let mut said = json!({ "bump_stamp": change.position.get() });
                if let (true, Some(said)) = (wanted, said.as_object_mut()) {
                    said.insert("automatic".to_owned(), change.now.automatic.into());
                }
                rooms.entry(&change.room_id).or_default().insert(&change.root, said);
            }
            if !rooms.is_empty() {
                json.member(name, &rooms);
            }
        }
        if let Some(more) = page.more {
            json.member("prev_batch", &more.to_string());
        }
        json.close();
        Ok(true)
    }
}
