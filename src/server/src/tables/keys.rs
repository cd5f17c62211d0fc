//! Tables of keys that clients upload, and of their backups. Ids 150 to 179, and 185 to 186.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::{Stamped, Stored};
use crate::numbers::{DeviceNumber, Hash128, UserNumber};

super::tables! {
    /// A device's identity keys.
    DeviceKeys = 150 in KEYS: (UserNumber, DeviceNumber) => Stamped<StoredKey>, KeyMaterial, Device;
    /// One-time keys in the order in which they are handed out: by hash of the algorithm, upload, number in the upload.
    OneTimeKey = 151 in KEYS: (UserNumber, DeviceNumber, Hash128, Position, u32) => OneTimeKeyRow, KeyMaterial, Device;
    /// The one-time keys that are there, by hash of their id.
    OneTimeKeyById = 152 in KEYS: (UserNumber, DeviceNumber, Hash128) => OneTimeKeyDigest, KeyMaterial, Device;
    /// Fallback keys by hash of the algorithm.
    FallbackKey = 153 in KEYS: (UserNumber, DeviceNumber, Hash128) => FallbackKeyRow, KeyMaterial, Device;
    /// How many one-time keys and which unused fallback keys a device has.
    KeyCounts = 154 in KEYS: (UserNumber, DeviceNumber) => Stamped<KeyCountsRow>, Operational, Device;
    /// A user's cross-signing keys by kind: 1 = master, 2 = self-signing, 3 = user-signing.
    CrossSigningKey = 155 in KEYS: (UserNumber, u8) => Stamped<StoredKey>, KeyMaterial, User;
    /// Verified signatures: whose key, who signed, hash of the key's or device's id, hash of the signing key's id.
    KeySignature = 156 in KEYS: (UserNumber, UserNumber, Hash128, Hash128) => KeySignatureRow, KeyMaterial, User;
    /// When a user's devices or keys changed last.
    DeviceListHead = 157 in KEYS: UserNumber => Stamped<DeviceListRow>, Device, Forever;
    /// Changes of users' devices or keys in their order, for as long as syncs are likely to ask.
    DeviceListChange = 158 in KEYS: (Position, UserNumber) => (), Device, Seconds(30 * 86_400);
    /// Whose keys a user signed, for the user's own devices.
    KeySignatureChange = 159 in KEYS: (UserNumber, Position, UserNumber) => (), Contact, User;
    /// When a device uploaded keys last, in milliseconds since the epoch.
    KeyUpload = 163 in KEYS: (UserNumber, DeviceNumber) => u64, Device, Device;
    /// Versions of a user's key backup.
    BackupVersion = 165 in KEYS: (UserNumber, u32) => BackupVersionRow, KeyMaterial, User;
    /// Backed-up room keys: version, hash of the room's id, hash of the session's id.
    BackupKey = 166 in KEYS: (UserNumber, u32, Hash128, Hash128) => BackupKeyRow, KeyMaterial, User;
    /// What a client needs to wake a user's dehydrated device, of which there is at most one.
    DehydratedDevice = 185 in KEYS: (UserNumber, DeviceNumber) => DehydratedDeviceRow, KeyMaterial, Device;
    /// Servers that did not answer when they were asked for keys, by hash of their name; a thousand at most.
    KeyFailure = 186 in KEYS: Hash128 => KeyFailureRow, Operational, Seconds(KEY_FAILURE_SECONDS);
}

/// How long it is remembered that a server did not answer, in seconds after the last time.
pub const KEY_FAILURE_SECONDS: u64 = 30 * 86_400;

/// A key object as JSON, without signatures by others and without `unsigned`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// The object.
    pub json: String,
}
impl Stored for StoredKey {}

/// A one-time key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeKeyRow {
    /// Its id with the algorithm.
    pub key_id: String,
    /// The key as JSON.
    pub json: String,
}
impl Stored for OneTimeKeyRow {}

/// What is remembered of a one-time key that is there: enough to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeKeyDigest {
    /// Hash of its canonical JSON.
    pub digest: Hash128,
}
impl Stored for OneTimeKeyDigest {}

/// A fallback key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackKeyRow {
    /// Its id with the algorithm.
    pub key_id: String,
    /// The key as JSON.
    pub json: String,
    /// Whether it was handed out.
    pub used: bool,
}
impl Stored for FallbackKeyRow {}

/// What a device has left to be claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCountsRow {
    /// One-time keys by algorithm, sorted; none that is zero.
    pub one_time: Vec<(String, u32)>,
    /// Algorithms of fallback keys that were not handed out, sorted.
    pub unused_fallback: Vec<String>,
}
impl Stored for KeyCountsRow {}

/// A signature of someone's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySignatureRow {
    /// The id of the signed device, or the public part of the signed key.
    pub target: String,
    /// Who signed.
    pub signer: String,
    /// With which key.
    pub key_id: String,
    /// The signature, in base64.
    pub signature: String,
}
impl Stored for KeySignatureRow {}

/// A dehydrated device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DehydratedDeviceRow {
    /// The device's private keys as its client encrypted them, as JSON.
    pub json: String,
    /// Hash of the request that made it: the same again changes nothing.
    pub request: Hash128,
}
impl Stored for DehydratedDeviceRow {}

/// A server that did not answer when it was asked for keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFailureRow {
    /// Its name.
    pub server: String,
    /// Asked for keys of devices.
    pub query: Option<KeyFailures>,
    /// Asked for one-time keys.
    pub claim: Option<KeyFailures>,
}
impl Stored for KeyFailureRow {}

/// How often a server did not answer requests of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFailures {
    /// How often, since `first_ms`.
    pub count: u64,
    /// When it was the first time, in milliseconds since the epoch.
    pub first_ms: u64,
    /// When it was the last time.
    pub last_ms: u64,
    /// Why, the last time: a word, and the HTTP status if it answered with an error.
    pub reason: String,
    /// When it answered again, if it has since.
    pub answered_ms: Option<u64>,
}

/// Says nothing but its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceListRow {}
impl Stored for DeviceListRow {}

/// A version of a key backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupVersionRow {
    /// The algorithm.
    pub algorithm: String,
    /// What the algorithm needs, as JSON.
    pub auth_data: String,
    /// Changes whenever a key does.
    pub etag: u64,
    /// How many keys there are.
    pub count: u64,
    /// Whether it was deleted: its number is not given out again.
    pub deleted: bool,
}
impl Stored for BackupVersionRow {}

/// A backed-up room key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupKeyRow {
    /// The room.
    pub room_id: String,
    /// The session.
    pub session_id: String,
    /// The key data as JSON.
    pub json: String,
}
impl Stored for BackupKeyRow {}
