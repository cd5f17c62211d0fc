//! The rooms that the user is not in: invited, knocked at, left.

use allod_storage::Position;

use super::answer::Answering;
use crate::{
    database::Error,
    sync::{
        json::Json,
        memberships::UserRoomEntry,
        plan::{LeftRoom, LeftView},
        room_delta::{RoomDelta, Window},
        timeline::{Timeline, matches},
    },
};

impl Answering<'_> {
    /// Writes `invite`.
    pub(super) async fn write_invited(&self, json: &mut Json) -> Result<(), Error> {
        self.write_stripped(json, "invite", "invite_state", &self.plan.invited).await
    }

    /// Writes `knock`.
    pub(super) async fn write_knocked(&self, json: &mut Json) -> Result<(), Error> {
        self.write_stripped(json, "knock", "knock_state", &self.plan.knocked).await
    }

    async fn write_stripped(
        &self,
        json: &mut Json,
        section: &str,
        state: &str,
        entries: &[UserRoomEntry],
    ) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        json.object(section);
        for entry in entries {
            let room = self.inner.sources.rooms.get(entry.room).await?;
            let events = self.inner.stripped_state(&room, self.request.caller.user, entry).await?;
            json.object(room.room_id.as_str());
            json.events(state, events);
            json.close();
        }
        json.close();
        Ok(())
    }

    /// Writes `leave`.
    pub(super) async fn write_left(&self, json: &mut Json) -> Result<(), Error> {
        let start = json.mark();
        json.object("leave");
        let inside = json.mark();
        for left in &self.plan.left {
            self.write_left_room(json, *left).await?;
        }
        self.write_departed(json).await?;
        json.close_unless_empty(start, inside);
        Ok(())
    }

    /// Writes rooms that were left since and are deleted now: nothing of them but that they are left.
    async fn write_departed(&self, json: &mut Json) -> Result<(), Error> {
        let Some(since) = self.since() else { return Ok(()) };
        let inner = self.inner;
        let user = self.request.caller.user;
        for departed in inner.memberships.departed(user, since, self.position).await? {
            let room = inner.sources.rooms.get(departed.room).await?;
            if !self.filter.rooms.contains(&room.room_id) || inner.is_back(&room, &self.rooms).await? {
                continue;
            }
            json.object(room.room_id.as_str());
            json.object("timeline");
            json.array("events");
            json.close_array();
            json.member("limited", &false);
            json.close();
            json.close();
        }
        Ok(())
    }

    async fn write_left_room(&self, json: &mut Json, left: LeftRoom) -> Result<(), Error> {
        let entry = left.entry;
        let sources = &self.inner.sources;
        let room = sources.rooms.get(entry.room).await?;
        let view = sources.rooms.view_of(room, &self.request.caller).await?;
        let until = entry.position;
        let since = match left.shows {
            LeftView::Since(since) => Some(since),
            LeftView::All | LeftView::Leave => None,
        };
        let was_in = left.shows != LeftView::Leave && view.joined_until > Position::ZERO;
        let delta = if was_in {
            self.delta(&view, Window { since, until }, None).await?
        } else {
            let event = sources.rooms.events().load(view.room.number, entry.event).await?;
            let shown = matches(&self.filter.timeline, &view.room, &event)?;
            let events = shown.then_some((entry.position, event)).into_iter().collect();
            RoomDelta { timeline: Timeline { events, ..Timeline::default() }, ..RoomDelta::default() }
        };
        json.object(view.room.room_id.as_str());
        self.write_timeline(json, &view, delta.timeline).await?;
        self.write_state(json, &view, &delta.state).await?;
        let data = self.room_data.get(&entry.room).map_or(&[][..], Vec::as_slice);
        let data = self.account_data_events(&view, data);
        if !data.is_empty() {
            json.events("account_data", &data);
        }
        json.close();
        Ok(())
    }
}
