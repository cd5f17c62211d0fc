//! The tree of rooms below a space (§Spaces, `GET /rooms/{roomId}/hierarchy`), as far as this server knows the rooms.
//!
//! A page is found by walking the tree again from its root and passing over what earlier pages showed: the token holds
//! no rooms. What each room shows, and its links, are kept in memory until something happens in it.

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use allod_storage::Position;
use ruma::{OwnedRoomId, RoomId, ServerName, room::RoomSummary};
use serde::Serialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{Room, Rooms, event::StoredEvent, send::Caller, shown::Shown};
use crate::database::{Corrupt, Error};

/// Most rooms looked at for one page, those of earlier pages included; the tree ends there.
const ROOMS_EXAMINED_MAX: usize = 5_000;
/// Most children of a space that are followed and shown.
const CHILDREN_MAX: usize = 1_000;
/// Longest `order` of a child that counts.
const ORDER_BYTES_MAX: usize = 50;

/// Which part of the tree to show.
#[derive(Clone, Debug)]
pub struct HierarchyQuery {
    /// The token of an earlier page.
    pub from: Option<String>,
    /// Most rooms on the page.
    pub limit: usize,
    /// How many levels below the root are shown; all if there is none.
    pub max_depth: Option<u64>,
    /// Whether only children that are suggested count.
    pub suggested_only: bool,
}

/// A page of the tree, depth first.
#[derive(Clone, Debug, Default)]
pub struct HierarchyPage {
    /// The rooms.
    pub rooms: Vec<HierarchyRoom>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

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

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// The server does not know the root, or the caller may not know of it; told alike.
    #[error("you may not see this room")]
    Forbidden,
    /// The token is not one of this server, or `max_depth` or `suggested_only` were others when it was given out.
    #[error("from is not a token of this query")]
    BadToken,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
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

    fn is_suggested(&self) -> bool {
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
    fn compare(&self, other: &Self) -> Ordering {
        let (mine, theirs) = (self.order(), other.order());
        mine.is_none()
            .cmp(&theirs.is_none())
            .then_with(|| mine.cmp(&theirs))
            .then_with(|| self.at_ms.cmp(&other.at_ms))
            .then_with(|| self.room_id.cmp(&other.room_id))
    }

    fn stripped(&self) -> Result<Box<RawValue>, Error> {
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

impl HierarchyQuery {
    /// The token of the page that begins behind so many rooms.
    fn token(&self, shown: usize) -> String {
        let depth = self.max_depth.map_or_else(|| "-".to_owned(), |depth| depth.to_string());
        format!("h{shown}_{depth}_{}", u8::from(self.suggested_only))
    }

    /// How many rooms earlier pages showed.
    fn passed_over(&self) -> Result<usize, HierarchyError> {
        let Some(from) = &self.from else { return Ok(0) };
        let shown = from.strip_prefix('h').and_then(|rest| rest.split('_').next()?.parse().ok());
        let shown = shown.ok_or(HierarchyError::BadToken)?;
        if self.token(shown) == *from { Ok(shown) } else { Err(HierarchyError::BadToken) }
    }
}

impl Rooms {
    /// A page of the rooms below a space, the space first. Rooms that the caller may not know of are left out, with what
    /// is below them; each room is shown once, so that loops end.
    pub async fn hierarchy(
        &self,
        caller: &Caller,
        space: &RoomId,
        query: &HierarchyQuery,
    ) -> Result<HierarchyPage, HierarchyError> {
        let passed_over = query.passed_over()?;
        let mut page = HierarchyPage::default();
        let mut seen: HashSet<OwnedRoomId> = HashSet::new();
        let mut waiting = vec![(space.to_owned(), 0_u64)];
        let mut shown_rooms = 0_usize;
        while let Some((room_id, depth)) = waiting.pop() {
            if seen.len() >= ROOMS_EXAMINED_MAX {
                break;
            }
            if !seen.insert(room_id.clone()) {
                continue;
            }
            let Some((room, at, shown)) = self.accessible(&room_id, caller).await? else { continue };
            if page.rooms.len() >= query.limit {
                page.next = Some(query.token(shown_rooms));
                return Ok(page);
            }
            let children = self.space_children(&room, at, &shown, query.suggested_only).await?;
            if query.max_depth.is_none_or(|max| depth < max) {
                let unseen = children.iter().rev().filter(|child| !seen.contains(&child.room_id));
                waiting.extend(unseen.map(|child| (child.room_id.clone(), depth.saturating_add(1))));
            }
            if shown_rooms >= passed_over {
                let children = children.iter().map(SpaceChild::stripped).collect::<Result<_, _>>()?;
                page.rooms.push(HierarchyRoom { summary: shown.summary(&room), children });
            }
            shown_rooms = shown_rooms.saturating_add(1);
        }
        if shown_rooms == 0 { Err(HierarchyError::Forbidden) } else { Ok(page) }
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

    async fn accessible(
        &self,
        room_id: &RoomId,
        caller: &Caller,
    ) -> Result<Option<(Arc<Room>, Position, Arc<Shown>)>, Error> {
        let Some(room) = self.find(room_id).await? else { return Ok(None) };
        let (at, shown) = self.shown_at(&room).await?;
        let accessible = self.is_accessible(&room, &shown, Some(caller)).await?;
        Ok(accessible.then_some((room, at, shown)))
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
