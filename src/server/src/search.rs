//! Searching the messages, names and topics of rooms that a user has been in.
//!
//! The index is a table: the rows of a word in a room stand in the order of history, and several words are searched by
//! going through their rows side by side, from the newest on. What is found is shown to nobody who may not see it: each
//! event is loaded, its text is compared, and the same rule decides that decides about history. The newest
//! [`MATCHES_MAX`] are looked at, whatever the order asked for.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-side-search>

use std::{collections::BinaryHeap, sync::Arc};

use allod_matrix::words;
use allod_storage::Position;
use ruma::OwnedRoomId;

use crate::{
    database::{Database, Error},
    numbers::{EventNumber, RoomNumber},
    rooms::{EventFilter, Rooms, access::View, event::StoredEvent, send::Caller, words::SearchField},
    sync::Sync,
    tables::rooms::Membership,
};

mod matching;
mod rank;

use self::matching::Lane;

/// Most matches that are looked at: counted, ranked, and paged through.
pub const MATCHES_MAX: usize = 1_000;
/// Most words of a search; others are left out.
const WORDS_MAX: usize = 20;
/// Matches of a room that are looked for at once.
const STEP: usize = 16;

/// What is looked for.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The words.
    pub term: &'a str,
    /// In which texts.
    pub fields: &'a [SearchField],
    /// Of which events.
    pub filter: &'a EventFilter,
    /// In these rooms alone.
    pub rooms: Option<&'a [OwnedRoomId]>,
    /// Not in these.
    pub not_rooms: &'a [OwnedRoomId],
    /// The newest first, not the best.
    pub recent: bool,
    /// How many on a page.
    pub limit: usize,
    /// Where the page begins, as an earlier page said.
    pub from: Option<SearchToken>,
}

/// Where a page begins: behind so many matches of those that had arrived by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchToken {
    /// Up to which position events count.
    pub upto: u64,
    /// How many matches come before.
    pub offset: usize,
}

/// A match.
#[derive(Clone, Debug)]
pub struct Match {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// The view through which the user sees it.
    pub view: Arc<View>,
    /// How well it matches.
    pub rank: f64,
}

/// A page of matches.
#[derive(Clone, Debug, Default)]
pub struct SearchPage {
    /// All matches, [`MATCHES_MAX`] at most.
    pub count: usize,
    /// Those of the page.
    pub matches: Vec<Match>,
    /// Where the next page begins; none behind a page that is not full.
    pub next: Option<SearchToken>,
    /// The words that were looked for.
    pub words: Vec<String>,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Search {
    database: Database,
    rooms: Rooms,
    sync: Sync,
}

/// The newest match of a room that was not taken yet.
struct Head {
    ts: u64,
    lane: usize,
    found: Match,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.ts, self.found.event.position).cmp(&(other.ts, other.found.event.position))
    }
}

impl Search {
    /// Over the rooms, and who is in them.
    pub fn new(database: Database, rooms: Rooms, sync: Sync) -> Self {
        Self { database, rooms, sync }
    }

    /// A page of what the caller may see of what is looked for.
    pub async fn search(&self, caller: &Caller, wanted: &Wanted<'_>) -> Result<SearchPage, Error> {
        let mut words = words::asked(wanted.term);
        words.truncate(WORDS_MAX);
        let head = self.database.store().head().get();
        let from = wanted.from.unwrap_or(SearchToken { upto: head, offset: 0 });
        if words.is_empty() || wanted.fields.is_empty() {
            return Ok(SearchPage { words, ..SearchPage::default() });
        }
        let mut matches = self.matches(caller, wanted, &words, Position::new(from.upto)).await?;
        let count = matches.len();
        if !wanted.recent {
            rank::sort(&mut matches, &words)?;
        }
        let page: Vec<Match> = matches.into_iter().skip(from.offset).take(wanted.limit).collect();
        let is_full = !page.is_empty() && page.len() >= wanted.limit;
        let offset = from.offset.saturating_add(page.len());
        let next = is_full.then_some(SearchToken { upto: from.upto, offset });
        Ok(SearchPage { count, matches: page, next, words })
    }

    /// The newest matches over all rooms, the newest first.
    async fn matches(
        &self,
        caller: &Caller,
        wanted: &Wanted<'_>,
        words: &[String],
        upto: Position,
    ) -> Result<Vec<Match>, Error> {
        let ignored = self.sync.ignored(caller.user).await?;
        let hashes: Vec<_> = words.iter().map(|word| self.rooms.word_hash(word)).collect();
        let mut lanes = Vec::new();
        for room in self.rooms_of(caller, wanted).await? {
            lanes.push(Lane::new(room, &hashes, wanted.fields));
        }
        // Most rooms have nothing to say; who has is looked at room by room.
        let lanes = matching::with_all_words(&self.database, lanes).await?;
        let mut lanes: Vec<(Lane, Option<Arc<View>>)> = lanes.into_iter().map(|lane| (lane, None)).collect();
        let mut heads = BinaryHeap::new();
        let accepts = |view: &View, event: &StoredEvent| -> Result<bool, Error> {
            if event.position > upto || ignored.users.contains(&event.record.sender) {
                return Ok(false);
            }
            let pdu = event.pdu(&view.room)?;
            Ok(wanted.filter.matches(&pdu) && rank::holds(&pdu, words, wanted.fields))
        };
        for index in 0..lanes.len() {
            heads.extend(self.advance(caller, &mut lanes, index, &accepts).await?);
        }
        let mut found = Vec::new();
        while let Some(head) = heads.pop() {
            found.push(head.found);
            if found.len() >= MATCHES_MAX {
                break;
            }
            heads.extend(self.advance(caller, &mut lanes, head.lane, &accepts).await?);
        }
        Ok(found)
    }

    /// The next match of a room.
    async fn advance(
        &self,
        caller: &Caller,
        lanes: &mut [(Lane, Option<Arc<View>>)],
        index: usize,
        accepts: &(dyn Fn(&View, &StoredEvent) -> Result<bool, Error> + Send + std::marker::Sync),
    ) -> Result<Option<Head>, Error> {
        let Some((lane, view)) = lanes.get_mut(index) else { return Ok(None) };
        loop {
            if let Some(event) = lane.ready.pop_front() {
                let Some(view) = view.clone() else { return Ok(None) };
                let ts = event.record.origin_server_ts;
                return Ok(Some(Head { ts, lane: index, found: Match { event, view, rank: 1.0 } }));
            }
            let numbers: Vec<EventNumber> = lane.step(&self.database, STEP).await?;
            if numbers.is_empty() {
                return Ok(None);
            }
            let view = if let Some(view) = view {
                Arc::clone(view)
            } else {
                let room = self.rooms.get(lane.room).await?;
                let new = Arc::new(self.rooms.view_of(room, caller).await?);
                Arc::clone(view.insert(new))
            };
            let events = self.rooms.events().load_many(lane.room, &numbers).await?;
            let visible = self.rooms.visible(&view, &events).await?;
            for (event, visible) in events.into_iter().zip(visible) {
                if visible && event.redacted_by.is_none() && accepts(&view, &event)? {
                    lane.ready.push_back(event);
                }
            }
        }
    }

    /// The rooms that are searched: those that the caller is in, or was and has not forgotten.
    async fn rooms_of(&self, caller: &Caller, wanted: &Wanted<'_>) -> Result<Vec<RoomNumber>, Error> {
        let memberships = self.rooms.memberships_of(caller.user).await?;
        let been = |room: &RoomNumber| {
            matches!(memberships.get(room), Some(Membership::Join | Membership::Leave | Membership::Ban))
        };
        let mut rooms = Vec::new();
        match wanted.rooms {
            Some(named) => {
                for room_id in named {
                    rooms.extend(self.rooms.find(room_id).await?.map(|room| room.number));
                }
                rooms.sort_unstable();
                rooms.dedup();
            }
            None => rooms.extend(memberships.keys().copied()),
        }
        rooms.retain(been);
        for room_id in wanted.not_rooms {
            if let Some(room) = self.rooms.find(room_id).await? {
                rooms.retain(|other| *other != room.number);
            }
        }
        Ok(rooms)
    }
}

#[cfg(test)]
mod tests;
