//! What rooms show of themselves now, kept in memory for as long as nothing happens in them: directory, summaries and
//! hierarchies read it of many rooms at once.

use std::{collections::BTreeMap, sync::Arc};

use allod_storage::Position;
use quick_cache::{Weighter, sync::Cache};
use ruma::{
    OwnedRoomAliasId, UInt,
    directory::{PublicRoomsChunk, PublicRoomsChunkInit},
    room::{JoinRuleKind, RoomType},
};
use serde_json::{Map, Value};

use super::{Room, Rooms, hierarchy::SpaceChild};
use crate::{
    database::Error,
    numbers::{EventNumber, RoomNumber},
    tables::{
        Stamped,
        rooms::{HeadRecord, RoomHead},
    },
};

/// The types of state that a room shows, all with an empty state key.
const KINDS: [&str; 9] = [
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.create",
    "m.room.encryption",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
];
/// Rooms that are kept at most, and the bytes that they may take together.
const SHOWN_KEPT_MAX: usize = 20_000;
/// See [`SHOWN_KEPT_MAX`].
const SHOWN_BYTES_MAX: u64 = 8 << 20;

/// The current state that a summary is made from.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The newest end of the room when it was read.
    pub(crate) head: HeadRecord,
    contents: BTreeMap<String, Map<String, Value>>,
    /// Bytes of the contents as JSON.
    bytes: usize,
}

impl Shown {
    /// A text in a piece of state; an empty one is none.
    pub(super) fn text(&self, kind: &str, field: &str) -> Option<&str> {
        self.contents.get(kind)?.get(field)?.as_str().filter(|text| !text.is_empty())
    }

    /// The content of a piece of state.
    pub(crate) fn content(&self, kind: &str) -> Option<&Map<String, Value>> {
        self.contents.get(kind)
    }

    /// The room's entry in the directory.
    pub(super) fn directory_entry(&self, room: &Room) -> PublicRoomsChunk {
        let mut chunk = PublicRoomsChunk::from(PublicRoomsChunkInit {
            num_joined_members: UInt::from(self.head.joined),
            room_id: room.room_id.clone(),
            world_readable: self.is_world_readable(),
            guest_can_join: self.text("m.room.guest_access", "guest_access") == Some("can_join"),
        });
        chunk.name = self.text("m.room.name", "name").map(str::to_owned);
        chunk.topic = self.text("m.room.topic", "topic").map(str::to_owned);
        chunk.avatar_url = self.text("m.room.avatar", "url").map(Into::into);
        let alias = self.text("m.room.canonical_alias", "alias");
        chunk.canonical_alias = alias.and_then(|alias| OwnedRoomAliasId::try_from(alias.to_owned()).ok());
        chunk.join_rule = JoinRuleKind::from(self.join_rule());
        chunk.room_type = self.text("m.room.create", "type").map(RoomType::from);
        chunk
    }
}

#[derive(Clone)]
pub(super) struct ByBytes;

impl Weighter<RoomNumber, (Position, Arc<Shown>)> for ByBytes {
    fn weight(&self, _room: &RoomNumber, kept: &(Position, Arc<Shown>)) -> u64 {
        u64::try_from(kept.1.bytes).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(500)
    }
}

impl Weighter<RoomNumber, (Position, Arc<[SpaceChild]>)> for ByBytes {
    fn weight(&self, _room: &RoomNumber, kept: &(Position, Arc<[SpaceChild]>)) -> u64 {
        u64::try_from(kept.1.len()).unwrap_or(u64::MAX).saturating_mul(400).saturating_add(200)
    }
}

/// What is kept, each with the room's newest position when it was read.
pub(super) struct Kept {
    shown: Cache<RoomNumber, (Position, Arc<Shown>), ByBytes>,
    pub(super) children: Cache<RoomNumber, (Position, Arc<[SpaceChild]>), ByBytes>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            shown: Cache::with_weighter(SHOWN_KEPT_MAX, SHOWN_BYTES_MAX, ByBytes),
            children: Cache::with_weighter(SHOWN_KEPT_MAX, SHOWN_BYTES_MAX, ByBytes),
        }
    }
}

impl Rooms {
    /// What a room shows now, and the position of its newest event.
    pub(super) async fn shown_at(&self, room: &Arc<Room>) -> Result<(Position, Arc<Shown>), Error> {
        let head = self.core.database.get::<RoomHead>(&room.number).await?;
        self.shown_with(room, head.unwrap_or_else(no_head)).await
    }

    /// What a room shows now.
    pub(crate) async fn shown_state(&self, room: &Arc<Room>) -> Result<Arc<Shown>, Error> {
        Ok(self.shown_at(room).await?.1)
    }

    /// What rooms show now, in their order; what is not kept is read in as few reads as there can be.
    pub(super) async fn shown_states(
        &self,
        heads: &[(RoomNumber, Stamped<HeadRecord>)],
    ) -> Result<Vec<(Arc<Room>, Arc<Shown>)>, Error> {
        let new = heads.iter().filter(|(number, head)| self.kept(*number, head.position).is_none());
        let new: Vec<_> = new.map(|(number, head)| (*number, head.value.root)).collect();
        self.core.states.prefetch(&new).await?;
        self.prefetch(&heads.iter().map(|(number, _)| *number).collect::<Vec<_>>()).await?;
        let mut shown = Vec::with_capacity(heads.len());
        for (number, head) in heads {
            let room = self.get(*number).await?;
            let state = self.shown_with(&room, head.clone()).await?.1;
            shown.push((room, state));
        }
        Ok(shown)
    }

    async fn shown_with(
        &self,
        room: &Arc<Room>,
        head: Stamped<HeadRecord>,
    ) -> Result<(Position, Arc<Shown>), Error> {
        if let Some(shown) = self.kept(room.number, head.position) {
            return Ok((head.position, shown));
        }
        let keys: Vec<_> = KINDS.iter().map(|kind| room.hash_key.entry_key(kind, "")).collect();
        let found = self.core.states.get_many(room, head.value.root, &keys).await?;
        let numbers: Vec<EventNumber> = found.into_iter().flatten().collect();
        let (mut contents, mut bytes) = (BTreeMap::new(), 0_usize);
        for event in self.core.events.load_many(room.number, &numbers).await? {
            bytes = bytes.saturating_add(event.json.len());
            contents.insert(event.record.kind.clone(), event.pdu(room)?.content_as().unwrap_or_default());
        }
        let position = head.position;
        let shown = Arc::new(Shown { head: head.value, contents, bytes });
        // An event that was just redacted may have come from memory in its old form.
        if !self.ends_in_redaction(room, &shown.head).await? {
            self.core.kept.shown.insert(room.number, (position, Arc::clone(&shown)));
        }
        Ok((position, shown))
    }

    fn kept(&self, room: RoomNumber, position: Position) -> Option<Arc<Shown>> {
        let (kept, shown) = self.core.kept.shown.get(&room)?;
        (kept == position).then_some(shown)
    }

    pub(super) async fn ends_in_redaction(&self, room: &Room, head: &HeadRecord) -> Result<bool, Error> {
        let newest = self.core.events.load_many(room.number, &head.extremities).await?;
        Ok(newest.iter().any(|event| event.record.kind == "m.room.redaction"))
    }
}

fn no_head() -> Stamped<HeadRecord> {
    Stamped { position: Position::ZERO, value: HeadRecord::default() }
}
