//! The words of events: which texts are searched, and what stands for their words in the index.

use std::collections::BTreeMap;

use allod_matrix::{event::pdu::Pdu, words};
use serde_json::Value;

use super::{Room, Rooms};
use crate::{
    database::{Database, Write},
    numbers::EventNumber,
    tables::search::{PostingRow, SearchPosting, WordHash},
};

/// The texts of an event that can be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchField {
    /// The body of a message.
    Body,
    /// The name of a room.
    Name,
    /// The topic of a room.
    Topic,
}

impl SearchField {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Body, Self::Name, Self::Topic];

    /// Its bit in rows.
    pub(crate) const fn bit(self) -> u8 {
        match self {
            Self::Body => 1,
            Self::Name => 2,
            Self::Topic => 4,
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Name => "name",
            Self::Topic => "topic",
        }
    }
}

/// The texts of an event that are searched.
pub(crate) fn texts(pdu: &Pdu) -> Vec<(SearchField, String)> {
    let field = match (pdu.kind.as_str(), pdu.state_key.as_deref()) {
        ("m.room.message", None) => SearchField::Body,
        ("m.room.name", Some("")) => SearchField::Name,
        ("m.room.topic", Some("")) => SearchField::Topic,
        _ => return Vec::new(),
    };
    let content = pdu.content_as::<Value>();
    let text = content.as_ref().and_then(|content| content.get(field.key())?.as_str());
    text.map(|text| (field, text.to_owned())).into_iter().collect()
}

/// What stands for a word in the index.
pub(crate) fn word_hash(database: &Database, word: &str) -> WordHash {
    database.hash("word", word).0.first_chunk().copied().unwrap_or_default()
}

/// The rows of an event in the index.
pub(crate) fn postings(
    database: &Database,
    room: &Room,
    pdu: &Pdu,
    (depth, number): (u64, EventNumber),
) -> Vec<(<SearchPosting as crate::tables::Table>::Key, PostingRow)> {
    let mut rows: BTreeMap<WordHash, u8> = BTreeMap::new();
    for (field, text) in texts(pdu) {
        for word in words::words(&text).into_keys() {
            let fields = rows.entry(word_hash(database, &word)).or_default();
            *fields |= field.bit();
        }
    }
    let rows =
        rows.into_iter().map(|(word, fields)| ((room.number, word, depth, number), PostingRow { fields }));
    rows.collect()
}

/// Adds to a write what takes an event out of the index; `pdu` is what it said.
pub(crate) fn forget(
    database: &Database,
    room: &Room,
    pdu: &Pdu,
    place: (u64, EventNumber),
    write: &mut Write,
) {
    let rows = postings(database, room, pdu, place);
    for (key, _) in &rows {
        write.delete::<SearchPosting>(key);
    }
    if let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) {
        write.erase_between::<SearchPosting>(first, last);
    }
}

impl Rooms {
    /// Whether words of rooms are kept for searching.
    pub fn is_searchable(&self) -> bool {
        self.core.options.search
    }

    /// What stands for a word in the index.
    pub(crate) fn word_hash(&self, word: &str) -> WordHash {
        word_hash(&self.core.database, word)
    }
}
