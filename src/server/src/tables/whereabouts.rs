//! Tables of where users of other servers are, and of which other machines were spoken to. Ids 161 and 162.

use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::{Hash128, RoomNumber, UserNumber};

super::tables! {
    /// Rooms that a user of another server has joined; the room's list of members says whether it is still so.
    RemoteUserRoom = 161 in STATE: (UserNumber, RoomNumber) => (), Membership, Room;
    /// Other machines that were spoken to: what for, and the hash of the host's name.
    EgressContact = 162 in OPERATIONAL: (u8, Hash128) => EgressContactRow, Audit, Seconds(400 * 86_400);
}

/// Value of [`EgressContact`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressContactRow {
    /// The host's name.
    pub host: String,
    /// Requests sent.
    pub requests: u64,
    /// Requests refused before anything was sent.
    pub refused: u64,
    /// Bytes of bodies received.
    pub bytes_received: u64,
    /// Bytes of bodies sent.
    pub bytes_sent: u64,
    /// When the first was, in milliseconds since the epoch.
    pub first_ms: u64,
    /// When the last was, in milliseconds since the epoch.
    pub last_ms: u64,
}
impl Stored for EgressContactRow {}
