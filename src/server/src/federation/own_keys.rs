//! The signing keys of this server as others read them, and its signature under the documents of others.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, signatures::sign_json};
use serde_json::value::RawValue;

use crate::{clock::Clock, identity::Identity};

/// How long others may rely on the keys before they ask again.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// The keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OwnKeys {
    identity: Identity,
    clock: Clock,
}

/// Signing failed: a bug.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the document could not be signed")]
pub struct SigningFailed;

impl OwnKeys {
    /// The keys of an identity.
    pub fn new(identity: Identity, clock: Clock) -> Self {
        Self { identity, clock }
    }

    /// The document that says which keys this server signs with, and which it has signed with.
    pub fn document(&self) -> Result<Box<RawValue>, SigningFailed> {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let key = STANDARD_NO_PAD.encode(self.identity.key().public_key());
        let key = CanonicalJsonObject::from([("key".to_owned(), text(&key))]);
        let key_id = format!("ed25519:{}", self.identity.key().version());
        let old = self.identity.old_keys().iter().map(|old| {
            let key = STANDARD_NO_PAD.encode(&old.public_key);
            let object = CanonicalJsonObject::from([
                ("key".to_owned(), text(&key)),
                ("expired_ts".to_owned(), milliseconds(old.expired_ms)),
            ]);
            (format!("ed25519:{}", old.version), CanonicalJsonValue::Object(object))
        });
        let valid_ms = u64::try_from(VALID.as_millis()).unwrap_or(0);
        let until = milliseconds(self.clock.now_ms().saturating_add(valid_ms));
        let mut document = CanonicalJsonObject::from([
            ("server_name".to_owned(), text(self.identity.server_name().as_str())),
            ("valid_until_ts".to_owned(), until),
            ("verify_keys".to_owned(), CanonicalJsonValue::Object([(key_id, key.into())].into())),
            ("old_verify_keys".to_owned(), CanonicalJsonValue::Object(old.collect())),
        ]);
        self.sign(&mut document)
    }

    /// Adds this server's signature to a document of another server: as a notary.
    pub fn witness(&self, document: &str) -> Result<Box<RawValue>, SigningFailed> {
        let mut document: CanonicalJsonObject = serde_json::from_str(document).map_err(|_| SigningFailed)?;
        self.sign(&mut document)
    }

    fn sign(&self, document: &mut CanonicalJsonObject) -> Result<Box<RawValue>, SigningFailed> {
        sign_json(self.identity.server_name().as_str(), self.identity.key(), document)
            .map_err(|_| SigningFailed)?;
        serde_json::value::to_raw_value(document).map_err(|_| SigningFailed)
    }
}

fn milliseconds(time_ms: u64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(ruma::Int::try_from(time_ms).unwrap_or(ruma::Int::MAX))
}
