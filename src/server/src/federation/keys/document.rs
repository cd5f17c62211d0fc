//! What a server publishes about its keys, checked.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ServerName, SigningKeyAlgorithm,
    api::federation::discovery::ServerSigningKeys,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};

use crate::tables::federation::ServerKeyRow;

/// Keys in one document, in use or not.
const KEYS_MAX: usize = 200;
/// A document is not relied on for longer than this, whatever it says (§Checks performed on receipt of a PDU).
const VALID_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of an ed25519 key.
const KEY_BYTES: usize = 32;

/// Public keys whose private part everyone can know: that of a seed of zeros, and those of the specification's examples
/// (CVE-2026-24044: servers that were set up with a key which others could work out).
const PUBLIC_KEYS: [&str; 3] = [
    "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik",
    "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI",
    "dC2bHXo1QBPm3DKUD4rbiaYMIsIfXOa9PX8qsB4Merk",
];

/// Why a document is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is not what the specification says.
    #[error("the document of keys is malformed")]
    Malformed,
    /// It is about another server.
    #[error("the document of keys is another server's")]
    OtherServer,
    /// None of its keys has signed it, or wrongly.
    #[error("the document of keys is not signed by its keys")]
    Signature,
}

/// Whether everyone can know the private part of a key.
pub(super) fn is_public(key: &[u8]) -> bool {
    let text = STANDARD_NO_PAD.encode(key);
    PUBLIC_KEYS.contains(&text.as_str())
}

/// A document that was checked.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) keys: Vec<ServerKeyRow>,
    pub(super) valid_until_ms: u64,
}

impl Document {
    /// Checks what a server published, or a notary says that it did.
    pub(super) fn verify(server: &ServerName, json: &str, now_ms: u64) -> Result<Self, DocumentError> {
        let object: CanonicalJsonObject = serde_json::from_str(json).map_err(|_| DocumentError::Malformed)?;
        let parsed: ServerSigningKeys = serde_json::from_str(json).map_err(|_| DocumentError::Malformed)?;
        if parsed.server_name != *server {
            return Err(DocumentError::OtherServer);
        }
        if parsed.verify_keys.len().saturating_add(parsed.old_verify_keys.len()) > KEYS_MAX {
            return Err(DocumentError::Malformed);
        }
        let valid_max_ms = u64::try_from(VALID_MAX.as_millis()).unwrap_or(0);
        let valid_until_ms = u64::from(parsed.valid_until_ts.get()).min(now_ms.saturating_add(valid_max_ms));
        let usable = |key: &Base64| key.as_bytes().len() == KEY_BYTES && !is_public(key.as_bytes());
        let current: PublicKeySet = parsed
            .verify_keys
            .into_iter()
            .filter(|(id, key)| id.algorithm() == SigningKeyAlgorithm::Ed25519 && usable(&key.key))
            .map(|(id, key)| (id.to_string(), key.key))
            .collect();
        verify_by(&object, server, &current)?;
        let mut keys: Vec<ServerKeyRow> = parsed
            .old_verify_keys
            .into_iter()
            .filter(|(id, key)| {
                usable(&key.key)
                    && id.algorithm() == SigningKeyAlgorithm::Ed25519
                    && !current.contains_key(id.as_str())
            })
            .map(|(id, key)| ServerKeyRow {
                key_id: id.to_string(),
                valid_until_ms: key.expired_ts.get().into(),
                key: key.key.into_inner(),
                retired: true,
            })
            .collect();
        keys.extend(current.into_iter().map(|(key_id, key)| ServerKeyRow {
            key_id,
            key: key.into_inner(),
            valid_until_ms,
            retired: false,
        }));
        Ok(Self { keys, valid_until_ms })
    }
}

/// Whether an object carries a signature of a server by one of these keys, and no wrong one.
pub(super) fn verify_by(
    object: &CanonicalJsonObject,
    server: &ServerName,
    keys: &PublicKeySet,
) -> Result<(), DocumentError> {
    let signatures = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let of_server =
        signatures.and_then(|all| all.get(server.as_str())).and_then(CanonicalJsonValue::as_object);
    let mut known = of_server.ok_or(DocumentError::Signature)?.clone();
    known.retain(|key_id, _| keys.contains_key(key_id));
    if known.is_empty() {
        return Err(DocumentError::Signature);
    }
    // Those of notaries are nobody's business here.
    let mut object = object.clone();
    let signatures = CanonicalJsonObject::from([(server.to_string(), CanonicalJsonValue::Object(known))]);
    object.insert("signatures".to_owned(), CanonicalJsonValue::Object(signatures));
    let keys = PublicKeyMap::from([(server.to_string(), keys.clone())]);
    verify_json(&keys, &object).map_err(|_| DocumentError::Signature)
}
