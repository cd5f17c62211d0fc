//! A key object as uploaded: its fields, and whether its signatures fit.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, DeviceId, UserId};
use vodozemac::{Curve25519PublicKey, Ed25519PublicKey, Ed25519Signature};

use super::KeyError;

/// Longest key object, in bytes.
pub(super) const OBJECT_BYTES_MAX: usize = 16 * 1024;
/// Prefix of the ids of keys that sign.
pub(super) const ED25519: &str = "ed25519:";
/// Prefix of the ids of keys that agree on secrets.
pub(super) const CURVE25519: &str = "curve25519:";

/// The key that a device signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SigningKey {
    /// Its id, `ed25519:DEVICE`.
    pub(super) id: String,
    /// Its public part, in base64.
    pub(super) public: String,
}

/// A parsed key object.
#[derive(Clone, Debug)]
pub(super) struct KeyObject(CanonicalJsonObject);

impl KeyObject {
    /// Parses what a client sent.
    pub(super) fn parse(json: &str) -> Result<Self, KeyError> {
        if json.len() > OBJECT_BYTES_MAX {
            return Err(KeyError::TooLarge);
        }
        serde_json::from_str(json)
            .map(Self)
            .map_err(|_| KeyError::Malformed("a key is not a canonical JSON object"))
    }

    /// A field that is a string.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field)?.as_str()
    }

    /// A field that is a list of strings; others in it are passed over.
    pub(super) fn texts(&self, field: &str) -> Option<Vec<&str>> {
        let CanonicalJsonValue::Array(list) = self.0.get(field)? else { return None };
        Some(list.iter().filter_map(CanonicalJsonValue::as_str).collect())
    }

    /// The field `keys`: ids and public keys, which must be strings.
    pub(super) fn keys(&self) -> Result<Vec<(&str, &str)>, KeyError> {
        let Some(CanonicalJsonValue::Object(keys)) = self.0.get("keys") else {
            return Err(KeyError::Malformed("`keys` is not an object"));
        };
        let keys = keys.iter().map(|(id, key)| Some((id.as_str(), key.as_str()?)));
        keys.collect::<Option<_>>().ok_or(KeyError::Malformed("a value in `keys` is not a string"))
    }

    /// The key that the device signs with, if this is a device's object that has one.
    pub(super) fn signing_key(&self, device_id: &DeviceId) -> Option<SigningKey> {
        let id = format!("{ED25519}{device_id}");
        let CanonicalJsonValue::Object(keys) = self.0.get("keys")? else { return None };
        let public = keys.get(&id)?.as_str()?.to_owned();
        Some(SigningKey { id, public })
    }

    /// Whether there is an object of signatures, perhaps empty.
    pub(super) fn has_signatures(&self) -> bool {
        matches!(self.0.get("signatures"), Some(CanonicalJsonValue::Object(_)))
    }

    /// The ids of the keys that a user signed it with.
    pub(super) fn signing_keys(&self, user_id: &UserId) -> Vec<String> {
        self.signatures(user_id).map(|signatures| signatures.keys().cloned().collect()).unwrap_or_default()
    }

    /// The signature of a user's key, if it fits as clients check it; `None` if there is none.
    pub(super) fn signature(
        &self,
        user_id: &UserId,
        key_id: &str,
        public_key: &str,
    ) -> Result<Option<String>, KeyError> {
        let wrong = |what: &str| KeyError::Signature(format!("the signature by `{key_id}` {what}").into());
        let Some(signature) = self.signatures(user_id).and_then(|signatures| signatures.get(key_id)) else {
            return Ok(None);
        };
        let signature = signature.as_str().ok_or_else(|| wrong("is not a string"))?;
        let bytes = Ed25519Signature::from_base64(signature)
            .map_err(|_| wrong("is not 64 bytes in unpadded base64"))?;
        let key = Ed25519PublicKey::from_base64(public_key)
            .map_err(|_| wrong("is of a key that is not an ed25519 key"))?;
        let signed = ruma::signatures::to_canonical_json_string_for_signing(&self.0)
            .map_err(|_| wrong("is of an object that has no canonical form"))?;
        key.verify(signed.as_bytes(), &bytes).map_err(|_| {
            wrong("does not fit the object's canonical JSON without `signatures` and `unsigned`")
        })?;
        Ok(Some(signature.to_owned()))
    }

    /// The whole object as canonical JSON.
    pub(super) fn canonical(&self) -> String {
        CanonicalJsonValue::Object(self.0.clone()).to_string()
    }

    /// The object as canonical JSON, without signatures and `unsigned`: what has to be equal to be the same key.
    pub(super) fn stripped(&self) -> String {
        self.with_signatures(None)
    }

    /// The same, with one signature.
    pub(super) fn with_signatures(&self, signature: Option<(&UserId, &str, String)>) -> String {
        let mut object = self.0.clone();
        object.remove("unsigned");
        object.remove("signatures");
        if let Some((user_id, key_id, signature)) = signature {
            let by_key = CanonicalJsonObject::from([(key_id.to_owned(), signature.into())]);
            let by_user = CanonicalJsonObject::from([(user_id.to_string(), by_key.into())]);
            object.insert("signatures".to_owned(), by_user.into());
        }
        CanonicalJsonValue::Object(object).to_string()
    }

    fn signatures(&self, user_id: &UserId) -> Option<&CanonicalJsonObject> {
        let CanonicalJsonValue::Object(signatures) = self.0.get("signatures")? else { return None };
        match signatures.get(user_id.as_str())? {
            CanonicalJsonValue::Object(signatures) => Some(signatures),
            _ => None,
        }
    }
}

/// Whether this is a public key that checks signatures: a point of the curve, 32 bytes in base64.
pub(super) fn is_signing_key(key: &str) -> bool {
    Ed25519PublicKey::from_base64(key).is_ok()
}

/// Whether this is a public key that agrees on secrets: 32 bytes in base64.
pub(super) fn is_agreement_key(key: &str) -> bool {
    Curve25519PublicKey::from_base64(key).is_ok()
}
