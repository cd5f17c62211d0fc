//! Cross-signing keys: a user's master, self-signing and user-signing key.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#cross-signing>

use allod_storage::CommitError;
use ruma::UserId;
use serde_json::value::RawValue;

use super::{
    ATTEMPTS_MAX, KeyError, Keys,
    object::{ED25519, KeyObject, is_signing_key},
    query::{MASTER, SELF_SIGNING, USER_SIGNING, public_part},
};
use crate::{
    database::{Error, Write},
    devices::list_changed,
    numbers::UserNumber,
    tables::{
        Stamped,
        keys::{CrossSigningKey, DeviceKeys, KeySignature, KeySignatureRow, StoredKey},
    },
};

/// The keys of one request.
#[derive(Debug, Default)]
pub struct CrossSigningUpload {
    /// The master key.
    pub master: Option<Box<RawValue>>,
    /// The self-signing key, signed by the master key.
    pub self_signing: Option<Box<RawValue>>,
    /// The user-signing key, signed by the master key.
    pub user_signing: Option<Box<RawValue>>,
}

/// Whether the user has to confirm an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// There is no master key yet, or nothing would change.
    NotNeeded,
    /// Keys would be replaced or added.
    Needed,
}

/// What is stored: master, self-signing and user-signing key.
type StoredKeys = [Option<Stamped<StoredKey>>; 3];

/// A checked key.
struct Checked {
    kind: u8,
    object: KeyObject,
    public: String,
}

impl Keys {
    /// Checks an upload, and says whether the user has to confirm it.
    pub async fn check_cross_signing(
        &self,
        user: UserNumber,
        user_id: &UserId,
        upload: &CrossSigningUpload,
    ) -> Result<Confirmation, KeyError> {
        let checked = check(user_id, upload)?;
        let stored = self.cross_signing_keys(user).await?;
        self.stage_cross_signing(&mut Write::new(), user, user_id, &checked, &stored).await?;
        let unchanged = checked.iter().all(|key| {
            let stored =
                stored.iter().zip([MASTER, SELF_SIGNING, USER_SIGNING]).find(|(_, kind)| *kind == key.kind);
            stored
                .and_then(|(row, _)| row.as_ref())
                .is_some_and(|row| row.value.json == key.object.stripped())
        });
        let first = stored.first().is_some_and(Option::is_none);
        Ok(if first || unchanged { Confirmation::NotNeeded } else { Confirmation::Needed })
    }

    /// Stores the keys of an upload that was checked and, if need be, confirmed.
    pub async fn set_cross_signing(
        &self,
        user: UserNumber,
        user_id: &UserId,
        upload: &CrossSigningUpload,
    ) -> Result<(), KeyError> {
        let checked = check(user_id, upload)?;
        for _ in 0..ATTEMPTS_MAX {
            let stored = self.cross_signing_keys(user).await?;
            let mut write = Write::new();
            self.stage_cross_signing(&mut write, user, user_id, &checked, &stored).await?;
            if write.is_empty() {
                return Ok(());
            }
            match self.database.commit(write).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Busy)
    }

    /// Whether `text`, which somebody wants to name a device, is the public part of one of the user's keys.
    pub async fn is_cross_signing_key(&self, user: UserNumber, text: &str) -> Result<bool, Error> {
        let stored = self.cross_signing_keys(user).await?;
        Ok(stored.iter().flatten().any(|row| public_part(&row.value).as_deref() == Some(text)))
    }

    pub(super) async fn cross_signing_keys(&self, user: UserNumber) -> Result<StoredKeys, Error> {
        let kinds = [(user, MASTER), (user, SELF_SIGNING), (user, USER_SIGNING)];
        let rows = self.database.multi_get::<CrossSigningKey>(&kinds).await?;
        let mut rows = rows.into_iter();
        Ok([rows.next().flatten(), rows.next().flatten(), rows.next().flatten()])
    }

    async fn stage_cross_signing(
        &self,
        write: &mut Write,
        user: UserNumber,
        user_id: &UserId,
        checked: &[Checked],
        stored: &StoredKeys,
    ) -> Result<(), KeyError> {
        let new_master = checked.iter().find(|key| key.kind == MASTER).map(|key| key.public.clone());
        let [old_master, ..] = stored;
        let old_master = old_master.as_ref().and_then(|row| public_part(&row.value));
        let master = new_master.clone().or_else(|| old_master.clone()).ok_or(KeyError::NoMasterKey)?;
        let devices = self.devices.list(user).await?;
        if checked.iter().any(|key| devices.iter().any(|device| device.id == *key.public)) {
            return Err(KeyError::DeviceId);
        }
        let replaced = old_master.as_ref().is_some_and(|old| *old != master);
        for (kind, row) in [MASTER, SELF_SIGNING, USER_SIGNING].into_iter().zip(stored) {
            let key = (user, kind);
            let new = checked.iter().find(|checked| checked.kind == kind);
            let signatures = match new {
                Some(new) => self.signatures_by_owner(user, user_id, new, &master).await?,
                None => Vec::new(),
            };
            let changes = match (new, row) {
                (Some(new), Some(row)) => new.object.stripped() != row.value.json,
                (Some(_), None) => true,
                // A key that the old master key signed is worth nothing under a new one.
                (None, Some(_)) => replaced,
                (None, None) => false,
            };
            if !changes {
                continue;
            }
            match row {
                Some(row) => {
                    write.equals::<CrossSigningKey>(&key, row);
                    write.delete::<CrossSigningKey>(&key);
                    let old = public_part(&row.value).unwrap_or_default();
                    write.delete_prefix::<KeySignature>(&(user, user, self.target_hash(&old)));
                }
                None => {
                    write.absent::<CrossSigningKey>(&key);
                }
            }
            if let Some(new) = new {
                write.put::<CrossSigningKey>(
                    &key,
                    &Stamped::pending(StoredKey { json: new.object.stripped() }),
                );
                for row in signatures {
                    self.stage_signature(write, user, user, &row);
                }
            }
            list_changed(write, user);
        }
        Ok(())
    }

    pub(super) fn stage_signature(
        &self,
        write: &mut Write,
        of: UserNumber,
        signer: UserNumber,
        row: &KeySignatureRow,
    ) {
        let key = (of, signer, self.target_hash(&row.target), self.signing_key_hash(&row.key_id));
        write.put::<KeySignature>(&key, row);
    }

    /// The signatures that a user made of an uploaded key: of a master key by devices, of the others by the master key,
    /// which must be there.
    async fn signatures_by_owner(
        &self,
        user: UserNumber,
        user_id: &UserId,
        key: &Checked,
        master: &str,
    ) -> Result<Vec<KeySignatureRow>, KeyError> {
        let row = |key_id: String, signature| KeySignatureRow {
            target: key.public.clone(),
            signer: user_id.to_string(),
            key_id,
            signature,
        };
        if key.kind != MASTER {
            let key_id = format!("{ED25519}{master}");
            let signature = key.object.signature(user_id, &key_id, master)?;
            let signature =
                signature.ok_or(KeyError::Signature("the key is not signed by the master key".into()))?;
            return Ok(vec![row(key_id, signature)]);
        }
        let mut signatures = Vec::new();
        for key_id in key.object.signing_keys(user_id) {
            if let Some(public) = self.device_signing_key(user, &key_id).await?
                && let Some(signature) = key.object.signature(user_id, &key_id, &public)?
            {
                signatures.push(row(key_id, signature));
            }
        }
        Ok(signatures)
    }

    /// The public key behind a key id such as `ed25519:DEVICE` of a user.
    pub(super) async fn device_signing_key(
        &self,
        user: UserNumber,
        key_id: &str,
    ) -> Result<Option<String>, KeyError> {
        let Some(device_id) = key_id.strip_prefix(ED25519) else { return Ok(None) };
        let Some(device) = self.devices.find(user, device_id.into()).await? else { return Ok(None) };
        let Some(row) = self.database.get::<DeviceKeys>(&(user, device.number)).await? else {
            return Ok(None);
        };
        let object = KeyObject::parse(&row.value.json)?;
        let keys = object.keys()?;
        Ok(keys.into_iter().find(|(id, _)| *id == key_id).map(|(_, key)| key.to_owned()))
    }
}

fn check(user_id: &UserId, upload: &CrossSigningUpload) -> Result<Vec<Checked>, KeyError> {
    let keys = [
        (MASTER, "master", &upload.master),
        (SELF_SIGNING, "self_signing", &upload.self_signing),
        (USER_SIGNING, "user_signing", &upload.user_signing),
    ];
    let keys = keys.into_iter().filter_map(|(kind, usage, json)| Some((kind, usage, json.as_ref()?)));
    keys.map(|(kind, usage, json)| check_key(user_id, kind, usage, json)).collect()
}

fn check_key(user_id: &UserId, kind: u8, usage: &str, json: &RawValue) -> Result<Checked, KeyError> {
    let object = KeyObject::parse(json.get())?;
    if object.text("user_id") != Some(user_id.as_str()) {
        return Err(KeyError::NotYours);
    }
    if !object.texts("usage").is_some_and(|usages| usages.contains(&usage)) {
        return Err(KeyError::Malformed("`usage` does not name the kind of the key"));
    }
    let keys = object.keys()?;
    let [(id, public)] = keys.as_slice() else {
        return Err(KeyError::Malformed("a cross-signing key has exactly one entry in `keys`"));
    };
    if id.strip_prefix(ED25519) != Some(*public) {
        return Err(KeyError::Malformed("a cross-signing key is not named `ed25519:` and itself"));
    }
    if !is_signing_key(public) {
        return Err(KeyError::Invalid(
            format!("the {usage} key is not an ed25519 key of 32 bytes in unpadded base64").into(),
        ));
    }
    let public = (*public).to_owned();
    Ok(Checked { kind, object, public })
}
