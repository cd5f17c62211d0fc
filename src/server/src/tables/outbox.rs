//! Tables of what goes to other servers, and of rooms that are known from outside only. Ids 247 to 254.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::{Stamped, Stored};
use crate::numbers::{Hash128, RoomNumber, UserNumber};

super::tables! {
    /// What a local user was shown of a room that nobody here is in, when they were invited or knocked.
    OutsideState = 247 in ROOMS: (RoomNumber, UserNumber, u32) => OutsideRow, Content, Room;
    /// Up to where the log was handed to all servers that can be reached; the key is the same for all.
    OutboxCursor = 248 in OPERATIONAL: u8 => CursorRecord, Operational, Forever;
    /// Servers that could not be reached lately, by hash of their name.
    Destination = 249 in OPERATIONAL: Hash128 => DestinationRecord, Operational, Forever;
    /// Rooms of which a server is behind, by hash of its name.
    LaggingRoom = 250 in OPERATIONAL: (Hash128, RoomNumber) => LaggingRecord, Membership, Room;
    /// What must reach a server besides events, in order, by hash of its name; the last number tells those of one commit
    /// apart.
    QueuedEdu = 251 in INBOXES: (Hash128, Position, u32) => QueuedRecord, Content, Seconds(30 * 86_400);
    /// What each server was given: hash of its name, kind of subject (0 = room, 1 = user), its number, kind of data.
    Ledger = 252 in OPERATIONAL: (Hash128, u8, u32, u8) => LedgerRecord, Membership, Forever;
    /// What other servers were told of a local user's devices and keys.
    AnnouncedDevices = 253 in KEYS: UserNumber => Stamped<AnnouncedRecord>, Device, User;
    /// Joins through other servers that are under way, by user and hash of the room's id.
    RemoteJoin = 254 in OPERATIONAL: (UserNumber, Hash128) => RemoteJoinRecord, Membership, User;
}

/// Value of [`OutsideState`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutsideRow {
    /// The server that told of it; the first row.
    Via(String),
    /// A stripped state event as JSON.
    Event(String),
}
impl Stored for OutsideRow {}

/// Value of [`OutboxCursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorRecord {
    /// The last position that needs no more looking at.
    pub position: u64,
}
impl Stored for CursorRecord {}

/// Value of [`Destination`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRecord {
    /// Its name.
    pub server: String,
    /// Since when it has not been reached, in milliseconds since the epoch; none if it has.
    pub fail_since_ms: Option<u64>,
    /// When it is tried again, in milliseconds since the epoch.
    pub next_at_ms: u64,
    /// How often in a row it was not reached.
    pub failures: u32,
}
impl Stored for DestinationRecord {}

/// Value of [`LaggingRoom`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaggingRecord {
    /// The position of the first event that it was not given.
    pub from: u64,
}
impl Stored for LaggingRecord {}

/// Value of [`QueuedEdu`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedRecord {
    /// The name of the server.
    pub server: String,
    /// Its type.
    pub kind: String,
    /// Its content as JSON.
    pub content: String,
    /// The local user whom it speaks of.
    pub user: UserNumber,
}
impl Stored for QueuedRecord {}

/// Value of [`Ledger`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// The name of the server.
    pub server: String,
    /// When it was first given such data, in milliseconds since the epoch.
    pub first_ms: u64,
    /// When last.
    pub last_ms: u64,
    /// How many pieces.
    pub count: u64,
    /// How many bytes they were.
    pub bytes: u64,
}
impl Stored for LedgerRecord {}

/// Value of [`AnnouncedDevices`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedRecord {
    /// The number of the last change that was told.
    pub stream: u64,
    /// Digests of devices with their keys and names, by device id.
    pub devices: Vec<(String, Hash128)>,
    /// Digest of the cross-signing keys that others see.
    pub cross_signing: Option<Hash128>,
}
impl Stored for AnnouncedRecord {}

/// Value of [`RemoteJoin`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteJoinRecord {
    /// The room's id.
    pub room_id: String,
    /// Servers through which it was tried, the one that was sent the join first.
    pub servers: Vec<String>,
    /// When it began, in milliseconds since the epoch.
    pub since_ms: u64,
}
impl Stored for RemoteJoinRecord {}
