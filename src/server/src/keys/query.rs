//! Answering who has which keys.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Map, Value, value::RawValue};

use super::Keys;
use crate::{
    database::{Error, Range},
    devices::Device,
    numbers::UserNumber,
    tables::{
        Stamped,
        keys::{CrossSigningKey, DeviceKeys, KeySignature, KeySignatureRow, StoredKey},
    },
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

/// Users whose keys are read together.
const USERS_TOGETHER: usize = 250;
/// Signatures that are read together of each; whoever has more is read apart.
const PAGE_SIGNATURES: usize = 64;

/// A user whose keys are asked for: of these devices, or of all.
struct AskedUser<'a> {
    user_id: &'a OwnedUserId,
    user: UserNumber,
    devices: &'a [OwnedDeviceId],
}

/// What is stored of a user's keys.
struct OfUser {
    devices: Vec<(Device, Option<Stamped<StoredKey>>)>,
    cross_signing: [(u8, Option<Stamped<StoredKey>>); 3],
    /// Those that may be shown to who asks.
    signatures: Vec<KeySignatureRow>,
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
        let mut asked = Vec::new();
        for ((user_id, devices), user) in local.into_iter().zip(numbers) {
            let Some(user) = user else { continue };
            if exists.next().flatten().is_some() {
                asked.push(AskedUser { user_id, user, devices });
            }
        }
        let mut queried = Queried::default();
        for asked in asked.chunks(USERS_TOGETHER) {
            for (asked, keys) in asked.iter().zip(self.keys_of(asking, asked).await?) {
                add_user(&mut queried, asking, asked, keys);
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

    /// What is stored of the keys of several users: five reads, however many they are.
    async fn keys_of(
        &self,
        asking: Option<UserNumber>,
        asked: &[AskedUser<'_>],
    ) -> Result<Vec<OfUser>, Error> {
        let users: Vec<UserNumber> = asked.iter().map(|asked| asked.user).collect();
        let own: Vec<_> = users.iter().map(|user| (*user, *user)).collect();
        let mut signatures = self.signatures_of(&own).await?;
        if let Some(asking) = asking {
            let others: Vec<_> = users.iter().map(|user| (*user, asking)).collect();
            for (own, others) in signatures.iter_mut().zip(self.signatures_of(&others).await?) {
                // One's own are there already.
                if own.1 != asking {
                    own.0.extend(others.0);
                }
            }
        }
        let lists = self.devices.lists(&users).await?;
        let wanted = asked.iter().zip(lists).map(|(asked, list)| {
            let is_wanted = |device: &&Device| asked.devices.is_empty() || asked.devices.contains(&device.id);
            list.iter().filter(is_wanted).cloned().collect::<Vec<Device>>()
        });
        let wanted: Vec<Vec<Device>> = wanted.collect();
        let places = users.iter().zip(&wanted);
        let places = places.flat_map(|(user, devices)| devices.iter().map(|device| (*user, device.number)));
        let keys = self.database.get_all::<DeviceKeys>(&places.collect::<Vec<_>>()).await?;
        let kinds =
            users.iter().flat_map(|user| [MASTER, SELF_SIGNING, USER_SIGNING].map(|kind| (*user, kind)));
        let cross_signing = self.database.get_all::<CrossSigningKey>(&kinds.collect::<Vec<_>>()).await?;
        let (mut keys, mut cross_signing) = (keys.into_iter(), cross_signing.into_iter());
        let of_users = wanted.into_iter().zip(signatures).map(|(devices, (signatures, _))| OfUser {
            devices: devices.into_iter().map(|device| (device, keys.next().flatten())).collect(),
            cross_signing: [MASTER, SELF_SIGNING, USER_SIGNING]
                .map(|kind| (kind, cross_signing.next().flatten())),
            signatures,
        });
        Ok(of_users.collect())
    }

    /// The signatures of a user's keys that `signer` made.
    async fn signatures(&self, user: UserNumber, signer: UserNumber) -> Result<Vec<KeySignatureRow>, Error> {
        let rows = self.database.scan_all(Range::<KeySignature>::prefix(&(user, signer))).await?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// The same for several users and signers, in their order, each with its signer.
    async fn signatures_of(
        &self,
        of: &[(UserNumber, UserNumber)],
    ) -> Result<Vec<(Vec<KeySignatureRow>, UserNumber)>, Error> {
        let ranges = of.iter().map(|key| Range::<KeySignature>::prefix(key).limit(PAGE_SIGNATURES));
        let pages = self.database.scan_many(&ranges.collect::<Vec<_>>()).await?;
        let mut signatures = Vec::with_capacity(of.len());
        for ((user, signer), page) in of.iter().zip(pages) {
            let rows = if page.more {
                self.signatures(*user, *signer).await?
            } else {
                page.rows.into_iter().map(|(_, row)| row).collect()
            };
            signatures.push((rows, *signer));
        }
        Ok(signatures)
    }
}

/// Adds what a user is shown of another's keys to an answer.
fn add_user(queried: &mut Queried, asking: Option<UserNumber>, asked: &AskedUser<'_>, keys: OfUser) {
    let OfUser { devices, cross_signing, signatures } = keys;
    let mut of_devices = BTreeMap::new();
    for (device, row) in devices {
        let Some(row) = row else { continue };
        let mut object = signed(&row.value, device.id.as_str(), &signatures);
        if let Some(name) = device.row.display_name {
            object.insert("unsigned".to_owned(), serde_json::json!({ "device_display_name": name }));
        }
        of_devices.extend(raw(&object).map(|json| (device.id, json)));
    }
    queried.device_keys.insert(asked.user_id.clone(), of_devices);
    for (kind, row) in cross_signing {
        let Some(row) = row else { continue };
        let keys = match kind {
            MASTER => &mut queried.master_keys,
            SELF_SIGNING => &mut queried.self_signing_keys,
            _ if asking == Some(asked.user) => &mut queried.user_signing_keys,
            _ => continue,
        };
        let public = public_part(&row.value).unwrap_or_default();
        keys.extend(raw(&signed(&row.value, &public, &signatures)).map(|json| (asked.user_id.clone(), json)));
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
