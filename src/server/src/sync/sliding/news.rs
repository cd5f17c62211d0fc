//! The rooms in view that there is something to tell of. In memory: what happened is asked of the room afterwards.

use std::{collections::BTreeMap, sync::Arc};

use allod_storage::Position;
use roaring::RoaringBitmap;

use super::{
    answer::Answering,
    connection::{Config, ListInView, State, Told},
};
use crate::{numbers::RoomNumber, sync::memberships::UserRoomEntry, tables::rooms::Membership};

/// A room that there may be something to tell of.
#[derive(Clone, Debug)]
pub(super) struct News {
    /// What the user has to do with it.
    pub(super) entry: UserRoomEntry,
    /// What is wanted of it.
    pub(super) config: Arc<Config>,
    /// What was told of it.
    pub(super) told: Option<Told>,
    /// From where on it is not known to the client; all of it is not, if `None`.
    pub(super) since: Option<Position>,
    /// Whether `m.direct` names it, or does so no more.
    pub(super) direct_changed: bool,
}

impl Answering<'_> {
    /// The rooms that there may be something to tell of, in a stable order.
    pub(super) fn news(&self) -> Vec<News> {
        let empty = State::default();
        let base = self.base().unwrap_or(&empty);
        let live = base.events.live() & &self.view.rooms;
        let mut rooms = &self.view.rooms - &live;
        rooms |= self.changed(&live, base.position);
        rooms |= self.with_other_wishes(base);
        let direct_changed =
            if self.base().is_some() { &*base.direct ^ &*self.direct } else { RoaringBitmap::new() };
        rooms |= &direct_changed & &live;
        rooms |= self.perhaps_read(base);
        let mut merged = BTreeMap::new();
        let mut news = Vec::new();
        for room in rooms.iter().map(RoomNumber) {
            let Some(entry) = self.rooms.get(room) else { continue };
            let told = base.rooms.get(&room).cloned();
            let since = told.as_ref().and_then(|_| base.events.since(room, base.position));
            let config = self.config(room, &mut merged);
            let unseen = |since| self.may_have_changed(entry, since);
            let wants_more = told.as_ref().is_none_or(|told| {
                told.membership != entry.membership
                    || told.config.required != config.required
                    || told.depth < config.timeline_limit
            });
            let direct_changed = direct_changed.contains(room.0);
            if since.is_none_or(unseen) || wants_more || direct_changed || base.unread.contains(room.0) {
                news.push(News { entry: *entry, config, told, since, direct_changed });
            }
        }
        news
    }

    /// Of rooms that the client knows up to `since`, those where something may have happened.
    fn changed(&self, rooms: &RoaringBitmap, since: Position) -> RoaringBitmap {
        let activity = &self.inner.activity;
        let (changed, unknown) = activity.split_by_last_event(rooms.iter().map(RoomNumber), since);
        let mut all: RoaringBitmap = changed.into_iter().chain(unknown).map(|room| room.0).collect();
        let others = rooms.iter().filter(|room| activity.state_changed(RoomNumber(*room), since));
        all.extend(others);
        let elsewhere = self.rooms.rooms.iter().filter(|entry| entry.position > since);
        all.extend(elsewhere.map(|entry| entry.room.0).filter(|room| rooms.contains(*room)));
        all
    }

    fn may_have_changed(&self, entry: &UserRoomEntry, since: Position) -> bool {
        let activity = &self.inner.activity;
        entry.position > since
            || (entry.membership == Membership::Join
                && (activity.last_event(entry.room).is_none_or(|last| last > since)
                    || activity.state_changed(entry.room, since)))
    }

    /// Rooms that more may be wanted of than when they were in view before.
    fn with_other_wishes(&self, base: &State) -> RoaringBitmap {
        let mut rooms = RoaringBitmap::new();
        for (name, ListInView { config, rooms: now }) in &self.view.lists {
            match base.lists.get(name) {
                Some(before) if before.config == *config => rooms |= now - &before.rooms,
                _ => rooms |= now,
            }
        }
        let subscriptions = self.view.subscriptions.iter();
        let new = subscriptions.filter(|(room, config)| base.subscriptions.get(room) != Some(config));
        rooms.extend(new.map(|(room, _)| room.0));
        rooms
    }

    /// Rooms with something unread where somebody may have set a receipt.
    fn perhaps_read(&self, base: &State) -> RoaringBitmap {
        let (activity, receipts) = (&self.inner.activity, &self.inner.sources.receipts);
        let (user, since) = (self.request.caller.user, base.position);
        let own_changed = activity.user_data_changed(user, since);
        let perhaps = |room: RoomNumber| {
            (own_changed || activity.receipt_changed(room, since)) && receipts.may_have_changed(room, since)
        };
        let unread = &base.unread & &self.view.rooms;
        unread.iter().filter(|room| perhaps(RoomNumber(*room))).collect()
    }

    /// What is wanted of a room, by all lists that it is in view of, and by its subscription. Rooms of the same lists share it.
    fn config(&self, room: RoomNumber, merged: &mut BTreeMap<u128, Arc<Config>>) -> Arc<Config> {
        let lists = self.view.lists.values().enumerate().filter(|(_, list)| list.rooms.contains(room.0));
        let subscription = self.view.subscriptions.get(&room);
        let mut set = 0_u128;
        let mut configs: Vec<&Arc<Config>> = Vec::new();
        for (number, list) in lists {
            let bit = u32::try_from(number).ok().and_then(|number| 1_u128.checked_shl(number));
            set |= bit.unwrap_or_default();
            configs.push(&list.config);
        }
        configs.extend(subscription);
        let [first, others @ ..] = &configs[..] else { return Arc::default() };
        if others.iter().all(|other| other == first) {
            return Arc::clone(first);
        }
        if subscription.is_none()
            && let Some(known) = merged.get(&set)
        {
            return Arc::clone(known);
        }
        let config = others.iter().fold((***first).clone(), |config, other| config.with(other));
        let config = Arc::new(config);
        if subscription.is_none() {
            merged.insert(set, Arc::clone(&config));
        }
        config
    }
}
