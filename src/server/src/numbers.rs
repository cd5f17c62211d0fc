//! Short numbers that stand for users, rooms, devices and events in keys, so that keys hold no personal text.

use std::sync::atomic::{AtomicU32, Ordering};

use allod_storage::codec::{KeyCodec, KeyWriter};
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl KeyCodec for $name {
            fn encode(&self, writer: &mut KeyWriter) {
                self.0.encode(writer);
            }
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                u32::decode(bytes).map(Self)
            }
        }
    };
}

number!(
    /// A user, local or remote.
    UserNumber
);
number!(
    /// A room.
    RoomNumber
);
number!(
    /// A device of a local user; unique over all users.
    DeviceNumber
);
number!(
    /// An event within its room.
    EventNumber
);

/// A keyed 128-bit hash that stands in keys for text: an id, a token, a transaction id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hash128(pub [u8; 16]);

impl KeyCodec for Hash128 {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.extend(&self.0);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        <[u8; 16]>::decode(bytes).map(Self)
    }
}

/// Gives out numbers of one kind. A number whose commit fails is lost, not reused.
#[derive(Debug)]
pub struct Counter(AtomicU32);

impl Counter {
    /// A counter whose next number follows the highest one stored.
    pub fn after(highest: Option<u32>) -> Self {
        Self(AtomicU32::new(highest.map_or(1, |highest| highest.saturating_add(1))))
    }

    /// The next number.
    pub fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}
