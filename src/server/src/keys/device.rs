//! A device's keys as administrators see them who look for the cause of an undecryptable message: counts, no keys.

use allod_storage::Position;

use super::{Keys, claimable::is_verified, upload::is_signed};
use crate::{
    database::Error,
    numbers::{DeviceNumber, UserNumber},
    tables::keys::{DeviceKeys, KeyCounts},
};

/// What a device has uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceView {
    /// Whether others can encrypt for it, and whether its keys are signed; none without device keys.
    pub device_keys_signed: Option<bool>,
    /// When its identity was uploaded last.
    pub identity_position: Option<Position>,
    /// One-time keys that are left, by algorithm, with whether clients can verify them.
    pub one_time: Vec<(String, u32, bool)>,
    /// Algorithms of fallback keys that were not given out.
    pub unused_fallback: Vec<String>,
    /// When its one-time or fallback keys changed last, by an upload or by being given out.
    pub keys_position: Option<Position>,
}

impl Keys {
    /// What a device has uploaded.
    pub async fn view(&self, user: UserNumber, device: DeviceNumber) -> Result<DeviceView, Error> {
        let key = (user, device);
        let identity = self.database.get::<DeviceKeys>(&key).await?;
        let counts = self.database.get::<KeyCounts>(&key).await?;
        let left = counts.as_ref().map(|row| row.value.clone()).unwrap_or_default();
        let verified = |(algorithm, count): (String, u32)| {
            let verified = is_verified(&algorithm);
            (algorithm, count, verified)
        };
        Ok(DeviceView {
            device_keys_signed: identity.as_ref().map(|row| is_signed(&row.value.json)),
            identity_position: identity.map(|row| row.position),
            one_time: left.one_time.into_iter().map(verified).collect(),
            unused_fallback: left.unused_fallback,
            keys_position: counts.map(|row| row.position),
        })
    }
}
