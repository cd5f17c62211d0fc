//! One-time and fallback keys as a device uploads them: what their algorithm asks for, and signed by the device.
//!
//! Keys of algorithms that this server does not know, and `curve25519` keys, which nobody signs, are taken as they are:
//! they are for clients that claim these algorithms by name, and the administrator's view of a device lists them apart.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#key-algorithms>

use std::collections::BTreeMap;

use ruma::CanonicalJsonValue;
use serde_json::value::RawValue;

use super::{
    KeyError, Owner,
    object::{KeyObject, OBJECT_BYTES_MAX, SigningKey, is_agreement_key},
};

/// The algorithm whose keys their device signs.
const SIGNED_CURVE25519: &str = "signed_curve25519";
/// The same without signatures, from before 2016.
const CURVE25519: &str = "curve25519";
/// Most bytes of keys in one upload, well below the limit of a batch.
const UPLOAD_BYTES_MAX: usize = 512 * 1024;
/// Longest id of a one-time key, with its algorithm, in bytes.
const KEY_ID_BYTES_MAX: usize = 255;

/// A well-formed key that others may claim.
#[derive(Debug)]
pub(super) struct Claimable {
    /// Its id, with the algorithm.
    pub(super) key_id: String,
    /// The key as canonical JSON: however it is parsed, it says the same.
    pub(super) json: String,
    /// The key, if its device has to sign it.
    signed: Option<KeyObject>,
}

impl Claimable {
    /// The part of its id before the colon.
    pub(super) fn algorithm(&self) -> &str {
        algorithm(&self.key_id)
    }

    /// Refuses a key that the owner's clients would have to sign with `identity` and did not.
    pub(super) fn check_signature(
        &self,
        owner: Owner<'_>,
        identity: Option<&SigningKey>,
    ) -> Result<(), KeyError> {
        let Some(object) = &self.signed else { return Ok(()) };
        let key_id = &self.key_id;
        let Some(identity) = identity else {
            return Err(KeyError::Invalid(
                format!("`{key_id}` cannot be verified: upload `device_keys` before it, or with it").into(),
            ));
        };
        match object.signature(owner.user_id, &identity.id, &identity.public) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                Err(KeyError::Signature(format!("`{key_id}` is not signed by `{}`", identity.id).into()))
            }
            Err(error) => Err(KeyError::Signature(format!("`{key_id}`: {error}").into())),
        }
    }
}

/// Whether clients can check that a key of this algorithm is its device's.
pub(super) fn is_verified(algorithm: &str) -> bool {
    algorithm == SIGNED_CURVE25519
}

/// The part of a key's id before the colon.
pub(super) fn algorithm(key_id: &str) -> &str {
    key_id.split_once(':').map_or(key_id, |(algorithm, _)| algorithm)
}

/// The keys of an upload, if all are well-formed.
pub(super) fn parse(keys: &BTreeMap<String, Box<RawValue>>) -> Result<Vec<Claimable>, KeyError> {
    let mut bytes = 0_usize;
    for (key_id, json) in keys {
        let named =
            key_id.split_once(':').is_some_and(|(algorithm, name)| !algorithm.is_empty() && !name.is_empty());
        if !named {
            return Err(KeyError::Malformed("the id of a one-time key is not `algorithm:name`"));
        }
        if key_id.len() > KEY_ID_BYTES_MAX || json.get().len() > OBJECT_BYTES_MAX {
            return Err(KeyError::TooLarge);
        }
        bytes = bytes.saturating_add(json.get().len()).saturating_add(KEY_ID_BYTES_MAX);
    }
    if bytes > UPLOAD_BYTES_MAX {
        return Err(KeyError::TooLarge);
    }
    keys.iter().map(|(key_id, json)| parse_key(key_id, json.get())).collect()
}

fn parse_key(key_id: &str, json: &str) -> Result<Claimable, KeyError> {
    let not_a_key = || {
        KeyError::Invalid(format!("`{key_id}` is not a curve25519 key of 32 bytes in unpadded base64").into())
    };
    if is_verified(algorithm(key_id)) {
        let object = KeyObject::parse(json)?;
        object.text("key").filter(|key| is_agreement_key(key)).ok_or_else(not_a_key)?;
        let json = object.canonical();
        return Ok(Claimable { key_id: key_id.to_owned(), json, signed: Some(object) });
    }
    let value: CanonicalJsonValue = serde_json::from_str(json)
        .map_err(|_| KeyError::Malformed("a one-time key is not canonical JSON"))?;
    match &value {
        CanonicalJsonValue::String(key) if algorithm(key_id) != CURVE25519 || is_agreement_key(key) => {}
        CanonicalJsonValue::Object(_) if algorithm(key_id) != CURVE25519 => {}
        CanonicalJsonValue::String(_) | CanonicalJsonValue::Object(_) => return Err(not_a_key()),
        _ => return Err(KeyError::Malformed("a one-time key is neither a string nor an object")),
    }
    Ok(Claimable { key_id: key_id.to_owned(), json: value.to_string(), signed: None })
}
