//! Events of a room in which all words stand: their rows are gone through side by side, from the newest on.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    database::{Database, Error, Range},
    numbers::{EventNumber, RoomNumber},
    rooms::{event::StoredEvent, words::SearchField},
    tables::search::{SearchPosting, WordHash},
};

/// Rows of a word that are read at once.
const PAGE_ROWS: usize = 64;
/// Rooms whose first rows are read at once.
const ROOMS_AT_ONCE: usize = 200;

/// A place in the history of a room: depth, then number.
type Place = (u64, EventNumber);

/// No place is newer.
const NEWEST: Place = (u64::MAX, EventNumber(u32::MAX));

/// One room under search.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) room: RoomNumber,
    /// Found events that were not taken yet.
    pub(super) ready: VecDeque<Arc<StoredEvent>>,
    words: Vec<Rows>,
    /// Bits of the texts that count.
    fields: u8,
    ended: bool,
}

/// The rows of a word that come next, the newest first.
#[derive(Debug)]
struct Rows {
    word: WordHash,
    page: VecDeque<(Place, u8)>,
    /// What is not older than this has been looked at.
    before: Place,
    /// Whether there are no more behind the page.
    complete: bool,
}

impl Lane {
    pub(super) fn new(room: RoomNumber, words: &[WordHash], fields: &[SearchField]) -> Self {
        let words = words.iter().map(|word| Rows {
            word: *word,
            page: VecDeque::new(),
            before: NEWEST,
            complete: false,
        });
        Self {
            room,
            ready: VecDeque::new(),
            words: words.collect(),
            fields: fields.iter().fold(0, |bits, field| bits | field.bit()),
            ended: false,
        }
    }

    /// The next events in which all words stand, `most` at most; none at the end.
    pub(super) async fn step(&mut self, database: &Database, most: usize) -> Result<Vec<EventNumber>, Error> {
        let mut found = Vec::new();
        while found.len() < most
            && let Some((_, number)) = self.next(database).await?
        {
            found.push(number);
        }
        Ok(found)
    }

    async fn next(&mut self, database: &Database) -> Result<Option<Place>, Error> {
        if self.ended {
            return Ok(None);
        }
        let Some(mut candidate) = self.first(database).await? else {
            self.ended = true;
            return Ok(None);
        };
        loop {
            // Every word must stand at the candidate; the oldest place that one of them has is the next candidate.
            let mut agreed = true;
            for index in 0..self.words.len() {
                let Some(place) = self.seek(database, index, candidate).await? else {
                    self.ended = true;
                    return Ok(None);
                };
                if place < candidate {
                    (candidate, agreed) = (place, false);
                }
            }
            if agreed {
                for rows in &mut self.words {
                    rows.pass();
                }
                return Ok(Some(candidate));
            }
        }
    }

    async fn first(&mut self, database: &Database) -> Result<Option<Place>, Error> {
        self.seek(database, 0, NEWEST).await
    }

    /// The newest place of a word that is not newer than this.
    async fn seek(&mut self, database: &Database, index: usize, upto: Place) -> Result<Option<Place>, Error> {
        let (room, fields) = (self.room, self.fields);
        let Some(rows) = self.words.get_mut(index) else { return Ok(None) };
        loop {
            while let Some((place, bits)) = rows.page.front() {
                if *place <= upto && bits & fields != 0 {
                    return Ok(Some(*place));
                }
                rows.pass();
                if rows.page.is_empty() && !rows.complete {
                    rows.read(database, room, upto).await?;
                }
            }
            if rows.complete {
                return Ok(None);
            }
            rows.read(database, room, upto).await?;
        }
    }
}

impl Rows {
    /// The first row has been looked at.
    fn pass(&mut self) {
        if let Some((place, _)) = self.page.pop_front() {
            self.before = place;
        }
    }

    /// Reads the next rows that are not newer than a place.
    async fn read(&mut self, database: &Database, room: RoomNumber, upto: Place) -> Result<(), Error> {
        let page = database.scan(&range(room, self.word, self.before.min(after(upto)))).await?;
        self.complete = !page.more;
        self.page =
            page.rows.into_iter().map(|((_, _, depth, number), row)| ((depth, number), row.fields)).collect();
        Ok(())
    }
}

/// The place just behind another.
fn after((depth, number): Place) -> Place {
    match number.0.checked_add(1) {
        Some(number) => (depth, EventNumber(number)),
        None => (depth.saturating_add(1), EventNumber(0)),
    }
}

fn range(room: RoomNumber, word: WordHash, before: Place) -> Range<SearchPosting> {
    Range::between(&(room, word), &(room, word, before.0, before.1)).reversed().limit(PAGE_ROWS)
}

/// The rooms in which every word stands somewhere.
pub(super) async fn with_all_words(database: &Database, mut lanes: Vec<Lane>) -> Result<Vec<Lane>, Error> {
    let count = lanes.first().map_or(0, |lane| lane.words.len());
    for index in 0..count {
        let mut kept = Vec::new();
        while !lanes.is_empty() {
            let part: Vec<Lane> = lanes.drain(..ROOMS_AT_ONCE.min(lanes.len())).collect();
            let ranges =
                part.iter().filter_map(|lane| Some(range(lane.room, lane.words.get(index)?.word, NEWEST)));
            let pages = database.scan_many(&ranges.collect::<Vec<_>>()).await?;
            for (mut lane, page) in part.into_iter().zip(pages) {
                let Some(rows) = lane.words.get_mut(index).filter(|_| !page.rows.is_empty()) else {
                    continue;
                };
                rows.complete = !page.more;
                let found = page.rows.into_iter();
                rows.page = found.map(|((_, _, depth, number), row)| ((depth, number), row.fields)).collect();
                kept.push(lane);
            }
        }
        lanes = kept;
    }
    Ok(lanes)
}
