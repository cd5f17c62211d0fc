//! Uploading signatures: of one's own devices and master key, and of others' master keys.
//!
//! Each object must be the stored key, and each signature must fit and be by a key that may sign it; the others are
//! reported one by one, and nothing of them is stored (elsewhere forged signatures were).

use std::collections::BTreeMap;

use allod_storage::{CommitError, Position};
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{
    ATTEMPTS_MAX, KeyError, Keys, Owner,
    object::{ED25519, KeyObject},
    query::public_part,
};
use crate::{
    database::{Error, Write},
    devices::list_changed,
    log::Happened,
    numbers::UserNumber,
    tables::{
        Stamped,
        keys::{CrossSigningKey, DeviceKeys, KeySignatureChange, KeySignatureRow, StoredKey},
    },
};

/// Most signed objects in one request.
const OBJECTS_MAX: usize = 500;

/// Master keys of users of other servers, as those say.
pub type RemoteMasters = BTreeMap<OwnedUserId, Box<RawValue>>;
/// Signed objects by user, and by device id or public key.
pub type SignedObjects = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;
/// What was wrong, in the same order.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, SignatureFailure>>;

/// Why the signatures of one object were not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFailure {
    /// There is no such key, or the caller's keys may not sign it.
    #[error("there is no such key to sign")]
    NotFound,
    /// The object is not the key that is stored.
    #[error("the object differs from the stored key")]
    Differs,
    /// A signature is missing or does not fit.
    #[error("the signature is missing or does not fit")]
    Invalid,
}

/// The stored key that was signed, where it is stored, and the keys that may sign it.
enum Target {
    Device((UserNumber, crate::numbers::DeviceNumber), Stamped<StoredKey>),
    CrossSigning((UserNumber, u8), Stamped<StoredKey>),
}

impl Keys {
    /// Stores the signatures that fit, and returns what was wrong with the others. Of users of other servers the master
    /// keys in `masters` may be signed.
    pub async fn add_signatures(
        &self,
        owner: Owner<'_>,
        objects: &SignedObjects,
        masters: &RemoteMasters,
    ) -> Result<SignatureFailures, KeyError> {
        if objects.values().map(BTreeMap::len).sum::<usize>() > OBJECTS_MAX {
            return Err(KeyError::TooLarge);
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut write = Write::new();
            let failures = self.stage_signatures(&mut write, owner, objects, masters).await?;
            if write.is_empty() {
                return Ok(failures);
            }
            match self.database.commit(write).await {
                Ok(_) => return Ok(failures),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Busy)
    }

    async fn stage_signatures(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        objects: &SignedObjects,
        masters: &RemoteMasters,
    ) -> Result<SignatureFailures, KeyError> {
        let mut failures = SignatureFailures::new();
        for (user_id, objects) in objects {
            let master = masters.get(user_id);
            let is_known = self.users.is_local(user_id) || master.is_some();
            let user = if is_known { self.users.number(user_id).await? } else { None };
            let mut signed = false;
            for (id, json) in objects {
                let outcome = match (user, master) {
                    (Some(user), Some(master)) if !self.users.is_local(user_id) => {
                        self.stage_remote(write, owner, (user, master), id, json).await?
                    }
                    (Some(user), _) => self.stage_object(write, owner, (user_id, user), id, json).await?,
                    (None, _) => Err(SignatureFailure::NotFound),
                };
                match outcome {
                    Ok(()) => signed = true,
                    Err(failure) => {
                        failures.entry(user_id.clone()).or_default().insert(id.clone(), failure);
                    }
                }
            }
            match user {
                Some(user) if signed && user == owner.user => list_changed(write, user),
                Some(user) if signed => {
                    write.put::<KeySignatureChange>(&(owner.user, Position::PENDING, user), &());
                    write.log(Happened::UserData { user: owner.user });
                }
                _ => {}
            }
        }
        Ok(failures)
    }

    /// Stages the signatures that the caller made of one object.
    async fn stage_object(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        (user_id, user): (&UserId, UserNumber),
        id: &str,
        json: &RawValue,
    ) -> Result<Result<(), SignatureFailure>, KeyError> {
        let Ok(object) = KeyObject::parse(json.get()) else { return Ok(Err(SignatureFailure::Differs)) };
        let Some((target, signers)) = self.target(owner, user, id, &object).await? else {
            return Ok(Err(SignatureFailure::NotFound));
        };
        let (Target::Device(_, stored) | Target::CrossSigning(_, stored)) = &target;
        if object.text("user_id") != Some(user_id.as_str())
            || KeyObject::parse(&stored.value.json)?.stripped() != object.stripped()
        {
            return Ok(Err(SignatureFailure::Differs));
        }
        let mut rows = Vec::new();
        for (key_id, public) in signers {
            match object.signature(owner.user_id, &key_id, &public) {
                Ok(Some(signature)) => rows.push(KeySignatureRow {
                    target: id.to_owned(),
                    signer: owner.user_id.to_string(),
                    key_id,
                    signature,
                }),
                Ok(None) => {}
                Err(_) => return Ok(Err(SignatureFailure::Invalid)),
            }
        }
        if rows.is_empty() {
            return Ok(Err(SignatureFailure::Invalid));
        }
        match &target {
            Target::Device(key, stored) => write.equals::<DeviceKeys>(key, stored),
            Target::CrossSigning(key, stored) => write.equals::<CrossSigningKey>(key, stored),
        };
        for row in &rows {
            self.stage_signature(write, user, owner.user, row);
        }
        Ok(Ok(()))
    }

    /// Stages the signature that the caller made of the master key of a user of another server.
    async fn stage_remote(
        &self,
        write: &mut Write,
        owner: Owner<'_>,
        (user, master): (UserNumber, &RawValue),
        id: &str,
        json: &RawValue,
    ) -> Result<Result<(), SignatureFailure>, KeyError> {
        let master = StoredKey { json: master.get().to_owned() };
        if public_part(&master).as_deref() != Some(id) {
            return Ok(Err(SignatureFailure::NotFound));
        }
        let (object, master) = (KeyObject::parse(json.get()), KeyObject::parse(&master.json));
        let Some(object) =
            object.ok().filter(|object| master.is_ok_and(|master| master.stripped() == object.stripped()))
        else {
            return Ok(Err(SignatureFailure::Differs));
        };
        let [.., user_signing] = self.cross_signing_keys(owner.user).await?;
        let Some(public) = user_signing.and_then(|row| public_part(&row.value)) else {
            return Ok(Err(SignatureFailure::NotFound));
        };
        let key_id = format!("{ED25519}{public}");
        let Ok(Some(signature)) = object.signature(owner.user_id, &key_id, &public) else {
            return Ok(Err(SignatureFailure::Invalid));
        };
        let (target, signer) = (id.to_owned(), owner.user_id.to_string());
        let row = KeySignatureRow { target, signer, key_id, signature };
        self.stage_signature(write, user, owner.user, &row);
        Ok(Ok(()))
    }

    /// The key that `id` names, if the caller may sign it, and the ids and public parts of the keys to sign it with: a
    /// device is signed by the self-signing key, one's own master key by devices, another's by the user-signing key.
    async fn target(
        &self,
        owner: Owner<'_>,
        user: UserNumber,
        id: &str,
        object: &KeyObject,
    ) -> Result<Option<(Target, Vec<(String, String)>)>, KeyError> {
        let [own_master, self_signing, user_signing] = self.cross_signing_keys(owner.user).await?;
        let named = |key: Option<&Stamped<StoredKey>>| -> Vec<(String, String)> {
            let public = key.and_then(|row| public_part(&row.value));
            public.map(|public| (format!("{ED25519}{public}"), public)).into_iter().collect()
        };
        let is_named = |row: &Stamped<StoredKey>| public_part(&row.value).as_deref() == Some(id);
        if user != owner.user {
            let [master, ..] = self.cross_signing_keys(user).await?;
            let master =
                master.filter(is_named).map(|row| Target::CrossSigning((user, super::query::MASTER), row));
            return Ok(master.map(|target| (target, named(user_signing.as_ref()))));
        }
        if let Some(master) = own_master.filter(is_named) {
            let mut signers = Vec::new();
            for key_id in object.signing_keys(owner.user_id) {
                let public = self.device_signing_key(user, &key_id).await?;
                signers.extend(public.map(|public| (key_id, public)));
            }
            return Ok(Some((Target::CrossSigning((user, super::query::MASTER), master), signers)));
        }
        Ok(self.own_device(user, id).await?.map(|target| (target, named(self_signing.as_ref()))))
    }

    async fn own_device(&self, user: UserNumber, id: &str) -> Result<Option<Target>, Error> {
        let Some(device) = self.devices.find(user, id.into()).await? else { return Ok(None) };
        let key = (user, device.number);
        Ok(self.database.get::<DeviceKeys>(&key).await?.map(|row| Target::Device(key, row)))
    }
}
