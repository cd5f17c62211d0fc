//! Uploading a device's identity, one-time and fallback keys.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use allod_storage::{CommitError, Position};
use serde_json::value::RawValue;

use super::{
    ATTEMPTS_MAX, Counts, KeyError, Keys, Owner,
    claimable::{self, Claimable},
    counts,
    object::{CURVE25519, ED25519, KeyObject, SigningKey, is_agreement_key, is_signing_key},
    query::{SELF_SIGNING, public_part},
};
use crate::{
    database::Write,
    devices::list_changed,
    log::Happened,
    numbers::{Hash128, UserNumber},
    tables::{
        Stamped,
        accounts::Device,
        keys::{
            CrossSigningKey, DeviceKeys, FallbackKey, FallbackKeyRow, KeyCounts, KeyCountsRow, KeySignature,
            KeySignatureRow, KeyUpload, OneTimeKey, OneTimeKeyById, OneTimeKeyDigest, OneTimeKeyRow,
            StoredKey,
        },
    },
};

/// Most one-time keys that a device may have.
const ONE_TIME_KEYS_MAX: u32 = 2_000;
/// The algorithm for which a device needs a key to agree on secrets with.
const OLM: &str = "m.olm.v1.curve25519-aes-sha2";

/// Where a signature stands.
type SignatureKey = (UserNumber, UserNumber, Hash128, Hash128);

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

/// An upload whose parts are well-formed.
struct Checked {
    /// The identity keys, and what is to be stored of them.
    device_keys: Option<(KeyObject, String)>,
    one_time: Vec<Claimable>,
    fallback: Vec<Claimable>,
}

/// What a device has once a write is committed.
struct Staged {
    /// What it signs with.
    signing_key: Option<SigningKey>,
    /// Whether it signs with another key than before: what it signed before is worth nothing.
    replaced: bool,
    /// What is left to be claimed.
    left: KeyCountsRow,
}

impl Keys {
    /// Stores what a device uploads, all or nothing, and returns what it has left to be claimed. The same keys again are
    /// no change.
    pub async fn upload(&self, owner: Owner<'_>, upload: &Upload) -> Result<Counts, KeyError> {
        let checked = check(owner, upload)?;
        for _ in 0..ATTEMPTS_MAX {
            let mut write = Write::new();
            let device_exists = write.exists::<Device>(&(owner.user, owner.device));
            let left = self.stage_upload(&mut write, owner, &checked).await?;
            if write.is_empty() {
                return Ok(left);
            }
            write.put::<KeyUpload>(&(owner.user, owner.device), &self.devices.now_ms());
            match self.database.commit(write).await {
                Ok(_) => {
                    self.count_unsigned(&checked);
                    return Ok(left);
                }
                Err(CommitError::Conflict(check)) if check == device_exists => {
                    return Err(KeyError::NoDevice);
                }
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Busy)
    }

    /// Adds the keys of a device that the same write makes, which must be signed.
    pub(crate) async fn stage_new_device(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        upload: &Upload,
    ) -> Result<(), KeyError> {
        let checked = check(owner, upload)?;
        if !checked.device_keys.as_ref().is_some_and(|(_, json)| is_signed(json)) {
            return Err(KeyError::Signature("the device keys are not signed by their device".into()));
        }
        self.stage_upload(write, owner, &checked).await?;
        write.put::<KeyUpload>(&(owner.user, owner.device), &self.devices.now_ms());
        Ok(())
    }

    fn count_unsigned(&self, checked: &Checked) {
        if checked.device_keys.as_ref().is_some_and(|(_, json)| !is_signed(json)) {
            self.unsigned.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("device keys without a signature were uploaded");
        }
    }

    /// Adds all of an upload to a write; returns what will be left to be claimed.
    async fn stage_upload(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        checked: &Checked,
    ) -> Result<Counts, KeyError> {
        let key = (owner.user, owner.device);
        let mut staged = self.stage_device_keys(write, owner, checked.device_keys.as_ref()).await?;
        for claimable in checked.one_time.iter().chain(&checked.fallback) {
            claimable.check_signature(owner, staged.signing_key.as_ref())?;
        }
        let old = self.database.get::<KeyCounts>(&key).await?;
        if staged.replaced {
            write.delete_prefix::<OneTimeKey>(&key);
            write.delete_prefix::<OneTimeKeyById>(&key);
            write.delete_prefix::<FallbackKey>(&key);
        } else {
            staged.left = old.as_ref().map(|row| row.value.clone()).unwrap_or_default();
        }
        self.stage_one_time(write, owner, &checked.one_time, &mut staged).await?;
        self.stage_fallback(write, owner, &checked.fallback, &mut staged).await?;
        let left = staged.left;
        let total = left.one_time.iter().fold(0_u32, |total, (_, count)| total.saturating_add(*count));
        if total > ONE_TIME_KEYS_MAX {
            return Err(KeyError::TooLarge);
        }
        let position = old.as_ref().map_or(Position::ZERO, |row| row.position);
        let changes = match &old {
            Some(old) => staged.replaced || old.value != left,
            None => left != KeyCountsRow::default(),
        };
        if changes {
            match &old {
                Some(old) => write.equals::<KeyCounts>(&key, old),
                None => write.absent::<KeyCounts>(&key),
            };
            write.put::<KeyCounts>(&key, &Stamped::pending(left.clone()));
            write.log(Happened::UserData { user: owner.user });
        }
        Ok(counts(left, position))
    }

    async fn stage_device_keys(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        uploaded: Option<&(KeyObject, String)>,
    ) -> Result<Staged, KeyError> {
        let key = (owner.user, owner.device);
        let old = self.database.get::<DeviceKeys>(&key).await?;
        let before = old.as_ref().map(|old| KeyObject::parse(&old.value.json)).transpose()?;
        match &old {
            Some(old) => write.equals::<DeviceKeys>(&key, old),
            None => write.absent::<DeviceKeys>(&key),
        };
        let signing_key_before = before.as_ref().and_then(|object| object.signing_key(owner.device_id));
        let unchanged = Staged {
            signing_key: signing_key_before.clone(),
            replaced: false,
            left: KeyCountsRow::default(),
        };
        let Some((object, json)) = uploaded else { return Ok(unchanged) };
        let self_signature = self.self_signature(write, owner, object).await?;
        if old.is_some_and(|old| old.value.json == *json) {
            if let Some((key, row)) = self_signature
                && self.database.get::<KeySignature>(&key).await?.as_ref() != Some(&row)
            {
                write.put::<KeySignature>(&key, &row);
                list_changed(write, owner.user);
            }
            return Ok(unchanged);
        }
        if before.as_ref().is_none_or(|before| before.stripped() != object.stripped()) {
            // Signatures of other keys under the same device id, also of a device that was deleted.
            let target = self.target_hash(owner.device_id.as_str());
            write.delete_prefix::<KeySignature>(&(owner.user, owner.user, target));
        }
        if let Some((key, row)) = self_signature {
            write.put::<KeySignature>(&key, &row);
        }
        write.put::<DeviceKeys>(&key, &Stamped::pending(StoredKey { json: json.clone() }));
        list_changed(write, owner.user);
        let signing_key = object.signing_key(owner.device_id);
        if signing_key != signing_key_before {
            self.drop_signatures_by(write, owner, signing_key.as_ref()).await?;
        }
        Ok(Staged {
            replaced: before.is_some() && signing_key != signing_key_before,
            signing_key,
            ..unchanged
        })
    }

    /// The signature that the user's self-signing key made of device keys in their upload: a dehydrated device comes with
    /// it, and never signs in to upload it later.
    async fn self_signature(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        object: &KeyObject,
    ) -> Result<Option<(SignatureKey, KeySignatureRow)>, KeyError> {
        if object.signing_keys(owner.user_id).len() < 2 {
            return Ok(None);
        }
        let [_, stored, _] = self.cross_signing_keys(owner.user).await?;
        let Some(stored) = stored else { return Ok(None) };
        let public = public_part(&stored.value).unwrap_or_default();
        let key_id = format!("{ED25519}{public}");
        let Some(signature) = object.signature(owner.user_id, &key_id, &public)? else { return Ok(None) };
        write.equals::<CrossSigningKey>(&(owner.user, SELF_SIGNING), &stored);
        let target = owner.device_id.as_str();
        let hashes = (self.target_hash(target), self.signing_key_hash(&key_id));
        let (target, signer) = (target.to_owned(), owner.user_id.to_string());
        let row = KeySignatureRow { target, signer, key_id, signature };
        Ok(Some(((owner.user, owner.user, hashes.0, hashes.1), row)))
    }

    /// Drops what a device of this id signed with a key that it no longer has.
    async fn drop_signatures_by(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        key: Option<&SigningKey>,
    ) -> Result<(), KeyError> {
        let [master, ..] = self.cross_signing_keys(owner.user).await?;
        let master = master.and_then(|row| public_part(&row.value));
        if let (Some(master), Some(key)) = (master, key) {
            let signed = (self.target_hash(&master), self.signing_key_hash(&key.id));
            write.delete::<KeySignature>(&(owner.user, owner.user, signed.0, signed.1));
        }
        Ok(())
    }

    async fn stage_one_time(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        keys: &[Claimable],
        staged: &mut Staged,
    ) -> Result<(), KeyError> {
        let Owner { user, device, .. } = owner;
        let by_id: Vec<_> =
            keys.iter().map(|key| (user, device, self.one_time_id_hash(&key.key_id))).collect();
        let existing = self.database.get_all::<OneTimeKeyById>(&by_id).await?;
        for (number, ((place, key), existing)) in (0..).zip(by_id.into_iter().zip(keys).zip(existing)) {
            let digest = self.database.hash("one-time key content", &key.json);
            if !staged.replaced {
                match existing {
                    Some(there) if there.digest == digest => continue,
                    Some(_) => return Err(KeyError::AlreadyExists(key.key_id.clone())),
                    None => write.absent::<OneTimeKeyById>(&place),
                };
            }
            let algorithm = key.algorithm();
            write.put::<OneTimeKeyById>(&place, &OneTimeKeyDigest { digest });
            let row = OneTimeKeyRow { key_id: key.key_id.clone(), json: key.json.clone() };
            let queue = (user, device, self.algorithm_hash(algorithm), Position::PENDING, number);
            write.put::<OneTimeKey>(&queue, &row);
            let left = &mut staged.left.one_time;
            match left.binary_search_by(|(known, _)| known.as_str().cmp(algorithm)) {
                Ok(index) => {
                    if let Some((_, count)) = left.get_mut(index) {
                        *count = count.saturating_add(1);
                    }
                }
                Err(index) => left.insert(index, (algorithm.to_owned(), 1)),
            }
        }
        Ok(())
    }

    async fn stage_fallback(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        keys: &[Claimable],
        staged: &mut Staged,
    ) -> Result<(), KeyError> {
        for uploaded in keys {
            let algorithm = uploaded.algorithm();
            let key = (owner.user, owner.device, self.algorithm_hash(algorithm));
            if !staged.replaced {
                let old = self.database.get::<FallbackKey>(&key).await?;
                let is_the_same =
                    |old: &FallbackKeyRow| old.key_id == uploaded.key_id && old.json == uploaded.json;
                if old.as_ref().is_some_and(is_the_same) {
                    continue;
                }
                match &old {
                    Some(old) => write.equals::<FallbackKey>(&key, old),
                    None => write.absent::<FallbackKey>(&key),
                };
            }
            let row =
                FallbackKeyRow { key_id: uploaded.key_id.clone(), json: uploaded.json.clone(), used: false };
            write.put::<FallbackKey>(&key, &row);
            let unused = &mut staged.left.unused_fallback;
            if let Err(index) = unused.binary_search_by(|known| known.as_str().cmp(algorithm)) {
                unused.insert(index, algorithm.to_owned());
            }
        }
        Ok(())
    }

    pub(super) fn one_time_id_hash(&self, key_id: &str) -> Hash128 {
        self.database.hash("one-time key", key_id)
    }
}

/// The parts of an upload, if all are well-formed.
fn check(owner: Owner<'_>, upload: &Upload) -> Result<Checked, KeyError> {
    Ok(Checked {
        device_keys: upload.device_keys.as_ref().map(|json| device_keys(owner, json)).transpose()?,
        one_time: claimable::parse(&upload.one_time_keys)?,
        fallback: claimable::parse(&upload.fallback_keys)?,
    })
}

/// Whether stored device keys have their device's signature.
pub(super) fn is_signed(json: &str) -> bool {
    KeyObject::parse(json).is_ok_and(|object| object.has_signatures())
}

/// Checks device keys; returns them, and what is to be stored: the object with the device's own signature alone. Unsigned
/// ones are taken, though no client believes them: Complement uploads such.
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
    let device_id = owner.device_id;
    let signed = !object.signing_keys(owner.user_id).is_empty();
    for (id, key) in object.keys()? {
        if id.split_once(':').map(|(_, name)| name) != Some(device_id.as_str()) {
            return Err(KeyError::Malformed("a device key is not named after its algorithm and device"));
        }
        // Unsigned ones are not checked further: random bytes do.
        let is_key = match id {
            id if id.starts_with(ED25519) && signed => is_signing_key(key),
            id if id.starts_with(ED25519) || id.starts_with(CURVE25519) => is_agreement_key(key),
            _ => true,
        };
        if !is_key {
            return Err(KeyError::Invalid(
                format!("`{id}` is not a key of 32 bytes in unpadded base64").into(),
            ));
        }
    }
    let signing_key =
        object.signing_key(device_id).ok_or(KeyError::Malformed("device keys need an ed25519 key"))?;
    let agrees = object.keys()?.iter().any(|(id, _)| id.starts_with(CURVE25519));
    if !agrees && object.texts("algorithms").is_some_and(|algorithms| algorithms.contains(&OLM)) {
        return Err(KeyError::Malformed("device keys with this algorithm need a curve25519 key"));
    }
    let id = &signing_key.id;
    let signature = object.signature(owner.user_id, id, &signing_key.public)?;
    if signed && signature.is_none() {
        return Err(KeyError::Signature(format!("the device keys are signed, but not by `{id}`").into()));
    }
    let stored = object.with_signatures(signature.map(|signature| (owner.user_id, id.as_str(), signature)));
    Ok((object, stored))
}
