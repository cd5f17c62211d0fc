//! Rooms that the user has joined.

use std::sync::Arc;

use allod_storage::Position;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    answer::{Answering, ReadBefore},
    connection::Told,
    news::News,
};
use crate::{
    database::Error,
    rooms::{access::View, event::StoredEvent},
    sync::{
        json::Json,
        lazy::Listener,
        outside::joined_view,
        room_delta::{Known, Window},
        state_after::{DeltaAfter, Required},
        summary::Summary,
        timeline::{Timeline, TimelineWish},
        unread::Count,
    },
    tables::rooms::{Membership, StateRoot},
};

/// How much of a room's past is shown, and from where on the client lacks it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// What the client lacks; all, without a beginning.
    pub(super) window: Window,
    /// Whether older events are shown than those that it lacks.
    pub(super) expanded: bool,
}

impl Stretch {
    /// Whether the client is told of the room anew.
    pub(super) fn is_whole(&self) -> bool {
        self.window.since.is_none()
    }
}

impl Answering<'_> {
    /// Writes a room, if there is something to tell of it.
    pub(super) async fn write_joined(
        &mut self,
        json: &mut Json,
        news: &News,
        read: &ReadBefore,
    ) -> Result<Option<Told>, Error> {
        let number = news.entry.room;
        let room = self.inner.sources.rooms.get(number).await?;
        let view = joined_view(room, &self.request.caller);
        let stretch = self.stretch(news, self.position).await?;
        let known = Known { head: read.heads.get(&number), prefetched: read.prefetched.get(&number) };
        let delta = self.delta(&view, news, stretch, known).await?;
        let unread = self.inner.unread(number, view.caller.user, self.position).await?.total();
        let unread_changed = news.told.as_ref().is_some_and(|told| told.unread != unread);
        if !stretch.is_whole() && delta.is_empty() && !news.direct_changed && !unread_changed {
            return Ok(None);
        }
        json.object(view.room.room_id.as_str());
        if stretch.is_whole() {
            json.member("initial", &true);
            json.member("membership", &"join");
        }
        let bump = self.inner.bump_stamp(number, self.position).await?;
        json.member("bump_stamp", &bump.get());
        self.write_direct(json, news);
        if delta.renamed {
            self.write_names(json, &view, delta.root, stretch.is_whole()).await?;
        }
        if let Some(summary) = &delta.summary {
            self.write_summary(json, &view, delta.root, summary).await?;
        }
        json.member("notification_count", &unread.notifications);
        json.member("highlight_count", &unread.highlights);
        let depth = self.write_delta(json, &view, news, stretch, delta).await?;
        json.close();
        let config = Arc::clone(&news.config);
        Ok(Some(Told { config, depth, membership: Membership::Join, unread }))
    }

    /// What of a room is told, up to `until`.
    pub(super) async fn stretch(&self, news: &News, until: Position) -> Result<Stretch, Error> {
        let known = news.told.as_ref().filter(|told| told.membership == Membership::Join);
        let mut since = news.since.filter(|_| known.is_some());
        if let Some(known) = since {
            // Who left and came back is shown the room anew: what happened in between is not a difference.
            let user = self.request.caller.user;
            let changes = self.inner.memberships.changes(user, known, until).await?;
            let room = news.entry.room;
            let came_back = changes.iter().any(|(_, change)| {
                change.room == room
                    && change.membership == Membership::Join
                    && change.before != Some(Membership::Join)
            });
            since = since.filter(|_| !came_back);
        }
        let expanded = since.is_some() && known.is_some_and(|told| told.depth < news.config.timeline_limit);
        Ok(Stretch { window: Window { since, until }, expanded })
    }

    /// What happened in a room.
    pub(super) async fn delta(
        &self,
        view: &View,
        news: &News,
        stretch: Stretch,
        known: Known<'_>,
    ) -> Result<DeltaAfter, Error> {
        let timeline = TimelineWish {
            filter: &self.open,
            limit: news.config.timeline_limit,
            ignored: &self.ignored.users,
        };
        let required = Required {
            now: &news.config.required,
            before: news.told.as_ref().map(|told| &told.config.required),
            listener: Listener::Connection(self.turn.connection.id),
        };
        let shown = if stretch.expanded { Window { since: None, ..stretch.window } } else { stretch.window };
        let windows = (stretch.window, shown);
        Box::pin(self.inner.reader.delta_after(view, windows, known, timeline, required)).await
    }

    /// Writes `is_dm`, where it is true or has changed.
    pub(super) fn write_direct(&self, json: &mut Json, news: &News) {
        let direct = self.direct.contains(news.entry.room.0);
        let was_told = news.told.is_some() && (news.direct_changed || !self.is_live(news));
        if direct || was_told {
            json.member("is_dm", &direct);
        }
    }

    fn is_live(&self, news: &News) -> bool {
        self.base().is_some_and(|base| base.events.live().contains(news.entry.room.0))
    }

    /// Writes `name` and `avatar` of a state; what there is none of is left out in a room that is told whole.
    async fn write_names(
        &self,
        json: &mut Json,
        view: &View,
        root: StateRoot,
        whole: bool,
    ) -> Result<(), Error> {
        let room = &*view.room;
        let states = self.inner.sources.rooms.states();
        let wanted = [("m.room.name", "name", "name"), ("m.room.avatar", "url", "avatar")];
        for (kind, field, member) in wanted {
            let value = match states.get(room, root, kind, "").await? {
                Some(event) => {
                    let event = self.inner.sources.rooms.events().load(room.number, event).await?;
                    let content: Value = event.pdu(room)?.content_as().unwrap_or_default();
                    let text = content.get(field).and_then(Value::as_str);
                    text.filter(|text| !text.is_empty()).map(str::to_owned)
                }
                None => None,
            };
            if value.is_some() || !whole {
                json.member(member, &value);
            }
        }
        Ok(())
    }

    async fn write_summary(
        &self,
        json: &mut Json,
        view: &View,
        root: StateRoot,
        summary: &Summary,
    ) -> Result<(), Error> {
        #[derive(Default, Deserialize)]
        struct Member {
            displayname: Option<Value>,
            avatar_url: Option<Value>,
        }
        json.member("joined_count", &summary.joined);
        json.member("invited_count", &summary.invited);
        if summary.heroes.is_empty() {
            return Ok(());
        }
        let room = &*view.room;
        let rooms = &self.inner.sources.rooms;
        let key = |id: &str| room.hash_key.entry_key("m.room.member", id);
        let keys: Vec<_> = summary.heroes.iter().map(|(_, id)| key(id.as_str())).collect();
        let found = rooms.states().get_many(room, root, &keys).await?;
        json.array("heroes");
        for ((_, id), event) in summary.heroes.iter().zip(found) {
            let mut hero = json!({ "user_id": id });
            if let Some(event) = event {
                let event = rooms.events().load(room.number, event).await?;
                let member: Member = event.pdu(room)?.content_as().unwrap_or_default();
                for (name, value) in [("displayname", member.displayname), ("avatar_url", member.avatar_url)]
                {
                    if let (Some(hero), Some(Value::String(text))) = (hero.as_object_mut(), value) {
                        hero.insert(name.to_owned(), text.into());
                    }
                }
            }
            json.element(hero.to_string().as_bytes());
        }
        json.close_array();
        Ok(())
    }

    /// Writes state and timeline; returns how many of the newest events the client has then without a gap.
    pub(super) async fn write_delta(
        &mut self,
        json: &mut Json,
        view: &View,
        news: &News,
        stretch: Stretch,
        delta: DeltaAfter,
    ) -> Result<usize, Error> {
        self.write_state(json, view, &delta.state, &delta.removed).await?;
        let timeline = delta.timeline;
        let since = stretch.window.since.or_else(|| self.base().map(|base| base.position));
        let is_new = |at: Position| since.is_some_and(|since| at > since);
        let new = timeline.events.iter().filter(|(at, _)| is_new(*at)).count();
        let from_before = stretch.is_whole() || stretch.expanded;
        let known = news.told.as_ref().map_or(0, |told| told.depth);
        let depth = match (timeline.limited, from_before) {
            (false, true) => usize::MAX,
            (true, _) => timeline.events.len(),
            (false, false) => known.saturating_add(timeline.events.len()),
        };
        if from_before {
            let ids = timeline.events.iter().map(|(_, event)| event.record.event_id.clone());
            self.shown.insert(view.room.number, ids.collect());
        }
        if stretch.expanded {
            json.member("unstable_expanded_timeline", &true);
        }
        json.member("num_live", &new);
        self.write_timeline(json, view, timeline, from_before).await?;
        Ok(depth)
    }

    /// Writes `required_state`.
    async fn write_state(
        &self,
        json: &mut Json,
        view: &View,
        state: &[Arc<StoredEvent>],
        removed: &[(String, String)],
    ) -> Result<(), Error> {
        if state.is_empty() && removed.is_empty() {
            return Ok(());
        }
        json.array("required_state");
        if !state.is_empty() {
            for event in self.inner.sources.rooms.render_state(view, state).await? {
                json.element(&event);
            }
        }
        for (kind, state_key) in removed {
            json.element(json!({ "type": kind, "state_key": state_key }).to_string().as_bytes());
        }
        json.close_array();
        Ok(())
    }

    /// Writes `timeline`, `limited` and `prev_batch`.
    async fn write_timeline(
        &self,
        json: &mut Json,
        view: &View,
        mut timeline: Timeline,
        from_before: bool,
    ) -> Result<(), Error> {
        json.member("limited", &timeline.limited);
        if let Some(token) = timeline.prev_batch {
            json.member("prev_batch", &token.to_string());
        }
        let events: Vec<_> = timeline.events.into_iter().map(|(_, event)| event).collect();
        if events.is_empty() {
            return Ok(());
        }
        let rooms = &self.inner.sources.rooms;
        // Who is told all that happened adds it up; who is not needs what it comes to.
        let rendered = if (timeline.limited || from_before) && timeline.may_be_related {
            rooms.render_bundled(view, &events, false, &self.ignored.users).await?
        } else {
            rooms.render_timeline(view, &events, &mut timeline.sights).await?
        };
        json.array("timeline");
        for event in rendered {
            json.element(&event);
        }
        json.close_array();
        Ok(())
    }

    /// Nothing is unread in a room that the user is not in.
    pub(super) fn told_outside(news: &News, depth: usize) -> Told {
        let config = Arc::clone(&news.config);
        Told { config, depth, membership: news.entry.membership, unread: Count::default() }
    }
}
