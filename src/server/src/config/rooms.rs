//! The `[rooms]` section.

use ruma::RoomVersionId;
use serde::{Deserialize, Serialize};

use super::option::section;

section! {
    /// What people may do with rooms.
    Rooms = "rooms" {
        /// The version of rooms that are created without one, "6" to "12".
        default_version: RoomVersionId = RoomVersionId::V12;
        /// Who may create rooms: "everyone" or "admins".
        create: Who = Who::Everyone, Reloaded;
        /// Who may publish a room in the public room directory: "everyone" (the members that the room
        /// itself allows to) or "admins".
        publish: Who = Who::Admins;
        /// Which new rooms are encrypted, whatever their creators ask for: "never" (the creators decide), "direct" (rooms for
        /// direct messages), "private" (those too, and all that are not made to be public) or "all".
        encrypt: Encrypt = Encrypt::Never;
        /// Who may read the public room directory without an account: true for all of the world.
        directory_without_account: bool = false, Reloaded;
        /// Whether messages of rooms that are not encrypted can be searched: their words are kept for it. What is said while
        /// this is off is not found later.
        search: bool = true;
    }
    check |rooms| {
        if crate::config::ROOM_VERSIONS.contains(&rooms.default_version) {
            Vec::new()
        } else {
            vec![("default_version", format!("rooms of version {} cannot be created; 6 to 12 can", rooms.default_version))]
        }
    };
}

/// Versions that rooms can be created with.
pub const ROOM_VERSIONS: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// Who may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// Every account of this server.
    Everyone,
    /// Server administrators.
    Admins,
}

/// Which new rooms have to be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encrypt {
    /// None.
    Never,
    /// Those for direct messages.
    Direct,
    /// Those too, and all that are not made to be public.
    Private,
    /// All.
    All,
}
