//! Tables of application services. Ids 125 to 129.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::{DeviceNumber, EventNumber, Hash128, RoomNumber, UserNumber};

super::tables! {
    /// Stands for a device in the transactions of a user for whom an application service acts without one.
    ActingDevice = 125 in ACCOUNTS: UserNumber => DeviceNumber, Operational, User;
    /// What an application service has not taken yet, by hash of its id, in order: by commit, then by number.
    AppserviceQueue = 126 in INBOXES: (Hash128, Position, u32) => QueuedItem, Membership, Seconds(QUEUED_SECONDS);
    /// The transaction of each application service that is under way, by hash of its id.
    AppserviceTransaction = 127 in OPERATIONAL: Hash128 => TransactionRow, Operational, Forever;
}

/// How long something waits for an application service that does not answer, in seconds: 30 days.
pub const QUEUED_SECONDS: u64 = 30 * 86_400;

/// A row of [`AppserviceQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueuedItem {
    /// An event.
    Event {
        /// Its room.
        room: RoomNumber,
        /// The event in it.
        event: EventNumber,
    },
    /// An invitation of one of its users to a room that nobody here is in.
    Invite {
        /// The room.
        room: RoomNumber,
        /// The event beside it.
        event: EventNumber,
        /// Who is invited.
        user: UserNumber,
    },
    /// Receipts that were set in a room by the same commit.
    Receipts {
        /// The room.
        room: RoomNumber,
    },
    /// Messages that were sent to a device by the same commit.
    ToDevice {
        /// Whose device.
        user: UserNumber,
        /// The device.
        device: DeviceNumber,
    },
    /// A user's devices or keys changed.
    DeviceList {
        /// The user.
        user: UserNumber,
    },
}
impl Stored for QueuedItem {}

/// A row of [`AppserviceTransaction`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRow {
    /// How many transactions were begun.
    pub begun: u64,
    /// The last row that the one under way holds, by commit and number; none while none is.
    pub last: Option<(u64, u32)>,
}
impl Stored for TransactionRow {}
