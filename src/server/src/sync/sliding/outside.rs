//! Rooms that the user is not in: invited, knocked at, left.

use allod_storage::Position;
use serde_json::json;

use super::{answer::Answering, connection::Told, join::Stretch, news::News};
use crate::{
    database::Error,
    numbers::RoomNumber,
    sync::{
        json::Json,
        room_delta::{Known, Window},
        state_after::DeltaAfter,
        timeline::Timeline,
    },
    tables::{deleted::DepartedRoomRow, rooms::Membership},
};

impl Answering<'_> {
    /// Writes a room that the user is invited to, or knocks at.
    pub(super) async fn write_stripped(&self, json: &mut Json, news: &News) -> Result<Option<Told>, Error> {
        let entry = &news.entry;
        let is_new = news.told.as_ref().is_none_or(|told| told.membership != entry.membership)
            || news.since.is_none_or(|since| entry.position > since);
        if !is_new && !news.direct_changed {
            return Ok(None);
        }
        let room = self.inner.sources.rooms.get(entry.room).await?;
        let events = self.inner.stripped_state(&room, self.request.caller.user, entry).await?;
        json.object(room.room_id.as_str());
        json.member("initial", &true);
        json.member("membership", &entry.membership.as_str());
        json.member("bump_stamp", &entry.position.get());
        self.write_direct(json, news);
        json.array("invite_state");
        for event in events {
            json.element(&event);
        }
        json.close_array();
        json.close();
        Ok(Some(Self::told_outside(news, 0)))
    }

    /// Writes a room that the user has left, or was put out of: what they saw of it until then. The own member event is always
    /// told, since clients know by it that the room was left.
    pub(super) async fn write_left(&mut self, json: &mut Json, news: &News) -> Result<Option<Told>, Error> {
        let entry = news.entry;
        let is_new = news.told.as_ref().is_none_or(|told| told.membership != entry.membership)
            || news.since.is_none_or(|since| entry.position > since);
        if !is_new {
            return Ok(None);
        }
        let sources = &self.inner.sources;
        let room = sources.rooms.get(entry.room).await?;
        let view = sources.rooms.view_of(room, &self.request.caller).await?;
        let own = sources.rooms.events().load(view.room.number, entry.event).await?;
        let was_in = view.joined_until > Position::ZERO;
        let stretch = if was_in {
            self.stretch(news, entry.position).await?
        } else {
            Stretch { window: Window { since: None, until: entry.position }, expanded: false }
        };
        let mut delta = if was_in {
            self.delta(&view, news, stretch, Known::default()).await?
        } else {
            let events = vec![(entry.position, std::sync::Arc::clone(&own))];
            DeltaAfter { timeline: Timeline { events, ..Timeline::default() }, ..DeltaAfter::default() }
        };
        if delta.state.iter().all(|event| event.number != own.number) {
            delta.state.push(own);
        }
        json.object(view.room.room_id.as_str());
        if stretch.is_whole() {
            json.member("initial", &true);
        }
        json.member("membership", &entry.membership.as_str());
        json.member("bump_stamp", &entry.position.get());
        json.member("notification_count", &0);
        json.member("highlight_count", &0);
        let depth = self.write_delta(json, &view, news, stretch, delta).await?;
        json.close();
        Ok(Some(Self::told_outside(news, depth)))
    }

    /// Writes rooms that the client knows as others than left, and that are deleted now: nothing but that they are left.
    pub(super) async fn write_departed(&self, json: &mut Json) -> Result<Vec<(RoomNumber, Told)>, Error> {
        let Some(base) = self.base() else { return Ok(Vec::new()) };
        let (inner, user) = (self.inner, self.request.caller.user);
        let mut left = Vec::new();
        for departed in inner.memberships.departed(user, base.position, self.position).await? {
            let told = base.rooms.get(&departed.room);
            let is_news = |told: &&Told| !matches!(told.membership, Membership::Leave | Membership::Ban);
            let Some(told) = told.filter(is_news) else { continue };
            left.push((departed.room, Told { membership: Membership::Leave, ..told.clone() }));
            let room = inner.sources.rooms.get(departed.room).await?;
            if inner.is_back(&room, &self.rooms).await? {
                continue;
            }
            json.object(room.room_id.as_str());
            json.member("membership", &Membership::Leave.as_str());
            json.member("bump_stamp", &self.position.get());
            json.array("required_state");
            json.element(&self.own_leave(&departed));
            json.close_array();
            json.array("timeline");
            json.close_array();
            json.close();
        }
        Ok(left)
    }

    /// The reader's own member event of a deleted room, as far as it is remembered.
    fn own_leave(&self, departed: &DepartedRoomRow) -> Vec<u8> {
        let user_id = &self.request.caller.user_id;
        let unknown = || format!("$left-{}", departed.room.0);
        let event = json!({
            "type": "m.room.member",
            "state_key": user_id,
            "sender": user_id,
            "content": { "membership": "leave" },
            "event_id": departed.event_id.clone().unwrap_or_else(unknown),
            "origin_server_ts": departed.at_ms,
        });
        event.to_string().into_bytes()
    }
}
