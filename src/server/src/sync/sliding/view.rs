//! What a client has in view: the user's rooms by activity, the windows onto them, and rooms that it names.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use allod_matrix::sync::required::RequiredState;
use allod_storage::Position;
use roaring::RoaringBitmap;

use super::{
    ListFilters, RoomWish, SlidingRequest, TIMELINE_LIMIT_MAX, WantedList,
    connection::{Config, ListInView, State},
};
use crate::{
    database::Error,
    numbers::RoomNumber,
    rooms::send::Caller,
    sync::{
        Inner,
        memberships::{UserRoomEntry, UserRooms},
    },
    tables::rooms::{Membership, RoomHead},
};

/// A room that may be in a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) entry: UserRoomEntry,
    /// When something happened last.
    pub(super) active: Position,
}

/// What a client has in view.
#[derive(Debug, Default)]
pub(super) struct InView {
    pub(super) lists: BTreeMap<String, ListInView>,
    /// How many rooms are in each list, in view or not.
    pub(super) counts: BTreeMap<String, usize>,
    pub(super) subscriptions: BTreeMap<RoomNumber, Arc<Config>>,
    /// All rooms in view.
    pub(super) rooms: RoaringBitmap,
}

impl Inner {
    /// What a request has in view.
    pub(super) async fn in_view(
        &self,
        request: &SlidingRequest,
        base: Option<&State>,
        rooms: &UserRooms,
    ) -> Result<InView, Error> {
        let me = request.caller.user_id.as_str();
        let mut view = InView::default();
        if !request.lists.is_empty() {
            let roster = self.roster(&request.caller, rooms, base).await?;
            for (name, wanted) in &request.lists {
                let known = base.and_then(|base| base.lists.get(name)).map(|list| &list.config);
                let config = config(&wanted.wish, me, known);
                let whole;
                let roster = if takes_all_members(&config) {
                    let is_whole = |listed: &&Listed| !self.sources.rooms.is_partial(listed.entry.room);
                    whole = roster.iter().filter(is_whole).copied().collect::<Vec<_>>();
                    &whole
                } else {
                    &roster
                };
                let (rooms, count) = self.window(&request.caller, wanted, roster).await?;
                view.rooms |= &rooms;
                view.counts.insert(name.clone(), count);
                view.lists.insert(name.clone(), ListInView { config, rooms });
            }
        }
        for (room_id, wish) in &request.subscriptions {
            let Some(room) = self.room_named(room_id).await? else { continue };
            let Some(entry) = rooms.get(room) else { continue };
            if !self.may_be_seen(&request.caller, entry).await? {
                continue;
            }
            let known = base.and_then(|base| base.subscriptions.get(&room));
            let config = config(wish, me, known);
            if takes_all_members(&config) && self.sources.rooms.is_partial(room) {
                continue;
            }
            view.rooms.insert(room.0);
            view.subscriptions.insert(room, config);
        }
        Ok(view)
    }

    /// The user's rooms that may be in lists.
    async fn roster(
        &self,
        caller: &Caller,
        rooms: &UserRooms,
        base: Option<&State>,
    ) -> Result<Vec<Listed>, Error> {
        let mut invited = Vec::new();
        let mut entries = Vec::with_capacity(rooms.rooms.len());
        for entry in &rooms.rooms {
            match entry.membership {
                Membership::Join | Membership::Knock => entries.push(*entry),
                Membership::Invite => invited.push(*entry),
                Membership::Leave | Membership::Ban => {
                    if self.is_left_in_list(caller, entry, base).await? {
                        entries.push(*entry);
                    }
                }
            }
        }
        self.hide_unwanted_invites(caller.user, &mut invited).await?;
        entries.extend(invited);
        let joined = |entry: &&UserRoomEntry| entry.membership == Membership::Join;
        let numbers: Vec<_> = entries.iter().filter(joined).map(|entry| entry.room).collect();
        let mut last = self.last_events(&numbers).await?.into_iter();
        let active = |entry: UserRoomEntry| {
            let active = if joined(&&entry) { last.next().unwrap_or(entry.position) } else { entry.position };
            Listed { entry, active }
        };
        Ok(entries.into_iter().map(active).collect())
    }

    /// The last events of joined rooms, in their order.
    async fn last_events(&self, rooms: &[RoomNumber]) -> Result<Vec<Position>, Error> {
        let known = self.activity.last_events(rooms);
        let unknown = rooms.iter().zip(&known).filter(|(_, last)| last.is_none());
        let unknown: Vec<_> = unknown.map(|(room, _)| *room).collect();
        let heads = self.sources.database.get_all::<RoomHead>(&unknown).await?;
        let mut read = heads.into_iter().map(|head| head.map(|head| head.position).unwrap_or_default());
        let last: Vec<_> =
            known.into_iter().map(|last| last.or_else(|| read.next()).unwrap_or_default()).collect();
        for (room, position) in rooms.iter().zip(&last) {
            if unknown.binary_search(room).is_ok() {
                self.activity.event(*room, *position);
            }
        }
        Ok(last)
    }

    /// Whether a room that the user has left is in lists: once, if the client knows it as another one's; for good, if they
    /// were put out of it.
    async fn is_left_in_list(
        &self,
        caller: &Caller,
        entry: &UserRoomEntry,
        base: Option<&State>,
    ) -> Result<bool, Error> {
        let told = base.and_then(|base| base.rooms.get(&entry.room)).map(|told| told.membership);
        if told.is_some_and(|told| !matches!(told, Membership::Leave | Membership::Ban)) {
            return Ok(true);
        }
        if entry.forgotten || (entry.sender == caller.user && entry.membership == Membership::Leave) {
            return Ok(false);
        }
        self.was_in(caller, entry).await
    }

    /// Whether the user may be shown something of a room at all.
    async fn may_be_seen(&self, caller: &Caller, entry: &UserRoomEntry) -> Result<bool, Error> {
        match entry.membership {
            Membership::Join | Membership::Knock => Ok(true),
            Membership::Invite => {
                let mut invited = vec![*entry];
                self.hide_unwanted_invites(caller.user, &mut invited).await?;
                Ok(!invited.is_empty())
            }
            Membership::Leave | Membership::Ban => Ok(!entry.forgotten && self.was_in(caller, entry).await?),
        }
    }

    /// Whether a user who has left a room was ever in it.
    async fn was_in(&self, caller: &Caller, entry: &UserRoomEntry) -> Result<bool, Error> {
        if let Some(known) = self.facts.was_in(caller.user, entry) {
            return Ok(known);
        }
        let room = self.sources.rooms.get(entry.room).await?;
        let view = self.sources.rooms.view_of(room, caller).await?;
        let was_in = view.joined_until > Position::ZERO;
        self.facts.note_was_in(caller.user, entry, was_in);
        Ok(was_in)
    }

    /// The rooms in view of a list, and how many there are in it.
    async fn window(
        &self,
        caller: &Caller,
        wanted: &WantedList,
        roster: &[Listed],
    ) -> Result<(RoaringBitmap, usize), Error> {
        let filtered;
        let rooms = if wanted.filters == ListFilters::default() {
            roster
        } else {
            filtered = self.filtered(caller, &wanted.filters, roster).await?;
            &filtered
        };
        let count = rooms.len();
        let all = || rooms.iter().map(|listed| listed.entry.room.0).collect();
        let Some(ranges) = &wanted.ranges else { return Ok((all(), count)) };
        if ranges.iter().any(|(first, last)| *first == 0 && last.saturating_add(1) >= count) {
            return Ok((all(), count));
        }
        let mut order: Vec<_> =
            rooms.iter().map(|listed| Reverse((listed.active, listed.entry.room))).collect();
        let end = ranges.iter().map(|(_, last)| last.saturating_add(1)).max().unwrap_or_default();
        if end < order.len() {
            order.select_nth_unstable(end);
            order.truncate(end);
        }
        order.sort_unstable();
        let places =
            ranges.iter().flat_map(|(first, last)| order.iter().take(last.saturating_add(1)).skip(*first));
        Ok((places.map(|Reverse((_, room))| room.0).collect(), count))
    }
}

/// Whether a client takes the members that it is told for all there are: it is shown rooms that were joined without theirs
/// when those are known.
fn takes_all_members(config: &Config) -> bool {
    config.required.wants_members() && !config.required.is_lazy()
}

/// What is wanted of rooms; that of before, if it is the same.
fn config(wish: &RoomWish, me: &str, known: Option<&Arc<Config>>) -> Arc<Config> {
    let pairs = wish.required_state.iter().map(|(kind, key)| (kind.as_str(), key.as_str()));
    let config = Config {
        timeline_limit: wish.timeline_limit.min(TIMELINE_LIMIT_MAX),
        required: RequiredState::new(pairs, me),
    };
    match known {
        Some(known) if **known == config => Arc::clone(known),
        _ => Arc::new(config),
    }
}
