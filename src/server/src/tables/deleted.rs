//! Tables of rooms that administrators delete or block. Ids 167 to 169.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::{Hash128, RoomNumber, UserNumber};

super::tables! {
    /// Rooms that are being deleted, or were: what is still to be done, and all that stays known of them.
    RoomDeletion = 167 in ROOMS: RoomNumber => RoomDeletionRow, Operational, Forever;
    /// Rooms that users of this server had to do with until they were deleted, by when they left: clients that were away
    /// then are told by it.
    DepartedRoom = 168 in STATE: (UserNumber, Position) => DepartedRoomRow, Membership, Seconds(DEPARTED_SECONDS);
    /// Rooms that nobody of this server may enter, by the hash of the id.
    BlockedRoom = 169 in ROOMS: Hash128 => BlockedRoomRow, Operational, Forever;
}

/// How long clients that were away are told of a deleted room, in seconds: 30 days.
pub const DEPARTED_SECONDS: u64 = 30 * 86_400;

/// What is done next to delete a room, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeletionStep {
    /// The users of this server leave.
    Leaving,
    /// The servers in the room are told so.
    Telling,
    /// The room becomes unknown.
    Closing,
    /// What its members have of it goes.
    Members,
    /// What other users of this server have of it goes.
    Accounts,
    /// Requests that began before the room was unknown end.
    Resting,
    /// Files go that only its events had.
    Files,
    /// All its rows go.
    Rows,
    /// Nothing.
    Done,
}

impl DeletionStep {
    /// How programs read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::Telling => "telling",
            Self::Closing => "closing",
            Self::Members => "members",
            Self::Accounts => "accounts",
            Self::Resting => "resting",
            Self::Files => "files",
            Self::Rows => "rows",
            Self::Done => "done",
        }
    }
}

/// A row of [`RoomDeletion`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomDeletionRow {
    /// The name that the deletion goes by.
    pub delete_id: String,
    /// The room's id.
    pub room_id: String,
    /// The room's version.
    pub version: String,
    /// Which administrator wants it; none for whoever may use the machine.
    pub by: Option<UserNumber>,
    /// Since when, in milliseconds since the epoch.
    pub requested_ms: u64,
    /// Whether the room was blocked with it.
    pub block: bool,
    /// Whether what is stored of it goes; else its members leave, and that is all.
    pub purge: bool,
    /// What is done next.
    pub step: DeletionStep,
    /// Since when, in milliseconds since the epoch.
    pub since_ms: u64,
    /// How often all members were told to leave.
    pub rounds: u8,
    /// Members that have left.
    pub left: u32,
    /// Members that there were to leave.
    pub members: u32,
    /// Members that could not leave, since the room did not let them.
    pub failed: u32,
    /// Files that were looked at.
    pub files: u64,
    /// The servers in the room are to be told all up to this position.
    pub told: u64,
    /// The key behind which the step goes on.
    pub cursor: Option<Vec<u8>>,
    /// When it was done, in milliseconds since the epoch.
    pub finished_ms: Option<u64>,
}
impl Stored for RoomDeletionRow {}

impl RoomDeletionRow {
    /// Whether the room is unknown from now on, and its number stands for nothing.
    pub fn is_gone(&self) -> bool {
        self.purge && self.step >= DeletionStep::Members
    }
}

/// A row of [`DepartedRoom`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartedRoomRow {
    /// The number that the room had.
    pub room: RoomNumber,
    /// The id of the event by which the user left, if there was one.
    pub event_id: Option<String>,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
}
impl Stored for DepartedRoomRow {}

/// A row of [`BlockedRoom`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedRoomRow {
    /// The room's id.
    pub room_id: String,
    /// Which administrator blocked it; none for whoever may use the machine.
    pub by: Option<UserNumber>,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
}
impl Stored for BlockedRoomRow {}
