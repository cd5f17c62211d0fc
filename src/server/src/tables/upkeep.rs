//! Tables of the work that the server does by itself. Ids 200 to 214.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::{Hash128, RoomNumber, UserNumber};

super::tables! {
    /// Ranges of keys whose deleted and overwritten bytes must leave the disk, by commit and number within it.
    PendingErasure = 200 in OPERATIONAL: (Position, u32) => ErasedRange, Operational, Forever;
    /// How far recurring work has come: 0 = erasure, else the table that is swept, or that was
    /// filled once.
    Chore = 201 in OPERATIONAL: u8 => ChoreRow, Operational, Forever;
    /// Which commit was the newest at a time, in milliseconds since the epoch: tells how old rows are that only know
    /// their position.
    PositionAtTime = 202 in OPERATIONAL: u64 => u64, Operational, Seconds(60 * 86_400);
    /// Events that a user wants to be sent later, by hash of their delay id.
    DelayedEvent = 203 in USER_DATA: (UserNumber, Hash128) => DelayedEventRow, Content, User;
    /// When delayed events are due, in milliseconds since the epoch. A row without its event says nothing.
    DelayedEventDue = 204 in USER_DATA: (u64, UserNumber, Hash128) => (), Operational, Forever;
    /// Whose a delayed event is, by hash of its delay id. Likewise.
    DelayedEventOwner = 205 in USER_DATA: Hash128 => UserNumber, Operational, Forever;
}

/// A row of [`DelayedEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayedEventRow {
    /// By which clients name it: whoever knows it may send or cancel the event.
    pub delay_id: String,
    /// The room.
    pub room: RoomNumber,
    /// The event's type.
    pub kind: String,
    /// Its state key, for a state event.
    pub state_key: Option<String>,
    /// Its content, as JSON.
    pub content: String,
    /// How long it waits, in milliseconds.
    pub delay_ms: u64,
    /// Since when it does, in milliseconds since the epoch.
    pub since_ms: u64,
}
impl Stored for DelayedEventRow {}

/// A row of [`PendingErasure`]: rows with `low <= key < high` of a space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasedRange {
    /// Number of the space.
    pub space: u8,
    /// First key; its first byte is the table.
    pub low: Vec<u8>,
    /// First key after the range.
    pub high: Vec<u8>,
}
impl Stored for ErasedRange {}

/// A row of [`Chore`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoreRow {
    /// When the work was last finished, in milliseconds since the epoch.
    pub finished_ms: u64,
    /// The key behind which it goes on; none between two rounds.
    pub cursor: Option<Vec<u8>>,
}
impl Stored for ChoreRow {}
