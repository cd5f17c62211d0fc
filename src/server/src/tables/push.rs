//! Tables of where notifications are sent, and of those on their way. Ids 106 and 120 to 124.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::{DeviceNumber, EventNumber, Hash128, RoomNumber, UserNumber};

super::tables! {
    /// Where a device wants notifications sent, by the hash of application and push key. Goes with the device.
    Pusher = 120 in USER_DATA: (UserNumber, DeviceNumber, Hash128) => PusherRow, Push, Device;
    /// Notifications that no gateway has taken yet, by pusher, in order: by the commit of what they are about.
    QueuedPush = 121 in INBOXES: (UserNumber, DeviceNumber, Hash128, Position) => QueuedPushRow, Push, Device;
    /// The last mail to a pusher of mail, by pusher.
    MailDigest = 106 in USER_DATA: (UserNumber, DeviceNumber, Hash128) => MailDigestRow, Push, Device;
    /// Up to where a consumer has read the log, by the consumer's number.
    LogCursor = 122 in OPERATIONAL: u8 => LogCursorRow, Operational, Forever;
}

/// Names a pusher: its user, the device that set it, and the hash of application and push key.
pub type PusherKey = (UserNumber, DeviceNumber, Hash128);

/// A row of [`Pusher`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PusherRow {
    /// Names the receiver to the gateway.
    pub pushkey: String,
    /// The application.
    pub app_id: String,
    /// Its name for people.
    pub app_display_name: String,
    /// The device's name for people.
    pub device_display_name: String,
    /// Which set of rules it executes.
    pub profile_tag: Option<String>,
    /// The language of notifications.
    pub lang: String,
    /// Where the gateway is; of a pusher of mail, `mailto:` and the address.
    pub url: String,
    /// Which format it wants.
    pub format: Option<String>,
    /// What else the application wants passed on, as a JSON object.
    pub data: String,
    /// When it was set last, in milliseconds since the epoch.
    pub set_ms: u64,
}
impl Stored for PusherRow {}

impl PusherRow {
    /// The address, if it is a pusher of mail.
    pub fn mail_address(&self) -> Option<&str> {
        self.url.strip_prefix("mailto:")
    }
}

impl std::fmt::Debug for PusherRow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PusherRow").field("app_id", &self.app_id).finish_non_exhaustive()
    }
}

/// A row of [`QueuedPush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedPushRow {
    /// The room.
    pub room: RoomNumber,
    /// The event in it.
    pub event: EventNumber,
    /// Whether it invites the user.
    pub invites: bool,
    /// When it was queued, in milliseconds since the epoch.
    pub at_ms: u64,
}
impl Stored for QueuedPushRow {}

/// A row of [`MailDigest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailDigestRow {
    /// The commit of the last notification that it tells of.
    pub upto: u64,
    /// When the mail server took it, in milliseconds since the epoch; none until it has.
    pub taken_ms: Option<u64>,
    /// When the mail server took the one before.
    pub before_ms: u64,
}
impl Stored for MailDigestRow {}

/// A row of [`LogCursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCursorRow {
    /// The last position that needs no more looking at.
    pub position: u64,
}
impl Stored for LogCursorRow {}
