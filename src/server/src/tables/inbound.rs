//! Tables of what other servers send, until it is where it belongs. Ids 240 to 246, and 160.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::{Stamped, Stored};
use crate::numbers::{Hash128, RoomNumber, UserNumber};

/// How long an event is kept that has no place.
pub const STRANDED_SECONDS: u64 = 14 * 86_400;

super::tables! {
    /// What a transaction was answered, by hashes of the server and of the transaction's id.
    InboundTransaction = 240 in INBOXES: (Hash128, Hash128) => AnswerRecord, Operational, Seconds(7 * 86_400);
    /// Checked events that wait for their room, in the order of arrival; the last number tells those of one commit apart.
    InboundStaging = 241 in INBOXES: (RoomNumber, Position, u32) => StagedRecord, Content, Room;
    /// Checked events that build on others which nobody had so far, by the hash of their ids; asked for again and again.
    StrandedEvent = 242 in INBOXES: (RoomNumber, Hash128) => StrandedRecord, Content, Seconds(STRANDED_SECONDS);
    /// Events whose keys were not to be had when they came, by the hash of what came; nothing of them is
    /// believed yet.
    UnverifiedEvent = 160 in INBOXES: (RoomNumber, Hash128) => UnverifiedRecord, Content, Seconds(STRANDED_SECONDS);
    /// Keys of users of other servers, as those told them.
    RemoteKeyList = 243 in KEYS: UserNumber => Stamped<RemoteKeyListRecord>, Device, Seconds(30 * 86_400);
}

/// Value of [`InboundTransaction`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// The events by their ids, and what was wrong with them.
    pub pdus: Vec<(String, Option<String>)>,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
}
impl Stored for AnswerRecord {}

/// Value of [`InboundStaging`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedRecord {
    /// The server that sent it.
    pub origin: String,
    /// The event's id.
    pub event_id: String,
    /// The event in federation format; its format, signatures and hash were checked.
    pub json: Vec<u8>,
}
impl Stored for StagedRecord {}

/// Value of [`StrandedEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedRecord {
    /// The event.
    pub staged: StagedRecord,
    /// Since when it waits, in milliseconds since the epoch.
    pub since_ms: u64,
}
impl Stored for StrandedRecord {}

/// Value of [`UnverifiedEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnverifiedRecord {
    /// The server that sent it.
    pub origin: String,
    /// The event as it came, its format checked and nothing else.
    pub json: Vec<u8>,
    /// Since when it waits, in milliseconds since the epoch.
    pub since_ms: u64,
}
impl Stored for UnverifiedRecord {}

/// Value of [`RemoteKeyList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteKeyListRecord {
    /// The keys as JSON; none if they have changed since.
    pub json: Option<String>,
    /// Rooms that the user shared with somebody here when they were told.
    pub rooms: Vec<RoomNumber>,
    /// With whom.
    pub shared_with: UserNumber,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
}
impl Stored for RemoteKeyListRecord {}
