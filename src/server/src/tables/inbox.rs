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
    /// Requests to send that are done in part, by the same key: up to which device, in the order of their numbers.
    ToDeviceProgress = 182 in INBOXES: (u32, DeviceNumber, Hash128) => ToDeviceProgressRow, Operational, Seconds(2 * 86_400);
    /// Since which day, since the epoch, messages wait that the device fetches none of.
    InboxAge = 183 in INBOXES: (UserNumber, DeviceNumber) => u32, Operational, Device;
    /// Messages that were refused because too many waited for the device, or for too long.
    InboxRefusals = 184 in INBOXES: (UserNumber, DeviceNumber) => InboxRefusalsRow, Operational, Device;
}

/// A message for a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    /// The event as the device gets it, as JSON.
    pub event: String,
}
impl Stored for StoredMessage {}

/// How far a request to send is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToDeviceProgressRow {
    /// The user of the last device.
    pub user: UserNumber,
    /// The last device that has its messages.
    pub device: DeviceNumber,
}
impl Stored for ToDeviceProgressRow {}

/// What a device did not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRefusalsRow {
    /// How many messages.
    pub count: u64,
    /// When the last one was refused, in milliseconds since the epoch.
    pub last_ms: u64,
}
impl Stored for InboxRefusalsRow {}
