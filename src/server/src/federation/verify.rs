//! Events of other servers, up to the rules of authorisation: format, signatures and content hash (the first three checks
//! on receipt). What is left of an event whose content does not fit its hash is its redacted form.
//!
//! Keys are looked for all at once, and never in a room's task. Numbers that canonical JSON cannot carry make an event
//! unreadable in every room version.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allod_matrix::{
    auth::{References, check_pdu_format},
    event::pdu::Pdu,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedServerName, OwnedServerSigningKeyId,
    RoomId, ServerSigningKeyId,
    canonical_json::redact_in_place,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    serde::Base64,
    signatures::{
        PublicKeyMap, Verified as Verdict, reference_hash, required_server_signatures_to_verify_event,
        verify_event,
    },
};
use serde_json::value::RawValue;

use super::keys::{KeyError, ServerKeys};
use crate::{database::Error, identity::Identity, rooms::ingest::Verified};

/// Servers that are asked for keys side by side.
const ASKED_AT_ONCE: usize = 32;
/// Signatures of one server under one event that are looked at.
const SIGNATURES_MAX: usize = 8;
/// Events that are checked before others have a turn.
const EVENTS_A_TURN: usize = 16;

/// Why an event of another server is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is no event of this room version.
    #[error("malformed event: {0}")]
    Format(String),
    /// It belongs to another room.
    #[error("the event belongs to another room")]
    OtherRoom,
    /// A signature that it needs is missing or wrong, or was made with a key that was not valid then.
    #[error("the event's signature does not hold: {0}")]
    Signature(String),
    /// The server whose key it takes cannot be asked for it at present.
    #[error("the key of {0}, which has signed the event, is not to be had at present")]
    NoKey(OwnedServerName),
}

/// The checks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: ServerKeys,
    identity: Identity,
}

type KeyName = (OwnedServerName, OwnedServerSigningKeyId);

/// An event as far as it can be read without keys.
struct Read {
    object: CanonicalJsonObject,
    event_id: OwnedEventId,
    at_ms: u64,
    signed_by: Vec<KeyName>,
}

/// The keys that were found, with the latest time for which each was asked for with success.
#[derive(Default)]
struct Found {
    keys: BTreeMap<KeyName, (u64, Base64)>,
    /// Those of which it is not known whether there are such.
    unasked: BTreeSet<KeyName>,
}

/// What is known of a key for a time.
enum Asked {
    Found(Base64),
    /// There is none.
    None,
    /// The server was not asked with success.
    Failed,
}

impl Verifier {
    /// Over the keys of other servers, and this server's own.
    pub fn new(keys: ServerKeys, identity: Identity) -> Self {
        Self { keys, identity }
    }

    /// Checks events of one room. The answers stand in their order: one event that is bad does not harm the others.
    pub async fn check(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        events: &[Box<RawValue>],
        references: References,
    ) -> Result<Vec<Result<Verified, VerifyError>>, Error> {
        let mut read = Vec::with_capacity(events.len());
        for chunk in events.chunks(EVENTS_A_TURN) {
            read.extend(chunk.iter().map(|event| Read::new(event, rules, references)));
            tokio::task::yield_now().await;
        }
        let found = self.find_keys(read.iter().flatten(), rules.enforce_key_validity).await?;
        let mut checked = Vec::with_capacity(events.len());
        for (index, event) in read.into_iter().enumerate() {
            checked.push(event.and_then(|event| event.finish(room_id, rules, &found)));
            if index.is_multiple_of(EVENTS_A_TURN) {
                tokio::task::yield_now().await;
            }
        }
        Ok(checked)
    }

    /// The same for one event.
    pub async fn check_one(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        event: &RawValue,
        references: References,
    ) -> Result<Result<Verified, VerifyError>, Error> {
        let malformed = || Err(VerifyError::Format("no event".to_owned()));
        let mut checked = self.check(room_id, rules, &[event.to_owned()], references).await?;
        Ok(checked.pop().unwrap_or_else(malformed))
    }

    /// The id of an event, if it can be read at all; says nothing about whether it is to be believed.
    pub fn event_id(event: &RawValue, rules: &RoomVersionRules) -> Option<OwnedEventId> {
        let object: CanonicalJsonObject = serde_json::from_str(event.get()).ok()?;
        event_id_of(&object, rules).ok()
    }

    async fn find_keys(
        &self,
        events: impl Iterator<Item = &Read>,
        enforce_validity: bool,
    ) -> Result<Found, Error> {
        let mut wanted: BTreeMap<KeyName, BTreeSet<u64>> = BTreeMap::new();
        for event in events {
            for name in &event.signed_by {
                wanted.entry(name.clone()).or_default().insert(event.at_ms);
            }
        }
        let mut asked = Vec::with_capacity(wanted.len());
        for (name, times) in wanted {
            asked.push(self.newest_key(name, times, enforce_validity).boxed());
        }
        let mut found = Found::default();
        let mut answers = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        while let Some(answer) = answers.next().await {
            let answer = answer?;
            found.keys.extend(answer.keys);
            found.unasked.extend(answer.unasked);
        }
        Ok(found)
    }

    /// The key for the latest of these times at which it was valid: it was so at every earlier one.
    async fn newest_key(
        &self,
        name: KeyName,
        times: BTreeSet<u64>,
        enforce_validity: bool,
    ) -> Result<Found, Error> {
        let mut found = Found::default();
        for at_ms in times.into_iter().rev() {
            match self.key(&name, at_ms, enforce_validity).await? {
                Asked::Found(key) => {
                    found.keys.insert(name, (at_ms, key));
                    break;
                }
                Asked::Failed => drop(found.unasked.insert(name.clone())),
                Asked::None => {}
            }
        }
        Ok(found)
    }

    async fn key(
        &self,
        (server, key_id): &KeyName,
        at_ms: u64,
        enforce_validity: bool,
    ) -> Result<Asked, Error> {
        if server == self.identity.server_name() {
            return Ok(self.own_key(key_id, at_ms, enforce_validity).map_or(Asked::None, Asked::Found));
        }
        match self.keys.for_event(server, key_id, at_ms, enforce_validity).await {
            Ok(key) => Ok(Asked::Found(key)),
            Err(KeyError::Storage(error)) => Err(error),
            Err(error) => {
                tracing::debug!(%server, %key_id, %error, "no key to verify an event with");
                Ok(if error.may_pass() { Asked::Failed } else { Asked::None })
            }
        }
    }

    fn own_key(&self, key_id: &ServerSigningKeyId, at_ms: u64, enforce_validity: bool) -> Option<Base64> {
        let version = key_id.as_str().strip_prefix("ed25519:")?;
        let key = self.identity.key();
        if key.version() == version {
            return Some(Base64::new(key.public_key().to_vec()));
        }
        let old = self.identity.old_keys().iter().find(|old| old.version == version)?;
        (!enforce_validity || old.expired_ms >= at_ms).then(|| Base64::new(old.public_key.clone()))
    }
}

impl Read {
    fn new(event: &RawValue, rules: &RoomVersionRules, references: References) -> Result<Self, VerifyError> {
        let format = |error: &dyn std::fmt::Display| VerifyError::Format(error.to_string());
        let mut object: CanonicalJsonObject =
            serde_json::from_str(event.get()).map_err(|error| format(&error))?;
        check_pdu_format(&object, rules, references).map_err(|error| format(&error))?;
        // Nobody signed it, and nothing of it is this server's.
        object.remove("unsigned");
        let at_ms = match object.get("origin_server_ts") {
            Some(CanonicalJsonValue::Integer(at_ms)) => u64::try_from(i64::from(*at_ms)).unwrap_or(0),
            _ => return Err(VerifyError::Format("origin_server_ts is missing or no integer".to_owned())),
        };
        let event_id = event_id_of(&object, rules)?;
        let servers = required_server_signatures_to_verify_event(&object, &rules.signatures);
        let servers = servers.map_err(|error| format(&error))?;
        let signatures = object.get("signatures").and_then(CanonicalJsonValue::as_object);
        let signatures = signatures.ok_or_else(|| VerifyError::Signature("there is none".to_owned()))?;
        let mut signed_by = Vec::new();
        for server in servers {
            let of_server = signatures.get(server.as_str()).and_then(CanonicalJsonValue::as_object);
            let of_server = of_server.ok_or_else(|| VerifyError::Signature(format!("none of {server}")))?;
            let key_ids = of_server.keys().filter_map(|key_id| ServerSigningKeyId::parse(key_id).ok());
            signed_by.extend(key_ids.take(SIGNATURES_MAX).map(|key_id| (server.clone(), key_id)));
        }
        Ok(Self { object, event_id, at_ms, signed_by })
    }

    fn finish(
        mut self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        found: &Found,
    ) -> Result<Verified, VerifyError> {
        let mut keys = PublicKeyMap::new();
        for name in &self.signed_by {
            if let Some((valid_at_ms, key)) = found.keys.get(name)
                && (!rules.enforce_key_validity || *valid_at_ms >= self.at_ms)
            {
                keys.entry(name.0.to_string()).or_default().insert(name.1.to_string(), key.clone());
            }
        }
        let verdict = verify_event(&keys, &self.object, rules);
        let verdict = verdict.map_err(|error| {
            match self.signed_by.iter().find(|name| found.unasked.contains(*name)) {
                Some((server, _)) => VerifyError::NoKey(server.clone()),
                None => VerifyError::Signature(error.to_string()),
            }
        })?;
        if verdict == Verdict::Signatures {
            let redacted = redact_in_place(&mut self.object, &rules.redaction, None);
            redacted.map_err(|error| VerifyError::Format(error.to_string()))?;
        }
        let json =
            serde_json::to_vec(&self.object).map_err(|error| VerifyError::Format(error.to_string()))?;
        let pdu = Pdu::parse(&json, self.event_id, room_id, rules).map_err(|error| match error {
            allod_matrix::event::ParseError::OtherRoom => VerifyError::OtherRoom,
            error => VerifyError::Format(error.to_string()),
        })?;
        Ok(Verified::vouch(Arc::new(pdu), Bytes::from(json)))
    }
}

fn event_id_of(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<OwnedEventId, VerifyError> {
    let format = |error: &dyn std::fmt::Display| VerifyError::Format(error.to_string());
    if matches!(rules.event_id_format, EventIdFormatVersion::V1) {
        let event_id = object.get("event_id").and_then(CanonicalJsonValue::as_str);
        return EventId::parse(event_id.unwrap_or_default()).map_err(|error| format(&error));
    }
    let hash = reference_hash(object, rules).map_err(|error| format(&error))?;
    EventId::parse(format!("${hash}")).map_err(|error| format(&error))
}
