//! The room directory: published rooms with what they show of themselves.

use std::sync::Arc;

use ruma::{
    OwnedRoomAliasId, UInt,
    directory::{PublicRoomsChunk, PublicRoomsChunkInit, RoomTypeFilter},
    room::{JoinRuleKind, RoomType},
};
use serde_json::Value;

use super::{Room, Rooms};
use crate::{database::Error, numbers::RoomNumber, tables::rooms::HeadRecord};

/// What to look for.
#[derive(Clone, Debug)]
pub struct DirectoryQuery<'a> {
    /// Part of name, topic or alias.
    pub term: Option<&'a str>,
    /// Only rooms of these types; none given means all.
    pub room_types: &'a [RoomTypeFilter],
    /// Rooms to pass over.
    pub offset: usize,
    /// Most rooms to return.
    pub limit: usize,
}

/// A page of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryPage {
    /// The rooms, the largest first.
    pub rooms: Vec<PublicRoomsChunk>,
    /// How many match in all.
    pub total: usize,
}

impl Rooms {
    /// A page of the published rooms that match, the one with the most members first.
    pub async fn directory(&self, query: &DirectoryQuery<'_>) -> Result<DirectoryPage, Error> {
        let mut sized: Vec<(u32, RoomNumber)> = Vec::new();
        for number in self.published().await? {
            sized.push((self.head(number).await?.joined, number));
        }
        sized.sort_unstable_by(|left, right| right.0.cmp(&left.0).then(left.1.cmp(&right.1)));
        let everything = query.term.is_none() && query.room_types.is_empty();
        let mut page = DirectoryPage::default();
        for (_, number) in sized {
            let in_page = page.total >= query.offset && page.rooms.len() < query.limit;
            if everything && !in_page {
                page.total = page.total.saturating_add(1);
                continue;
            }
            let room = self.get(number).await?;
            let chunk = self.directory_entry(&room).await?;
            if matches(&chunk, query) {
                if in_page {
                    page.rooms.push(chunk);
                }
                page.total = page.total.saturating_add(1);
            }
        }
        Ok(page)
    }

    /// What a room shows of itself to those who are not in it.
    pub async fn directory_entry(&self, room: &Arc<Room>) -> Result<PublicRoomsChunk, Error> {
        let head: HeadRecord = self.head(room.number).await?;
        let text = |content: &Option<Value>, field: &str| {
            content.as_ref()?.get(field)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let history = self.current_content(room, "m.room.history_visibility", "").await?;
        let guests = self.current_content(room, "m.room.guest_access", "").await?;
        let mut chunk = PublicRoomsChunk::from(PublicRoomsChunkInit {
            num_joined_members: UInt::from(head.joined),
            room_id: room.room_id.clone(),
            world_readable: text(&history, "history_visibility").as_deref() == Some("world_readable"),
            guest_can_join: text(&guests, "guest_access").as_deref() == Some("can_join"),
        });
        chunk.name = text(&self.current_content(room, "m.room.name", "").await?, "name");
        chunk.topic = text(&self.current_content(room, "m.room.topic", "").await?, "topic");
        chunk.avatar_url =
            text(&self.current_content(room, "m.room.avatar", "").await?, "url").map(Into::into);
        chunk.canonical_alias =
            text(&self.current_content(room, "m.room.canonical_alias", "").await?, "alias")
                .and_then(|alias| OwnedRoomAliasId::try_from(alias).ok());
        let rule = text(&self.current_content(room, "m.room.join_rules", "").await?, "join_rule");
        chunk.join_rule = rule.map_or(JoinRuleKind::Invite, JoinRuleKind::from);
        chunk.room_type =
            text(&self.current_content(room, "m.room.create", "").await?, "type").map(RoomType::from);
        Ok(chunk)
    }
}

fn matches(chunk: &PublicRoomsChunk, query: &DirectoryQuery<'_>) -> bool {
    let type_matches = query.room_types.is_empty()
        || query.room_types.iter().any(|wanted| *wanted == RoomTypeFilter::from(chunk.room_type.clone()));
    let Some(term) = query.term.filter(|term| !term.is_empty()) else { return type_matches };
    let term = term.to_lowercase();
    let holds = |text: Option<&str>| text.is_some_and(|text| text.to_lowercase().contains(&term));
    type_matches
        && (holds(chunk.name.as_deref())
            || holds(chunk.topic.as_deref())
            || holds(chunk.canonical_alias.as_ref().map(|alias| alias.as_str())))
}
