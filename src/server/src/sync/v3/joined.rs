//! The rooms that the user has joined.

use std::{collections::BTreeMap, sync::Arc};

use allod_matrix::event::client::{Facts, federation};
use ruma::EventId;
use serde_json::json;

use super::{
    StatePlace,
    answer::{Answering, bare_event},
};
use crate::{
    database::Error,
    numbers::RoomNumber,
    rooms::{access::View, event::StoredEvent},
    sync::{
        json::Json,
        lazy::Listener,
        outside::joined_view,
        plan::JoinedRoom,
        prefetch::Prefetched,
        room_delta::{Known, LazyMembers, RoomDelta, StateWish, Window},
        sharing::Changed,
        summary::Summary,
        timeline::{Timeline, TimelineWish},
        unread::Count,
    },
};

/// Rooms whose rows are read together.
const PREFETCHED_ROOMS: usize = 50;

impl Answering<'_> {
    /// Writes `join`.
    pub(super) async fn write_joined(&self, json: &mut Json, changed: &mut Changed) -> Result<(), Error> {
        let start = json.mark();
        json.object("join");
        let inside = json.mark();
        for joined in self.plan.joined.chunks(PREFETCHED_ROOMS) {
            let prefetched = self.prefetch(joined).await?;
            let whole: Vec<_> = prefetched.keys().copied().collect();
            self.inner.prepare_unread(&whole, self.request.caller.user, self.position).await?;
            for joined in joined {
                self.write_joined_room(json, *joined, prefetched.get(&joined.room), changed).await?;
                json.pass_on().await;
            }
        }
        json.close_unless_empty(start, inside);
        Ok(())
    }

    /// Reads beforehand what rooms that are shown whole will ask for, if there are several.
    async fn prefetch(&self, rooms: &[JoinedRoom]) -> Result<BTreeMap<RoomNumber, Prefetched>, Error> {
        let is_whole = |joined: &&JoinedRoom| joined.since.is_none();
        let heads = rooms.iter().filter(is_whole);
        let heads: Vec<_> =
            heads.filter_map(|joined| Some((joined.room, self.heads.get(&joined.room)?))).collect();
        if heads.len() <= 1 {
            return Ok(BTreeMap::new());
        }
        self.inner.reader.prefetch(&heads, self.position, self.filter.timeline_limit).await
    }

    async fn write_joined_room(
        &self,
        json: &mut Json,
        joined: JoinedRoom,
        prefetched: Option<&Prefetched>,
        changed: &mut Changed,
    ) -> Result<(), Error> {
        let number = joined.room;
        let whole = joined.since.is_none() || self.request.full_state;
        let data = self.room_data.get(&number);
        let ephemeral = self.ephemeral.get(&number);
        let has_events = whole || self.changed.contains(&number);
        if !has_events && data.is_none() && ephemeral.is_none() {
            return Ok(());
        }
        let room = self.inner.sources.rooms.get(number).await?;
        let view = joined_view(room, &self.request.caller);
        let mut delta = if has_events {
            let window = Window { since: joined.since, until: self.position };
            self.delta(&view, window, prefetched).await?
        } else {
            RoomDelta::default()
        };
        // Who comes back must not take what is shown for the continuation of what they knew.
        delta.timeline.limited |= joined.since.is_none() && self.known.is_some();
        if joined.since.is_some() && !delta.changed.is_empty() {
            changed.push((number, std::mem::take(&mut delta.changed)));
        }
        let data = self.account_data_events(&view, data.map_or(&[], Vec::as_slice));
        let ephemeral = ephemeral.map_or(&[][..], Vec::as_slice);
        if !whole && delta.is_empty() && data.is_empty() && ephemeral.is_empty() {
            return Ok(());
        }
        json.object(view.room.room_id.as_str());
        self.write_timeline(json, &view, delta.timeline).await?;
        self.write_state(json, &view, &delta.state).await?;
        // There even if it is empty where the client knows nothing yet: it may have been deleted (MSC3391).
        if whole || !data.is_empty() {
            json.events("account_data", &data);
        }
        if whole || !ephemeral.is_empty() {
            json.events("ephemeral", ephemeral);
        }
        if let Some(summary) = &delta.summary {
            write_summary(json, summary);
        }
        self.write_unread(json, &view).await?;
        json.close();
        Ok(())
    }

    /// What happened in a room in a window, as the filter wants it.
    pub(super) async fn delta(
        &self,
        view: &View,
        window: Window,
        prefetched: Option<&Prefetched>,
    ) -> Result<RoomDelta, Error> {
        let timeline = TimelineWish {
            filter: &self.filter.timeline,
            limit: self.filter.timeline_limit,
            ignored: &self.ignored.users,
        };
        let listener = self.request.caller.device.map(Listener::Device);
        let state = StateWish {
            filter: &self.filter.state,
            lazy: self.filter.lazy.map(|lazy| LazyMembers { listener, ..lazy }),
            full: self.request.full_state,
            after: self.request.state != StatePlace::Before,
        };
        let known = Known { head: self.heads.get(&view.room.number), prefetched };
        Box::pin(self.inner.reader.delta(view, window, known, timeline, state)).await
    }

    /// Writes `timeline`.
    pub(super) async fn write_timeline(
        &self,
        json: &mut Json,
        view: &View,
        mut timeline: Timeline,
    ) -> Result<(), Error> {
        let events: Vec<_> = timeline.events.into_iter().map(|(_, event)| event).collect();
        let rooms = &self.inner.sources.rooms;
        let rendered = if events.is_empty() {
            Vec::new()
        } else if self.filter.federation_format {
            render_for_federation(view, &events)?
        } else if timeline.limited && timeline.may_be_related {
            // Who is told all that happened adds it up; who is not needs what it comes to.
            rooms.render_bundled(view, &events, false, &self.ignored.users).await?
        } else {
            rooms.render_timeline(view, &events, &mut timeline.sights).await?
        };
        json.object("timeline");
        json.array("events");
        for event in self.pruned(rendered) {
            json.element(&event);
        }
        json.close_array();
        json.member("limited", &timeline.limited);
        if let Some(token) = timeline.prev_batch {
            json.member("prev_batch", &token.to_string());
        }
        json.close();
        Ok(())
    }

    /// Writes `state`, or `state_after`.
    pub(super) async fn write_state(
        &self,
        json: &mut Json,
        view: &View,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), Error> {
        let name = match self.request.state {
            StatePlace::Before => "state",
            StatePlace::After => "state_after",
            StatePlace::AfterUnstable => "org.matrix.msc4222.state_after",
        };
        let rendered = if events.is_empty() {
            Vec::new()
        } else if self.filter.federation_format {
            render_for_federation(view, events)?
        } else {
            self.inner.sources.rooms.render_state(view, events).await?
        };
        json.events(name, self.pruned(rendered));
        Ok(())
    }

    /// Rendered events with the fields that are wanted.
    fn pruned(&self, mut rendered: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        if let Some(fields) = &self.filter.fields {
            for event in &mut rendered {
                if let Ok(pruned) = fields.prune(event) {
                    *event = pruned;
                }
            }
        }
        rendered
    }

    /// Account data of a room as events.
    pub(super) fn account_data_events(
        &self,
        view: &View,
        data: &[crate::account_data::Datum],
    ) -> Vec<Vec<u8>> {
        let filter = &self.filter.room_account_data;
        if filter.is_closed() || !filter.matches_room(&view.room.room_id) {
            return Vec::new();
        }
        let wanted = data.iter().filter(|datum| filter.matches_type(&datum.event_type));
        wanted.map(|datum| bare_event(&datum.event_type, &datum.content)).collect()
    }

    /// Writes how much is unread: in threads beside the main timeline, if the client wants that, else together.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>
    async fn write_unread(&self, json: &mut Json, view: &View) -> Result<(), Error> {
        let room = view.room.number;
        let unread = self.inner.unread(room, view.caller.user, self.position).await?;
        let by_thread = self.filter.unread_threads;
        write_count(json, "unread_notifications", if by_thread { unread.main() } else { unread.total() });
        if by_thread && unread.threads().next().is_some() {
            json.object("unread_thread_notifications");
            for (root, count) in unread.threads() {
                let root = self.inner.sources.rooms.events().load(room, root).await?;
                write_count(json, &root.record.event_id, count);
            }
            json.close();
        }
        Ok(())
    }
}

fn write_count(json: &mut Json, name: &str, count: Count) {
    json.object(name);
    json.member("highlight_count", &count.highlights);
    json.member("notification_count", &count.notifications);
    json.close();
}

fn render_for_federation(view: &View, events: &[Arc<StoredEvent>]) -> Result<Vec<Vec<u8>>, Error> {
    const DAMAGED: Error = Error::Corrupt("EventJson", crate::database::Corrupt("event does not parse"));
    let render = |event: &Arc<StoredEvent>| {
        let event_id = <&EventId>::try_from(event.record.event_id.as_str()).map_err(|_| DAMAGED)?;
        let facts = Facts { room_id: Some(&view.room.room_id), ..Facts::default() };
        federation(&event.json, event_id, &facts).map_err(|_| DAMAGED)
    };
    events.iter().map(render).collect()
}

fn write_summary(json: &mut Json, summary: &Summary) {
    json.object("summary");
    if !summary.heroes.is_empty() {
        json.array("m.heroes");
        for (_, hero) in &summary.heroes {
            json.element(json!(hero).to_string().as_bytes());
        }
        json.close_array();
    }
    json.member("m.joined_member_count", &summary.joined);
    json.member("m.invited_member_count", &summary.invited);
    json.close();
}
