//! Keys that clients upload: of devices, for one use, for fallback, for cross-signing, and signatures of them.
//!
//! What can be verified is verified before it is stored: a signature that does not fit its key is never shown to anybody.
//! Keys of users of other servers are not this service's business, but what its users signed of them is.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#end-to-end-encryption>

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use allod_storage::{CommitError, Position};
use roaring::RoaringBitmap;
use ruma::{DeviceId, UserId};

use crate::{
    database::{Database, Error, Range},
    devices::Devices,
    numbers::{DeviceNumber, Hash128, UserNumber},
    tables::keys::{DeviceListChange, DeviceListHead, KeyCounts, KeyCountsRow, KeySignatureChange},
    users::Users,
};

mod claim;
mod claimable;
mod cross_signing;
mod device;
mod object;
mod query;
mod signatures;
mod upload;

pub use claim::{Claimed, Claims};
pub use cross_signing::{Confirmation, CrossSigningUpload};
pub use device::DeviceView;
pub use query::Queried;
pub use signatures::{RemoteMasters, SignatureFailure, SignatureFailures, SignedObjects};
pub use upload::Upload;

/// How often a write is tried again when someone else was faster.
const ATTEMPTS_MAX: usize = 32;
/// Changes that are read one by one; beyond that, each user's last change is looked up.
const LISTED_CHANGES_MAX: usize = 1_000;

/// Why keys were not accepted or given out.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The object is not what the specification says.
    #[error("{0}")]
    Malformed(&'static str),
    /// The object names another user or device than the caller's.
    #[error("the key is for another user or device")]
    NotYours,
    /// A signature is missing or does not fit.
    #[error("{0}")]
    Signature(Cow<'static, str>),
    /// What should be a key is none.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// Another key has to be there first, or in the same request.
    #[error("there is no master key")]
    NoMasterKey,
    /// The public key is also the id of a device.
    #[error("the key has the id of a device")]
    DeviceId,
    /// A one-time key with this id and another content is there.
    #[error("One time key {0} already exists.")]
    AlreadyExists(String),
    /// The keys are too long, or too many.
    #[error("too many keys, or too long ones")]
    TooLarge,
    /// The device was deleted.
    #[error("the device is gone")]
    NoDevice,
    /// Too many others write the same keys.
    #[error("too many requests for the same keys at once")]
    Busy,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<CommitError> for KeyError {
    fn from(error: CommitError) -> Self {
        Self::Database(error.into())
    }
}

/// Whose keys are uploaded: the session's user and device.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The user's number.
    pub user: UserNumber,
    /// The device.
    pub device_id: &'a DeviceId,
    /// The device's number.
    pub device: DeviceNumber,
}

/// What a device has left to be claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// One-time keys by algorithm; none that is zero.
    pub one_time: Vec<(String, u32)>,
    /// Algorithms of fallback keys that were not handed out.
    pub unused_fallback: Vec<String>,
    /// When they changed last.
    pub position: Position,
}

/// The service of keys.
#[derive(Clone, Debug)]
pub struct Keys {
    database: Database,
    users: Users,
    devices: Devices,
    queues: Arc<claim::Queues>,
    /// How many device keys were uploaded without a signature since the start.
    unsigned: Arc<AtomicU64>,
}

impl Keys {
    /// Over a database, and the devices that keys belong to.
    pub fn new(database: Database, users: Users, devices: Devices) -> Self {
        Self { database, users, devices, queues: Arc::default(), unsigned: Arc::default() }
    }

    /// What a device has left to be claimed, now.
    pub async fn counts(&self, user: UserNumber, device: DeviceNumber) -> Result<Counts, Error> {
        let row = self.database.get::<KeyCounts>(&(user, device)).await?;
        Ok(row.map_or_else(Counts::default, |row| counts(row.value, row.position)))
    }

    /// Which of `users` have other devices or keys than before, after `since` and up to `upto`, and whose keys `user` has
    /// signed since. Ordered by number. A user who changed again after `upto` may be left to the next sync.
    pub async fn changed(
        &self,
        user: UserNumber,
        users: &RoaringBitmap,
        since: Position,
        upto: Position,
    ) -> Result<Vec<UserNumber>, Error> {
        if since >= upto {
            return Ok(Vec::new());
        }
        let (low, high) = (since.next(), upto.next());
        let range = Range::<DeviceListChange>::between(&low, &high).limit(LISTED_CHANGES_MAX);
        let page = self.database.scan(&range).await?;
        let mut changed: RoaringBitmap = if page.more || self.forgot_changes(since).await? {
            self.changed_heads(users, since, upto).await?
        } else {
            page.rows.iter().map(|((_, user), ())| user.0).filter(|user| users.contains(*user)).collect()
        };
        let signed = Range::<KeySignatureChange>::between(&(user, low), &(user, high));
        changed.extend(self.database.scan_all(signed).await?.iter().map(|((_, _, target), ())| target.0));
        Ok(changed.into_iter().map(UserNumber).collect())
    }

    /// How many device keys were uploaded without a signature since the start: no client believes them.
    pub fn unsigned_uploads(&self) -> u64 {
        self.unsigned.load(Ordering::Relaxed)
    }

    /// When a user's devices or keys changed last.
    pub async fn last_change(&self, user: UserNumber) -> Result<Option<Position>, Error> {
        Ok(self.database.get::<DeviceListHead>(&user).await?.map(|row| row.position))
    }

    /// A number that grows with each change of a user's devices or keys; 0 if there was none.
    pub async fn device_list_version(&self, user: UserNumber) -> Result<u64, Error> {
        Ok(self.last_change(user).await?.map_or(0, Position::get))
    }

    /// Whether changes after `since` may have been forgotten: the oldest that is remembered is younger.
    async fn forgot_changes(&self, since: Position) -> Result<bool, Error> {
        let oldest = self.database.scan(&Range::<DeviceListChange>::whole().limit(1)).await?;
        Ok(oldest.rows.first().is_none_or(|((position, _), ())| *position > since))
    }

    async fn changed_heads(
        &self,
        users: &RoaringBitmap,
        since: Position,
        upto: Position,
    ) -> Result<RoaringBitmap, Error> {
        let users: Vec<UserNumber> = users.iter().map(UserNumber).collect();
        let heads = self.database.get_all::<DeviceListHead>(&users).await?;
        let changed = users.iter().zip(heads).filter(|(_, head)| {
            head.as_ref().is_some_and(|head| head.position > since && head.position <= upto)
        });
        Ok(changed.map(|(user, _)| user.0).collect())
    }

    fn algorithm_hash(&self, algorithm: &str) -> Hash128 {
        self.database.hash("key algorithm", algorithm)
    }

    /// Stands in keys for the id of a device, or the public part of a cross-signing key.
    fn target_hash(&self, target: &str) -> Hash128 {
        self.database.hash("signed key", target)
    }

    fn signing_key_hash(&self, key_id: &str) -> Hash128 {
        self.database.hash("signing key", key_id)
    }
}

fn counts(row: KeyCountsRow, position: Position) -> Counts {
    Counts { one_time: row.one_time, unused_fallback: row.unused_fallback, position }
}

#[cfg(test)]
mod tests;
