//! What lists are filtered by, kept in memory: whatever it was read from may have changed only if the log told so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allod_storage::Position;
use quick_cache::sync::Cache;
use roaring::RoaringBitmap;
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;

use crate::{
    database::Error,
    numbers::{EventNumber, RoomNumber, UserNumber},
    sync::{Inner, memberships::UserRoomEntry},
};

/// Users whose tags and direct rooms are kept.
const USERS_KEPT_MAX: usize = 10_000;
/// Rooms whose type is kept.
const ROOMS_KEPT_MAX: usize = 50_000;
/// Spaces whose children are kept.
const SPACES_KEPT_MAX: usize = 2_000;

/// A value, and as of when.
type AsOf<T> = (Position, Arc<T>);
/// A room's type.
pub(super) type RoomType = Option<Arc<str>>;
/// The tags of a user's rooms.
pub(super) type Tags = BTreeMap<RoomNumber, BTreeSet<String>>;

/// What is kept.
pub(in crate::sync) struct Facts {
    was_in: Cache<(UserNumber, RoomNumber), (EventNumber, bool)>,
    types: Cache<RoomNumber, RoomType>,
    tags: Cache<UserNumber, AsOf<Tags>>,
    direct: Cache<UserNumber, AsOf<RoaringBitmap>>,
    children: Cache<RoomNumber, AsOf<RoaringBitmap>>,
    /// The last event of rooms that moves them up in lists, and as of when.
    pub(super) bumps: Cache<RoomNumber, (Position, Position)>,
}

impl Facts {
    /// Nothing yet.
    pub(in crate::sync) fn new() -> Self {
        Self {
            was_in: Cache::new(ROOMS_KEPT_MAX),
            types: Cache::new(ROOMS_KEPT_MAX),
            tags: Cache::new(USERS_KEPT_MAX),
            direct: Cache::new(USERS_KEPT_MAX),
            children: Cache::new(SPACES_KEPT_MAX),
            bumps: Cache::new(ROOMS_KEPT_MAX),
        }
    }

    /// Whether a user was in a room before the event by which they are not.
    pub(super) fn was_in(&self, user: UserNumber, entry: &UserRoomEntry) -> Option<bool> {
        let (event, was_in) = self.was_in.get(&(user, entry.room))?;
        (event == entry.event).then_some(was_in)
    }

    /// Keeps that.
    pub(super) fn note_was_in(&self, user: UserNumber, entry: &UserRoomEntry, was_in: bool) {
        self.was_in.insert((user, entry.room), (entry.event, was_in));
    }
}

impl Inner {
    /// The type of a room that somebody here is or was in.
    pub(super) async fn room_type(&self, number: RoomNumber) -> Result<RoomType, Error> {
        #[derive(Default, Deserialize)]
        struct Create {
            r#type: Option<String>,
        }
        if let Some(known) = self.facts.types.get(&number) {
            return Ok(known);
        }
        let room = self.sources.rooms.get(number).await?;
        let root = self.sources.rooms.current_root(number).await?;
        let Some(event) = self.sources.rooms.states().get(&room, root, "m.room.create", "").await? else {
            return Ok(None);
        };
        let event = self.sources.rooms.events().load(number, event).await?;
        let create: Create = event.pdu(&room)?.content_as().unwrap_or_default();
        let kind: RoomType = create.r#type.map(Into::into);
        self.facts.types.insert(number, kind.clone());
        Ok(kind)
    }

    /// The rooms that the user's `m.direct` names.
    pub(super) async fn direct(&self, user: UserNumber) -> Result<Arc<RoaringBitmap>, Error> {
        if let Some((at, known)) = self.facts.direct.get(&user)
            && !self.activity.user_data_changed(user, at)
        {
            return Ok(known);
        }
        let at = self.activity.followed();
        let datum = self.sources.account_data.get(user, None, "m.direct").await?;
        let content: BTreeMap<String, serde_json::Value> =
            datum.and_then(|datum| serde_json::from_str(datum.content.get()).ok()).unwrap_or_default();
        let named = content.values().filter_map(serde_json::Value::as_array).flatten();
        let named: BTreeSet<&str> = named.filter_map(serde_json::Value::as_str).collect();
        let mut direct = RoaringBitmap::new();
        for id in named {
            let Ok(id) = OwnedRoomId::try_from(id) else { continue };
            direct.extend(self.room_named(&id).await?.map(|room| room.0));
        }
        let direct = Arc::new(direct);
        self.facts.direct.insert(user, (at, Arc::clone(&direct)));
        Ok(direct)
    }

    /// The tags that the user gave to rooms.
    pub(super) async fn room_tags(&self, user: UserNumber) -> Result<Arc<Tags>, Error> {
        #[derive(Default, Deserialize)]
        struct Content {
            #[serde(default)]
            tags: BTreeMap<String, serde_json::Value>,
        }
        if let Some((at, known)) = self.facts.tags.get(&user)
            && !self.activity.user_data_changed(user, at)
        {
            return Ok(known);
        }
        let at = self.activity.followed();
        let data = self.sources.account_data.changes(user, None, Position::new(u64::MAX)).await?;
        let mut tags = Tags::new();
        for datum in data.into_iter().filter(|datum| datum.event_type == "m.tag") {
            let Some(room) = datum.room else { continue };
            let content: Content = serde_json::from_str(datum.content.get()).unwrap_or_default();
            tags.insert(room, content.tags.into_keys().collect());
        }
        let tags = Arc::new(tags);
        self.facts.tags.insert(user, (at, Arc::clone(&tags)));
        Ok(tags)
    }

    /// The rooms that a space has now.
    pub(super) async fn children(&self, space: RoomNumber) -> Result<Arc<RoaringBitmap>, Error> {
        #[derive(Default, Deserialize)]
        struct Child {
            #[serde(default)]
            via: Vec<String>,
        }
        if let Some((at, known)) = self.facts.children.get(&space)
            && !self.activity.state_changed(space, at)
        {
            return Ok(known);
        }
        let at = self.activity.followed();
        let rooms = &self.sources.rooms;
        let room = rooms.get(space).await?;
        let root = rooms.current_root(space).await?;
        let entries = rooms.states().all(&room, root, Some("m.space.child")).await?;
        let numbers: Vec<_> = entries.into_iter().map(|(_, event)| event).collect();
        let mut children = RoaringBitmap::new();
        for event in rooms.events().load_many(space, &numbers).await? {
            let child: Child = event.pdu(&room)?.content_as().unwrap_or_default();
            let id = event.record.state_key.as_deref().and_then(|key| RoomId::parse(key).ok());
            let (Some(id), false) = (id, child.via.is_empty() || event.record.kind != "m.space.child") else {
                continue;
            };
            children.extend(self.room_named(&id).await?.map(|room| room.0));
        }
        let children = Arc::new(children);
        self.facts.children.insert(space, (at, Arc::clone(&children)));
        Ok(children)
    }
}
