//! Uploading a device's identity, one-time and fallback keys.

use std::collections::BTreeMap;

use allod_storage::{CommitError, Position};
use serde_json::value::RawValue;

use super::{
    ATTEMPTS_MAX, Counts, KeyError, Keys, Owner, counts,
    object::{ED25519, KeyObject, OBJECT_BYTES_MAX, is_public_key},
};
use crate::{
    database::Write,
    devices::list_changed,
    log::Happened,
    numbers::Hash128,
    tables::{
        Stamped,
        accounts::Device,
        keys::{
            DeviceKeys, FallbackKey, FallbackKeyRow, KeyCounts, KeyCountsRow, KeySignature, OneTimeKey,
            OneTimeKeyById, OneTimeKeyDigest, OneTimeKeyRow, StoredKey,
        },
    },
};

/// Most one-time keys that a device may have.
const ONE_TIME_KEYS_MAX: u32 = 2_000;
/// Most bytes of keys in one upload, well below the limit of a batch.
const UPLOAD_BYTES_MAX: usize = 512 * 1024;
/// Longest id of a one-time key, with its algorithm, in bytes.
const KEY_ID_BYTES_MAX: usize = 255;

/// What a device uploads.
#[derive(Debug, Default)]
pub struct Upload {
    /// Its identity keys.
    pub device_keys: Option<Box<RawValue>>,
    /// One-time keys by id.
    pub one_time_keys: BTreeMap<String, Box<RawValue>>,
    /// Fallback keys by id.
    pub fallback_keys: BTreeMap<String, Box<RawValue>>,
}

impl Keys {
    /// Stores what a device uploads, all or nothing, and returns what it has left to be claimed. The same keys again are
    /// no change.
    pub async fn upload(&self, owner: Owner<'_>, upload: &Upload) -> Result<Counts, KeyError> {
        let keys = upload.device_keys.as_ref().map(|json| device_keys(owner, json)).transpose()?;
        check_one_time(&upload.one_time_keys)?;
        check_one_time(&upload.fallback_keys)?;
        for _ in 0..ATTEMPTS_MAX {
            let mut write = Write::new();
            let device_exists = write.exists::<Device>(&(owner.user, owner.device));
            if let Some((object, json)) = &keys {
                self.stage_device_keys(&mut write, owner, object, json).await?;
            }
            let left = self.stage_claimable(&mut write, owner, upload).await?;
            if write.is_empty() {
                return Ok(left);
            }
            match self.database.commit(write).await {
                Ok(_) => return Ok(left),
                Err(CommitError::Conflict(check)) if check == device_exists => {
                    return Err(KeyError::NoDevice);
                }
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Busy)
    }

    async fn stage_device_keys(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        object: &KeyObject,
        json: &str,
    ) -> Result<(), KeyError> {
        let key = (owner.user, owner.device);
        let old = self.database.get::<DeviceKeys>(&key).await?;
        if let Some(old) = &old {
            if old.value.json == json {
                return Ok(());
            }
            write.equals::<DeviceKeys>(&key, old);
            if KeyObject::parse(&old.value.json)?.stripped() != object.stripped() {
                // Signatures of other keys under the same device id.
                let target = self.target_hash(owner.device_id.as_str());
                write.delete_prefix::<KeySignature>(&(owner.user, owner.user, target));
            }
        } else {
            write.absent::<DeviceKeys>(&key);
        }
        write.put::<DeviceKeys>(&key, &Stamped::pending(StoredKey { json: json.to_owned() }));
        list_changed(write, owner.user);
        Ok(())
    }

    /// Adds one-time and fallback keys; returns what will be left to be claimed.
    async fn stage_claimable(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        upload: &Upload,
    ) -> Result<Counts, KeyError> {
        let key = (owner.user, owner.device);
        let old = self.database.get::<KeyCounts>(&key).await?;
        let mut left = old.as_ref().map(|row| row.value.clone()).unwrap_or_default();
        self.stage_one_time(write, owner, &upload.one_time_keys, &mut left).await?;
        self.stage_fallback(write, owner, &upload.fallback_keys, &mut left).await?;
        let total = left.one_time.iter().fold(0_u32, |total, (_, count)| total.saturating_add(*count));
        if total > ONE_TIME_KEYS_MAX {
            return Err(KeyError::TooLarge);
        }
        let position = old.as_ref().map_or(Position::ZERO, |row| row.position);
        if old.as_ref().map(|row| &row.value) != Some(&left) && left != KeyCountsRow::default() {
            match &old {
                Some(old) => write.equals::<KeyCounts>(&key, old),
                None => write.absent::<KeyCounts>(&key),
            };
            write.put::<KeyCounts>(&key, &Stamped::pending(left.clone()));
            write.log(Happened::UserData { user: owner.user });
        }
        Ok(counts(left, position))
    }

    async fn stage_one_time(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        keys: &BTreeMap<String, Box<RawValue>>,
        left: &mut KeyCountsRow,
    ) -> Result<(), KeyError> {
        let Owner { user, device, .. } = owner;
        let by_id: Vec<_> = keys.keys().map(|id| (user, device, self.one_time_id_hash(id))).collect();
        let existing = self.database.get_all::<OneTimeKeyById>(&by_id).await?;
        for (number, ((place, (key_id, json)), existing)) in
            (0..).zip(by_id.into_iter().zip(keys).zip(existing))
        {
            let digest = self.digest(json)?;
            match existing {
                Some(there) if there.digest == digest => continue,
                Some(_) => return Err(KeyError::AlreadyExists(key_id.clone())),
                None => {}
            }
            let algorithm = algorithm(key_id);
            write.absent::<OneTimeKeyById>(&place);
            write.put::<OneTimeKeyById>(&place, &OneTimeKeyDigest { digest });
            let row = OneTimeKeyRow { key_id: key_id.clone(), json: json.get().to_owned() };
            let queue = (user, device, self.algorithm_hash(algorithm), Position::PENDING, number);
            write.put::<OneTimeKey>(&queue, &row);
            match left.one_time.binary_search_by(|(known, _)| known.as_str().cmp(algorithm)) {
                Ok(index) => {
                    if let Some((_, count)) = left.one_time.get_mut(index) {
                        *count = count.saturating_add(1);
                    }
                }
                Err(index) => left.one_time.insert(index, (algorithm.to_owned(), 1)),
            }
        }
        Ok(())
    }

    async fn stage_fallback(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        keys: &BTreeMap<String, Box<RawValue>>,
        left: &mut KeyCountsRow,
    ) -> Result<(), KeyError> {
        for (key_id, json) in keys {
            let algorithm = algorithm(key_id);
            let key = (owner.user, owner.device, self.algorithm_hash(algorithm));
            let old = self.database.get::<FallbackKey>(&key).await?;
            if old.as_ref().is_some_and(|old| old.key_id == *key_id && old.json == json.get()) {
                continue;
            }
            match &old {
                Some(old) => write.equals::<FallbackKey>(&key, old),
                None => write.absent::<FallbackKey>(&key),
            };
            let row = FallbackKeyRow { key_id: key_id.clone(), json: json.get().to_owned(), used: false };
            write.put::<FallbackKey>(&key, &row);
            if let Err(index) = left.unused_fallback.binary_search_by(|known| known.as_str().cmp(algorithm)) {
                left.unused_fallback.insert(index, algorithm.to_owned());
            }
        }
        Ok(())
    }

    pub(super) fn one_time_id_hash(&self, key_id: &str) -> Hash128 {
        self.database.hash("one-time key", key_id)
    }

    /// Hash of a one-time key, which may be a string or an object.
    fn digest(&self, json: &RawValue) -> Result<Hash128, KeyError> {
        let value: ruma::CanonicalJsonValue = serde_json::from_str(json.get())
            .map_err(|_| KeyError::Malformed("a one-time key is not canonical JSON"))?;
        Ok(self.database.hash("one-time key content", value.to_string()))
    }
}

/// The part of a key's id before the colon.
pub(super) fn algorithm(key_id: &str) -> &str {
    key_id.split_once(':').map_or(key_id, |(algorithm, _)| algorithm)
}

/// Checks device keys; returns them, and what is to be stored: the object with the device's own signature alone.
fn device_keys(owner: Owner<'_>, json: &RawValue) -> Result<(KeyObject, String), KeyError> {
    let object = KeyObject::parse(json.get())?;
    if object.text("user_id") != Some(owner.user_id.as_str())
        || object.text("device_id") != Some(owner.device_id.as_str())
    {
        return Err(KeyError::NotYours);
    }
    if object.texts("algorithms").is_none() || !object.has_signatures() {
        return Err(KeyError::Malformed("device keys need `algorithms` and `signatures`"));
    }
    let mut signing_key = None;
    for (id, key) in object.keys()? {
        let name = id.split_once(':').map(|(_, name)| name);
        if name != Some(owner.device_id.as_str()) || !is_public_key(key) {
            return Err(KeyError::Malformed(
                "a device key is not named after its device, or not 32 bytes long",
            ));
        }
        if id.starts_with(ED25519) {
            signing_key = Some((id, key));
        }
    }
    let (id, key) = signing_key.ok_or(KeyError::Malformed("device keys need an ed25519 key"))?;
    let signature = object.signature(owner.user_id, id, key)?;
    let stored = object.with_signatures(signature.map(|signature| (owner.user_id, id, signature)));
    Ok((object, stored))
}

fn check_one_time(keys: &BTreeMap<String, Box<RawValue>>) -> Result<(), KeyError> {
    let mut bytes = 0_usize;
    for (id, json) in keys {
        let named =
            id.split_once(':').is_some_and(|(algorithm, name)| !algorithm.is_empty() && !name.is_empty());
        if !named {
            return Err(KeyError::Malformed("the id of a one-time key is not `algorithm:name`"));
        }
        if id.len() > KEY_ID_BYTES_MAX || json.get().len() > OBJECT_BYTES_MAX {
            return Err(KeyError::TooLarge);
        }
        if !json.get().starts_with(['{', '"']) {
            return Err(KeyError::Malformed("a one-time key is neither a string nor an object"));
        }
        bytes = bytes.saturating_add(json.get().len()).saturating_add(KEY_ID_BYTES_MAX);
    }
    if bytes > UPLOAD_BYTES_MAX { Err(KeyError::TooLarge) } else { Ok(()) }
}
