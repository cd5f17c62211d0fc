//! The index of words. Ids 130 to 134.

use super::Stored;
use crate::numbers::{EventNumber, RoomNumber};
use serde::{Deserialize, Serialize};

super::tables! {
    /// Where words stand, by room, hash of the word, and the event's place by depth, then number. None of encrypted rooms.
    SearchPosting = 130 in TIMELINES: (RoomNumber, [u8; 8], u64, EventNumber) => PostingRow, Content, Room;
}

/// What stands for a word in keys: the beginning of its keyed hash. Two words with the same are told apart by the events.
pub type WordHash = [u8; 8];

/// A row of [`SearchPosting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostingRow {
    /// In which texts of the event: 1 = body, 2 = name, 4 = topic, and their sums.
    pub fields: u8,
}
impl Stored for PostingRow {}
