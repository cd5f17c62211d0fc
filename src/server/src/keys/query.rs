//! Answering who has which keys.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Map, Value, value::RawValue};

use super::Keys;
use crate::{
    database::{Error, Range},
    numbers::UserNumber,
    tables::keys::{CrossSigningKey, DeviceKeys, KeySignature, KeySignatureRow, StoredKey},
};

/// Kinds of cross-signing keys as they stand in keys.
pub(super) const MASTER: u8 = 1;
pub(super) const SELF_SIGNING: u8 = 2;
pub(super) const USER_SIGNING: u8 = 3;

/// Keys of local users.
#[derive(Debug, Default)]
pub struct Queried {
    /// Device keys; an entry for each user who exists, even without devices.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Box<RawValue>>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    /// The user-signing key of the one who asks.
    pub user_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
}

impl Keys {
    /// The keys of the local users among `wanted`: of all devices, or of those listed. `asking` sees the signatures
    /// that they made themselves, and nobody else's but each user's own.
    pub async fn query(
        &self,
        asking: Option<UserNumber>,
        wanted: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<Queried, Error> {
        let local: Vec<_> = wanted.iter().filter(|(user_id, _)| self.users.is_local(user_id)).collect();
        let ids: Vec<&UserId> = local.iter().map(|(user_id, _)| &***user_id).collect();
        let numbers = self.users.numbers(&ids).await?;
        let users: Vec<UserNumber> = numbers.iter().flatten().copied().collect();
        let mut exists = self.users.accounts(&users).await?.into_iter();
        let mut queried = Queried::default();
        for ((user_id, devices), user) in local.into_iter().zip(numbers) {
            let Some(user) = user else { continue };
            if exists.next().flatten().is_some() {
                self.query_user(&mut queried, asking, user_id, user, devices).await?;
            }
        }
        Ok(queried)
    }

    /// Adds the signatures that `asking` made of the master keys of other servers' users: only they see them.
    pub async fn add_own_signatures(&self, asking: UserNumber, queried: &mut Queried) -> Result<(), Error> {
        let ids: Vec<&UserId> = queried.master_keys.keys().map(|user_id| &**user_id).collect();
        let numbers = self.users.numbers(&ids).await?;
        for (key, user) in queried.master_keys.values_mut().zip(numbers) {
            let Some(user) = user else { continue };
            let signatures = self.signatures(user, asking).await?;
            if signatures.is_empty() {
                continue;
            }
            let stored = StoredKey { json: key.get().to_owned() };
            let public = public_part(&stored).unwrap_or_default();
            if let Some(json) = raw(&signed(&stored, &public, &signatures)) {
                *key = json;
            }
        }
        Ok(())
    }

    async fn query_user(
        &self,
        queried: &mut Queried,
        asking: Option<UserNumber>,
        user_id: &OwnedUserId,
        user: UserNumber,
        wanted: &[OwnedDeviceId],
    ) -> Result<(), Error> {
        let mut signatures = self.signatures(user, user).await?;
        if let Some(asking) = asking.filter(|asking| *asking != user) {
            signatures.extend(self.signatures(user, asking).await?);
        }
        let list = self.devices.list(user).await?;
        let devices: Vec<_> =
            list.iter().filter(|device| wanted.is_empty() || wanted.contains(&device.id)).collect();
        let keys: Vec<_> = devices.iter().map(|device| (user, device.number)).collect();
        let mut of_devices = BTreeMap::new();
        for (device, row) in devices.into_iter().zip(self.database.get_all::<DeviceKeys>(&keys).await?) {
            let Some(row) = row else { continue };
            let mut object = signed(&row.value, device.id.as_str(), &signatures);
            if let Some(name) = &device.row.display_name {
                object.insert("unsigned".to_owned(), serde_json::json!({ "device_display_name": name }));
            }
            of_devices.extend(raw(&object).map(|json| (device.id.clone(), json)));
        }
        queried.device_keys.insert(user_id.clone(), of_devices);
        let kinds = [(user, MASTER), (user, SELF_SIGNING), (user, USER_SIGNING)];
        let rows = self.database.multi_get::<CrossSigningKey>(&kinds).await?;
        for ((_, kind), row) in kinds.into_iter().zip(rows) {
            let Some(row) = row else { continue };
            let object =
                signed(&row.value, public_part(&row.value).as_deref().unwrap_or_default(), &signatures);
            let Some(json) = raw(&object) else { continue };
            let keys = match kind {
                MASTER => &mut queried.master_keys,
                SELF_SIGNING => &mut queried.self_signing_keys,
                _ if asking == Some(user) => &mut queried.user_signing_keys,
                _ => continue,
            };
            keys.insert(user_id.clone(), json);
        }
        Ok(())
    }

    /// The signatures of a user's keys that `signer` made.
    async fn signatures(&self, user: UserNumber, signer: UserNumber) -> Result<Vec<KeySignatureRow>, Error> {
        let rows = self.database.scan_all(Range::<KeySignature>::prefix(&(user, signer))).await?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }
}

/// The public part of a stored cross-signing key: it has one.
pub(super) fn public_part(key: &StoredKey) -> Option<String> {
    let object: Map<String, Value> = serde_json::from_str(&key.json).ok()?;
    Some(object.get("keys")?.as_object()?.values().next()?.as_str()?.to_owned())
}

/// A stored key with the signatures of `target`.
fn signed(key: &StoredKey, target: &str, signatures: &[KeySignatureRow]) -> Map<String, Value> {
    let mut object: Map<String, Value> = serde_json::from_str(&key.json).unwrap_or_default();
    let all = object.entry("signatures").or_insert_with(|| Map::new().into());
    for row in signatures.iter().filter(|row| row.target == target) {
        let Some(all) = all.as_object_mut() else { break };
        let by_user = all.entry(row.signer.clone()).or_insert_with(|| Map::new().into());
        if let Some(by_user) = by_user.as_object_mut() {
            by_user.insert(row.key_id.clone(), row.signature.clone().into());
        }
    }
    object
}

fn raw(object: &Map<String, Value>) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(object).ok()
}
