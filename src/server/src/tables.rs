//! The map of the database: every table with its key, value, data class and lifetime.
//!
//! A chapter's tables stand in a file of their own below this module, and [`all`] lists them. Inventory, export, erasure
//! and retention walk that list, so a row that no table declares cannot exist.
//!
//! # Defining a table
//! 1. Choose the chapter's file, a free id in its range, and describe it with the `tables!` macro.
//! 2. Give its value type `#[derive(Serialize, Deserialize)]` and `impl Stored for Value {}`; append fields only with a
//!    new [`Stored::VERSION`].
//! 3. Choose the data class and lifetime by what the row says about a person, not by what it is for.

use allod_storage::{Profile, Space, codec::KeyCodec};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::database::Corrupt;

pub mod accounts;
pub mod appservices;
pub mod deleted;
pub mod federation;
pub mod inbound;
pub mod inbox;
pub mod keys;
pub mod media;
pub mod meta;
pub mod notices;
pub mod notified;
pub mod outbox;
pub mod partial;
pub mod profiles;
pub mod push;
pub mod rooms;
pub mod search;
pub mod threads;
pub mod upkeep;
pub mod user_data;
pub mod whereabouts;

/// What kind of data a table holds, in the words of a data-protection report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataClass {
    /// What people said.
    Content,
    /// Who is, or was, in which room.
    Membership,
    /// Who knows whom: profiles, contacts, ignore lists.
    Contact,
    /// Devices and sessions.
    Device,
    /// Network addresses and when they were seen.
    NetworkAddress,
    /// Who read what, and when.
    Receipt,
    /// Where notifications are sent.
    Push,
    /// Keys that clients upload.
    KeyMaterial,
    /// Passwords and tokens, hashed.
    Credential,
    /// Files.
    Media,
    /// Who did what as an administrator, and sign-ins.
    Audit,
    /// What the server needs to run, and that names nobody.
    Operational,
}

impl DataClass {
    /// Whether bytes of rows whose lifetime is over must leave the disk soon. What is hashed or encrypted, or names
    /// nobody, may wait until the engine rewrites it anyway.
    pub const fn is_erased_in_time(self) -> bool {
        match self {
            Self::Content
            | Self::Membership
            | Self::Contact
            | Self::Device
            | Self::NetworkAddress
            | Self::Receipt
            | Self::Push
            | Self::Media => true,
            Self::KeyMaterial | Self::Credential | Self::Audit | Self::Operational => false,
        }
    }
}

/// When a row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lifetime {
    /// Never by itself.
    Forever,
    /// With its room.
    Room,
    /// With its user, by [`Write::delete_rows_of_user`](crate::database::Write::delete_rows_of_user): the key begins
    /// with the `UserNumber`.
    User,
    /// With its device, by [`Write::delete_rows_of_device`](crate::database::Write::delete_rows_of_device): the key
    /// begins with `UserNumber, DeviceNumber`.
    Device,
    /// After this many seconds, by [`Sweeper`](crate::housekeeping::sweep::Sweeper), which asks the table how old a row is.
    Seconds(u64),
}

/// A table's facts, as reports walk them.
#[derive(Clone, Copy, Debug)]
pub struct TableInfo {
    /// First byte of every key; unique over all tables.
    pub id: u8,
    /// Name of the table.
    pub name: &'static str,
    /// The space it lives in.
    pub space: Space,
    /// What kind of data it holds.
    pub class: DataClass,
    /// When its rows go.
    pub lifetime: Lifetime,
    /// The type of its key, as it is declared.
    pub key: &'static str,
}

impl TableInfo {
    /// Whether keys begin with the number of a room whose rows these are: they go with it, whatever their lifetime. What
    /// stays known of a deleted room is not among them.
    pub fn is_by_room(&self) -> bool {
        self.key.trim_start_matches('(').starts_with("RoomNumber")
            && self.id != deleted::RoomDeletion::INFO.id
    }
}

/// A typed table.
pub trait Table: Send + Sync + 'static {
    /// What orders the rows.
    type Key: KeyCodec;
    /// What a row says.
    type Value: StoredValue;
    /// Its facts.
    const INFO: TableInfo;
}

/// A serialisable value with a version.
pub trait Stored: Serialize + DeserializeOwned {
    /// Version of the encoding, the first byte of the stored value.
    const VERSION: u8 = 1;
}

impl Stored for u32 {}
impl Stored for u64 {}
impl Stored for String {}
impl Stored for crate::numbers::EventNumber {}
impl Stored for crate::numbers::RoomNumber {}
impl Stored for crate::numbers::UserNumber {}
impl Stored for crate::numbers::DeviceNumber {}

/// How a value becomes the bytes of a row: a header of format version and data-key id (0 = clear), then the value.
pub trait StoredValue: Sized {
    /// The stored bytes.
    fn encode(&self) -> Vec<u8>;
    /// Reads stored bytes.
    fn decode(bytes: &[u8]) -> Result<Self, Corrupt>;
    /// The same of bytes that the value may keep.
    fn decode_shared(bytes: &Bytes) -> Result<Self, Corrupt> {
        Self::decode(bytes)
    }
    /// Where in the stored bytes the commit writes its position, if it does.
    const POSITION_OFFSET: Option<usize> = None;
}

/// Bytes of the header before each value.
pub(crate) const HEADER_BYTES: usize = 2;

impl<T: Stored> StoredValue for T {
    fn encode(&self) -> Vec<u8> {
        let header = vec![T::VERSION, 0];
        // Serialising plain data into a vector cannot fail.
        postcard::to_extend(self, header).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        match bytes {
            [version, 0, body @ ..] if *version == T::VERSION => {
                postcard::from_bytes(body).map_err(|_| Corrupt("value does not decode"))
            }
            _ => Err(Corrupt("value has an unknown header")),
        }
    }
}

impl StoredValue for () {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
    fn decode(_bytes: &[u8]) -> Result<Self, Corrupt> {
        Ok(())
    }
}

impl StoredValue for Bytes {
    fn encode(&self) -> Vec<u8> {
        let mut stored = Vec::with_capacity(HEADER_BYTES.saturating_add(self.len()));
        stored.extend_from_slice(&[1, 0]);
        stored.extend_from_slice(self);
        stored
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        match bytes {
            [1, 0, body @ ..] => Ok(Self::copy_from_slice(body)),
            _ => Err(Corrupt("value has an unknown header")),
        }
    }

    fn decode_shared(bytes: &Bytes) -> Result<Self, Corrupt> {
        match bytes.as_ref() {
            [1, 0, ..] => Ok(bytes.slice(HEADER_BYTES..)),
            _ => Err(Corrupt("value has an unknown header")),
        }
    }
}

/// A value that carries the position of the commit that wrote it. Build it with [`Stamped::pending`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The commit that wrote the row.
    pub position: allod_storage::Position,
    /// The value.
    pub value: T,
}

impl<T> Stamped<T> {
    /// A value about to be written.
    pub fn pending(value: T) -> Self {
        Self { position: allod_storage::Position::PENDING, value }
    }
}

impl<T: Stored> StoredValue for Stamped<T> {
    const POSITION_OFFSET: Option<usize> = Some(HEADER_BYTES);

    fn encode(&self) -> Vec<u8> {
        let mut header = vec![T::VERSION, 0];
        header.extend_from_slice(&self.position.get().to_be_bytes());
        postcard::to_extend(&self.value, header).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let [version, 0, rest @ ..] = bytes else {
            return Err(Corrupt("value has an unknown header"));
        };
        let (position, body) = rest.split_first_chunk().ok_or(Corrupt("value is cut short"))?;
        if *version != T::VERSION {
            return Err(Corrupt("value has an unknown version"));
        }
        Ok(Self {
            position: allod_storage::Position::new(u64::from_be_bytes(*position)),
            value: postcard::from_bytes(body).map_err(|_| Corrupt("value does not decode"))?,
        })
    }
}

/// Declares the tables of a chapter.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident = $id:literal in $space:ident: $key:ty => $value:ty, $class:ident, $lifetime:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl $crate::tables::Table for $name {
                type Key = $key;
                type Value = $value;
                const INFO: $crate::tables::TableInfo = $crate::tables::TableInfo {
                    id: $id,
                    name: stringify!($name),
                    space: $crate::tables::$space,
                    class: $crate::tables::DataClass::$class,
                    lifetime: {
                        #[allow(unused_imports, reason = "not every chapter uses every lifetime")]
                        use $crate::tables::Lifetime::*;
                        $lifetime
                    },
                    key: stringify!($key),
                };
            }
        )*

        /// The tables of this chapter.
        pub(crate) const TABLES: &[$crate::tables::TableInfo] =
            &[$(<$name as $crate::tables::Table>::INFO),*];
    };
}
pub(crate) use tables;

/// Small rows of the server itself.
pub const OPERATIONAL: Space = Space { id: 16, name: "operational" };
/// Accounts, sessions and devices.
pub const ACCOUNTS: Space = Space { id: 17, name: "accounts" };
/// What each user has set, and indexes of it by position.
pub const USER_DATA: Space = Space { id: 18, name: "user_data" };
/// Rooms: heads, names, aliases.
pub const ROOMS: Space = Space { id: 19, name: "rooms" };
/// The JSON of events.
pub const EVENT_JSON: Space = Space { id: 20, name: "event_json" };
/// Metadata of events, and look-up by id.
pub const EVENTS: Space = Space { id: 21, name: "events" };
/// Timelines in their orders.
pub const TIMELINES: Space = Space { id: 22, name: "timelines" };
/// Nodes of state trees.
pub const STATE_NODES: Space = Space { id: 23, name: "state_nodes" };
/// Current state, flat, and membership indexes.
pub const STATE: Space = Space { id: 24, name: "state" };
/// Messages to devices.
pub const INBOXES: Space = Space { id: 25, name: "inboxes" };
/// Device and one-time keys, backups.
pub const KEYS: Space = Space { id: 26, name: "keys" };
/// Records of media; the bytes are elsewhere.
pub const MEDIA: Space = Space { id: 27, name: "media" };

/// Number of the format of all tables together; it goes up with a step that upgrades a database of the one before.
pub const FORMAT: u32 = 1;

/// All spaces, for opening the store.
pub const SPACES: &[(Space, Profile)] = &[
    (OPERATIONAL, Profile::Point),
    (ACCOUNTS, Profile::Point),
    (USER_DATA, Profile::Scan),
    (ROOMS, Profile::Point),
    (EVENT_JSON, Profile::Point),
    (EVENTS, Profile::Point),
    (TIMELINES, Profile::Scan),
    (STATE_NODES, Profile::Point),
    (STATE, Profile::Scan),
    (INBOXES, Profile::Queue),
    (KEYS, Profile::Scan),
    (MEDIA, Profile::Point),
];

/// Every table there is.
pub fn all() -> impl Iterator<Item = TableInfo> {
    [
        meta::TABLES,
        accounts::TABLES,
        appservices::TABLES,
        deleted::TABLES,
        rooms::TABLES,
        notices::TABLES,
        notified::TABLES,
        profiles::TABLES,
        user_data::TABLES,
        whereabouts::TABLES,
        push::TABLES,
        search::TABLES,
        keys::TABLES,
        inbox::TABLES,
        inbound::TABLES,
        federation::TABLES,
        media::TABLES,
        threads::TABLES,
        upkeep::TABLES,
        outbox::TABLES,
        partial::TABLES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn table_ids_are_unique() {
        let mut seen = BTreeSet::new();
        for table in all() {
            assert!(seen.insert(table.id), "{} shares its id {}", table.name, table.id);
        }
    }

    #[test]
    fn rows_that_go_with_a_user_or_device_are_found_by_it() {
        for table in all() {
            let owner = match table.lifetime {
                Lifetime::User => "UserNumber",
                Lifetime::Device => "UserNumber, DeviceNumber",
                Lifetime::Forever | Lifetime::Room | Lifetime::Seconds(_) => continue,
            };
            let key = table.key.trim_start_matches('(');
            assert!(
                key.starts_with(owner),
                "the key of {} is {}, and should begin with {owner}",
                table.name,
                table.key
            );
        }
    }
}
