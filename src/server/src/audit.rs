//! What the audit trail says: the typed form of the storage layer's opaque entries.
//!
//! An entry is part of the write that it tells about, so that neither can be there without the other. It names users and
//! devices by number, and holds no password, token or address.

use allod_storage::AuditEntry;
use serde::{Deserialize, Serialize};

use crate::numbers::{DeviceNumber, RoomNumber, UserNumber};

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// Someone unknown: who has not signed in.
    Nobody,
    /// The user themselves, or an administrator acting on another's account.
    User(UserNumber),
    /// The operator of the machine: command line, or the shared secret.
    Operator,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// An account was made.
    CreateAccount {
        /// Whose.
        user: UserNumber,
        /// As an administrator's.
        admin: bool,
    },
    /// Someone signed in.
    SignIn {
        /// Who.
        user: UserNumber,
        /// With which device.
        device: DeviceNumber,
    },
    /// Someone failed to sign in, or to confirm an operation with the password.
    FailSignIn {
        /// As whom, if there is such an account.
        user: Option<UserNumber>,
    },
    /// Devices were signed out and deleted.
    DeleteDevices {
        /// Whose.
        user: UserNumber,
        /// Which; all of them if empty.
        devices: Vec<DeviceNumber>,
    },
    /// A password was set.
    SetPassword {
        /// Whose.
        user: UserNumber,
    },
    /// An account was deactivated.
    Deactivate {
        /// Whose.
        user: UserNumber,
        /// With the wish to be erased.
        erase: bool,
    },
    /// An account was made active again.
    Reactivate {
        /// Whose.
        user: UserNumber,
    },
    /// An account was locked, or unlocked.
    SetLocked {
        /// Whose.
        user: UserNumber,
        /// Whether it is now.
        locked: bool,
    },
    /// An account was suspended, or no longer is.
    SetSuspended {
        /// Whose.
        user: UserNumber,
        /// Whether it is now.
        suspended: bool,
    },
    /// An account was made an administrator's, or no longer is.
    SetAdmin {
        /// Whose.
        user: UserNumber,
        /// Whether it is now.
        admin: bool,
    },
    /// A registration token was made or changed.
    PutRegistrationToken,
    /// A registration token was deleted.
    DeleteRegistrationToken,
    /// A room was to be deleted.
    DeleteRoom {
        /// Which.
        room: RoomNumber,
        /// Whether it was blocked too.
        block: bool,
    },
    /// A room was blocked, or no longer is.
    SetRoomBlocked {
        /// Which, if it is known.
        room: Option<RoomNumber>,
        /// Whether it is now.
        blocked: bool,
    },
    /// An account got a mail address.
    AddAddress {
        /// Whose.
        user: UserNumber,
    },
    /// An account lost a mail address.
    RemoveAddress {
        /// Whose.
        user: UserNumber,
    },
}

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Who did it.
    pub actor: Actor,
    /// What was done.
    pub act: Act,
}

impl Audited {
    /// The stored form.
    pub fn encode(&self) -> AuditEntry {
        // Serialising plain data into a vector cannot fail.
        AuditEntry(postcard::to_stdvec(self).unwrap_or_default().into())
    }

    /// Reads the stored form; `None` for one from a later version.
    pub fn decode(entry: &AuditEntry) -> Option<Self> {
        postcard::from_bytes(&entry.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_as_written() {
        let entry = Audited {
            at_ms: 1,
            actor: Actor::User(UserNumber(1)),
            act: Act::DeleteDevices { user: UserNumber(2), devices: vec![DeviceNumber(3)] },
        };
        assert_eq!(Audited::decode(&entry.encode()), Some(entry));
    }
}
