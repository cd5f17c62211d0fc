//! The room directory: published rooms with what they show of themselves.

use std::cmp::Reverse;

use ruma::directory::{PublicRoomsChunk, RoomTypeFilter};

use super::Rooms;
use crate::{
    database::Error,
    numbers::RoomNumber,
    tables::{
        Stamped,
        rooms::{HeadRecord, RoomHead},
    },
};

/// Rooms that are read at once.
const CHUNK_ROOMS: usize = 1000;

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
        let numbers = self.published().await?;
        let heads = self.core.database.get_all::<RoomHead>(&numbers).await?;
        let sized = numbers.into_iter().zip(heads).filter_map(|(number, head)| Some((number, head?)));
        let mut sized: Vec<(RoomNumber, Stamped<HeadRecord>)> = sized.collect();
        sized.sort_unstable_by_key(|(number, head)| (Reverse(head.value.joined), *number));
        if query.term.is_none_or(str::is_empty) && query.room_types.is_empty() {
            let total = sized.len();
            let on_page: Vec<_> = sized.into_iter().skip(query.offset).take(query.limit).collect();
            let shown = self.shown_states(&on_page).await?;
            let rooms = shown.iter().map(|(room, shown)| shown.directory_entry(room)).collect();
            return Ok(DirectoryPage { rooms, total });
        }
        let mut page = DirectoryPage::default();
        for chunk in sized.chunks(CHUNK_ROOMS) {
            for (room, shown) in self.shown_states(chunk).await? {
                let entry = shown.directory_entry(&room);
                if !matches(&entry, query) {
                    continue;
                }
                if page.total >= query.offset && page.rooms.len() < query.limit {
                    page.rooms.push(entry);
                }
                page.total = page.total.saturating_add(1);
            }
        }
        Ok(page)
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
