//! Rooms that the user is not in: invited, knocked at, left.

use allod_storage::Position;

use super::{answer::Answering, connection::Told, join::Stretch, news::News};
use crate::{
    database::Error,
    sync::{
        json::Json,
        room_delta::{Known, Window},
        state_after::DeltaAfter,
        timeline::Timeline,
    },
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
}
