//! Spaces, one level at a time (§Spaces), as far as this server knows the rooms.
//!
//! What each room shows, and its links, are kept in memory until something happens in it.

use std::{cmp::Ordering, sync::Arc};

use allod_storage::Position;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, room::RoomSummary};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{Room, Rooms, event::StoredEvent, send::Caller, shown::Shown};
use crate::database::{Corrupt, Error};

/// Most children of a space that are followed and shown.
pub(crate) const CHILDREN_MAX: usize = 1_000;
/// Longest `order` of a child that counts.
const ORDER_BYTES_MAX: usize = 50;

/// A room in the tree.
#[derive(Clone, Debug)]
pub struct HierarchyRoom {
    /// What it shows of itself.
    pub summary: RoomSummary,
    /// The stripped `m.space.child` events of a space, each with its time.
    pub children: Vec<Box<RawValue>>,
}

/// One level of the tree, for another server.
#[derive(Clone, Debug)]
pub struct ServedHierarchy {
    /// The space.
    pub room: HierarchyRoom,
    /// The rooms below it that the server may know of.
    pub children: Vec<RoomSummary>,
    /// Those that it may not know of.
    pub inaccessible: Vec<OwnedRoomId>,
}

/// What is known here of a room in the tree.
#[derive(Clone, Debug)]
pub(crate) enum LocalSpace {
    /// The caller may not know of it.
    Hidden,
    /// What it shows, and the links to the rooms below it.
    Shown(Box<RoomSummary>, Vec<SpaceChild>),
}

/// A link from a space to a room below it.
#[derive(Clone, Debug)]
pub(crate) struct SpaceChild {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) content: Map<String, Value>,
    sender: String,
    at_ms: u64,
}

impl SpaceChild {
    /// The link that an event sets; `None` if it sets none, as one that was removed.
    fn read(room: &Room, event: &StoredEvent) -> Result<Option<Self>, Error> {
        let pdu = event.pdu(room)?;
        let content: Map<String, Value> = pdu.content_as().unwrap_or_default();
        let room_id = pdu.state_key.as_deref().and_then(|key| RoomId::parse(key).ok());
        let via = content.get("via").and_then(Value::as_array);
        let has_via = via.is_some_and(|via| via.iter().any(Value::is_string));
        let (Some(room_id), true) = (room_id, has_via) else { return Ok(None) };
        let at_ms = event.record.origin_server_ts;
        Ok(Some(Self { room_id, content, sender: pdu.sender.to_string(), at_ms }))
    }

    /// The link that another server says there is; `None` if that is none.
    pub(crate) fn read_stripped(json: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Stripped {
            content: Map<String, Value>,
            origin_server_ts: u64,
            sender: OwnedUserId,
            state_key: OwnedRoomId,
        }
        let Stripped { content, origin_server_ts, sender, state_key } =
            serde_json::from_str(json.get()).ok()?;
        let child = Self { room_id: state_key, content, sender: sender.into(), at_ms: origin_server_ts };
        (!child.via().is_empty()).then_some(child)
    }

    /// The servers that the link names.
    pub(crate) fn via(&self) -> Vec<OwnedServerName> {
        let via = self.content.get("via").and_then(Value::as_array).into_iter().flatten();
        via.filter_map(|server| ServerName::parse(server.as_str()?).ok()).collect()
    }

    pub(crate) fn is_suggested(&self) -> bool {
        self.content.get("suggested") == Some(&Value::Bool(true))
    }

    /// The place that the space gives the child, if it is well-formed.
    fn order(&self) -> Option<&str> {
        let order = self.content.get("order")?.as_str()?;
        let is_valid =
            order.len() <= ORDER_BYTES_MAX && order.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        is_valid.then_some(order)
    }

    /// Children with an order come first, then the older ones.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let (mine, theirs) = (self.order(), other.order());
        mine.is_none()
            .cmp(&theirs.is_none())
            .then_with(|| mine.cmp(&theirs))
            .then_with(|| self.at_ms.cmp(&other.at_ms))
            .then_with(|| self.room_id.cmp(&other.room_id))
    }

    pub(crate) fn stripped(&self) -> Result<Box<RawValue>, Error> {
        #[derive(Serialize)]
        struct Stripped<'a> {
            content: &'a Map<String, Value>,
            origin_server_ts: u64,
            sender: &'a str,
            state_key: &'a RoomId,
            r#type: &'static str,
        }
        let stripped = Stripped {
            content: &self.content,
            origin_server_ts: self.at_ms,
            sender: &self.sender,
            state_key: &self.room_id,
            r#type: "m.space.child",
        };
        to_raw_value(&stripped)
            .map_err(|_| Error::Corrupt("EventJson", Corrupt("a child of a space is not JSON")))
    }
}

impl Rooms {
    /// What this server itself can say of a room in the tree: `None` where none of its users is in it, so that others
    /// have to be asked.
    pub(crate) async fn local_space(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Option<LocalSpace>, Error> {
        let Some(room) = self.find(room_id).await? else { return Ok(None) };
        if !self.is_joined(room.number, caller.user).await? && !self.has_local_member(&room).await? {
            return Ok(None);
        }
        let (at, shown) = self.shown_at(&room).await?;
        if !self.is_accessible(&room, &shown, Some(caller)).await? {
            return Ok(Some(LocalSpace::Hidden));
        }
        let children = self.space_children(&room, at, &shown, suggested_only).await?;
        Ok(Some(LocalSpace::Shown(Box::new(shown.summary(&room)), children)))
    }

    /// A space and the rooms right below it, for another server, which filters them for its users. `None` if the server
    /// may not know of the space.
    pub async fn hierarchy_for(
        &self,
        server: &ServerName,
        space: &RoomId,
        suggested_only: bool,
    ) -> Result<Option<ServedHierarchy>, Error> {
        let Some(room) = self.find(space).await? else { return Ok(None) };
        let (at, shown) = self.shown_at(&room).await?;
        if !self.has_local_member(&room).await? || !self.is_accessible_to(&room, &shown, server).await? {
            return Ok(None);
        }
        let children = self.space_children(&room, at, &shown, suggested_only).await?;
        let (mut known, mut inaccessible) = (Vec::new(), Vec::new());
        for child in &children {
            let Some(room) = self.find(&child.room_id).await? else { continue };
            if !self.has_local_member(&room).await? {
                continue;
            }
            let shown = self.shown_state(&room).await?;
            if self.is_accessible_to(&room, &shown, server).await? {
                known.push(shown.summary(&room));
            } else {
                inaccessible.push(room.room_id.clone());
            }
        }
        let children = children.iter().map(SpaceChild::stripped).collect::<Result<_, _>>()?;
        let room = HierarchyRoom { summary: shown.summary(&room), children };
        Ok(Some(ServedHierarchy { room, children: known, inaccessible }))
    }

    /// The links of a space to the rooms below it, in their order. Other rooms have none that count. `at` is where the
    /// room's newest event stood when `shown` was read.
    pub(crate) async fn space_children(
        &self,
        room: &Room,
        at: Position,
        shown: &Shown,
        suggested_only: bool,
    ) -> Result<Vec<SpaceChild>, Error> {
        if !shown.is_space() {
            return Ok(Vec::new());
        }
        let all = match self.core.kept.children.get(&room.number) {
            Some((kept, children)) if kept == at => children,
            _ => self.read_children(room, at, shown).await?,
        };
        let wanted = all.iter().filter(|child| !suggested_only || child.is_suggested());
        Ok(wanted.take(CHILDREN_MAX).cloned().collect())
    }

    async fn read_children(
        &self,
        room: &Room,
        at: Position,
        shown: &Shown,
    ) -> Result<Arc<[SpaceChild]>, Error> {
        const KIND: &str = "m.space.child";
        let entries = self.core.states.all(room, shown.head.root, Some(KIND)).await?;
        let numbers: Vec<_> = entries.into_iter().map(|(_, number)| number).collect();
        let mut children = Vec::new();
        for event in self.core.events.load_many(room.number, &numbers).await? {
            if event.record.kind == KIND {
                children.extend(SpaceChild::read(room, &event)?);
            }
        }
        children.sort_by(SpaceChild::compare);
        let children: Arc<[SpaceChild]> = children.into();
        if !self.ends_in_redaction(room, &shown.head).await? {
            self.core.kept.children.insert(room.number, (at, Arc::clone(&children)));
        }
        Ok(children)
    }
}
