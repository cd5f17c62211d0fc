//! Tables of what users set for themselves, and of what they have read. Ids 110 to 149.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::{Stamped, Stored};
use crate::numbers::{Hash128, RoomNumber, UserNumber};

super::tables! {
    /// Account data in parts of at most [`PART_BYTES_MAX`]: user, room (0 = global), hash of the type, part.
    AccountData = 110 in USER_DATA: (UserNumber, RoomNumber, Hash128, u8) => Stamped<AccountDataPart>, Contact, User;
    /// When each datum changed last: one row a datum, moved at each change.
    AccountDataChange = 111 in USER_DATA: (UserNumber, Position, RoomNumber, Hash128) => (), Operational, User;
    /// How much account data a user has.
    AccountDataUsage = 112 in USER_DATA: UserNumber => DataUsage, Operational, User;
    /// Filters by the hash of their JSON, which is also their id.
    Filter = 113 in USER_DATA: (UserNumber, Hash128) => StoredFilter, Contact, User;
    /// The latest receipt by room, user, kind and thread.
    Receipt = 114 in USER_DATA: (RoomNumber, UserNumber, u8, Hash128) => Stamped<StoredReceipt>, Receipt, Room;
    /// The same receipts in the order in which they were set: one row a receipt, moved at each change.
    ReceiptChange = 115 in USER_DATA: (RoomNumber, Position, UserNumber, u8, Hash128) => StoredReceipt, Receipt, Room;
}

/// Largest part of an account datum, in bytes: below the limit of a stored value, with room for the type.
pub const PART_BYTES_MAX: usize = 90 * 1024;

/// One part of an account datum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDataPart {
    /// How many parts there are.
    pub parts: u8,
    /// The type; empty in all parts but the first.
    pub event_type: String,
    /// This part of the content's JSON.
    pub content: String,
}
impl Stored for AccountDataPart {}

/// How much account data a user has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataUsage {
    /// Data of any type and room.
    pub count: u32,
    /// Bytes of their contents together.
    pub bytes: u64,
}
impl Stored for DataUsage {}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFilter {
    /// Its definition as JSON.
    pub definition: String,
}
impl Stored for StoredFilter {}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReceipt {
    /// Who read.
    pub user_id: String,
    /// Up to which event.
    pub event_id: String,
    /// Where that event stands in the room's timeline; 0 if we do not have it.
    pub event_position: u64,
    /// The `thread_id`: none, `main` or a thread's root.
    pub thread: Option<String>,
    /// When, in milliseconds since the Unix epoch.
    pub ts: u64,
}
impl Stored for StoredReceipt {}
