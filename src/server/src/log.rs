//! What the commit log says: the typed form of the storage layer's opaque entries.

use allod_storage::LogEntry;
use serde::{Deserialize, Serialize};

use crate::numbers::{DeviceNumber, EventNumber, Hash128, RoomNumber, UserNumber};

/// One thing that happened in a commit. Consumers are woken by it and read the rows; users see nothing of it directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happened {
    /// An event entered a room's timeline.
    Event {
        /// The room.
        room: RoomNumber,
        /// The event in it.
        event: EventNumber,
    },
    /// A user's membership of a room changed (the event itself is told as [`Happened::Event`]).
    Membership {
        /// The room.
        room: RoomNumber,
        /// Whose membership.
        user: UserNumber,
    },
    /// Something only this user's devices see changed: account data, tags, push rules, filters of no other kind.
    UserData {
        /// The user.
        user: UserNumber,
    },
    /// A device has a new message in its inbox.
    ToDevice {
        /// The user.
        user: UserNumber,
        /// The device.
        device: DeviceNumber,
    },
    /// A user's set of devices or keys changed, for all who share a room.
    DeviceList {
        /// The user.
        user: UserNumber,
    },
    /// A receipt in a room.
    Receipt {
        /// The room.
        room: RoomNumber,
    },
    /// A room's current state changed, by an event of the same commit or by resolution.
    State {
        /// The room.
        room: RoomNumber,
    },
    /// An event of another server's user that this server has to hand on to the others.
    Relay {
        /// The room.
        room: RoomNumber,
        /// The event in it.
        event: EventNumber,
    },
    /// Something besides events waits for a server.
    Queued {
        /// Hash of the server's name.
        server: Hash128,
    },
    /// All of the state of a room is here that was joined before it was.
    Whole {
        /// The room.
        room: RoomNumber,
    },
    /// An event that named files, or carried them, is gone or redacted.
    LooseMedia,
}

impl Happened {
    /// The stored form.
    pub fn encode(self) -> LogEntry {
        // Serialising an enum of integers into a vector cannot fail.
        LogEntry(postcard::to_stdvec(&self).unwrap_or_default().into())
    }

    /// Reads the stored form; `None` for one from a later version.
    pub fn decode(entry: &LogEntry) -> Option<Self> {
        postcard::from_bytes(&entry.0).ok()
    }
}
