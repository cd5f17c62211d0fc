//! Tables of other servers. Ids 190 to 199.

use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::Hash128;

super::tables! {
    /// The document of signing keys that a server published last, by hash of its name.
    ServerKeyDocument = 190 in OPERATIONAL: Hash128 => ServerKeyDocumentRow, Operational, Forever;
    /// Signing keys of servers, also those that they published before: hash of the server's name, hash of the key's id.
    /// Old events are verified with them for as long as there are old events.
    ServerKey = 191 in OPERATIONAL: (Hash128, Hash128) => ServerKeyRow, Operational, Forever;
}

/// A document of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeyDocumentRow {
    /// The server.
    pub server: String,
    /// The document as the server signed it.
    pub json: String,
    /// When it was read, in milliseconds since the epoch.
    pub fetched_ms: u64,
    /// Until when it says that its keys are valid, at most a week after it was read.
    pub valid_until_ms: u64,
}
impl Stored for ServerKeyDocumentRow {}

/// A signing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeyRow {
    /// Its id with the algorithm.
    pub key_id: String,
    /// The public key.
    pub key: Vec<u8>,
    /// Until when it is known to be valid, in milliseconds since the epoch. For one that is not used any more: until when
    /// it was.
    pub valid_until_ms: u64,
    /// Whether the server uses it no more: it verifies events of its time, and no requests.
    pub retired: bool,
}
impl Stored for ServerKeyRow {}
