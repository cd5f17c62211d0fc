//! Tables of messages that wait for devices. Ids 180 to 189.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::{DeviceNumber, Hash128, UserNumber};

super::tables! {
    /// Messages in the order in which they were sent; the last number tells those of one commit apart.
    ToDeviceMessage = 180 in INBOXES: (UserNumber, DeviceNumber, Position, u32) => StoredMessage, Content, Device;
    /// Requests to send that were done, by day since the epoch, sender's device, and hash of path, transaction and part.
    ToDeviceTransaction = 181 in INBOXES: (u32, DeviceNumber, Hash128) => (), Operational, Seconds(2 * 86_400);
}

/// A message for a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    /// The event as the device gets it, as JSON.
    pub event: String,
}
impl Stored for StoredMessage {}
