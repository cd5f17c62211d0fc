//! Building: from a draft and its place in the graph to a hashed and signed event.
//!
//! One parse of the content, one pass of writing; content hash, signature and event id come from
//! the same bytes. Checks canonical JSON and sizes; authorisation is the caller's.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use ruma::{
    CanonicalJsonObject, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
    ServerName,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    signatures::{KeyPair, sign_event},
};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::{
    AUTH_EVENTS_MAX, DEPTH_MAX, EVENT_BYTES_MAX, FIELD_BYTES_MAX, PREV_EVENTS_MAX,
    canonical::{self, Numbers, Object, Value, write_display, write_object, write_string},
    pdu::{Parts, Pdu},
    redact::redact_content,
};

/// What somebody wants to say, before it has a place in the graph.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The type.
    pub kind: String,
    /// The state key, for a state event.
    pub state_key: Option<String>,
    /// The content.
    pub content: Box<RawValue>,
    /// A user of this server; its server name is the one that signs.
    pub sender: OwnedUserId,
    /// The target, for a redaction; put where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// Unsigned data that travels with the event; rarely any.
    pub unsigned: Option<Box<RawValue>>,
    /// The time to put on it.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
}

/// A place in a room's graph.
#[derive(Clone, Debug)]
pub struct Place {
    /// The room; `None` for the create event of a room whose id is that event's hash (v12).
    pub room_id: Option<OwnedRoomId>,
    /// The forward extremities.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorise it.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the greatest depth of `prev_events`; clamped to what JSON can carry.
    pub depth: u64,
}

/// A finished event.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The event for the rules.
    pub pdu: Pdu,
    /// Its canonical federation JSON with hashes and signatures: what is stored and sent.
    pub json: Vec<u8>,
}

/// Why a draft cannot become an event.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The content is not canonical JSON (`M_BAD_JSON`).
    #[error("not canonical JSON: {0}")]
    NotCanonical(serde_json::Error),
    /// The content is not an object (`M_BAD_JSON`).
    #[error("content is not an object")]
    NotAnObject,
    /// The event would be larger than [`EVENT_BYTES_MAX`] (`M_TOO_LARGE`).
    #[error("event of {0} bytes is too large")]
    TooLarge(usize),
    /// A field is longer than [`FIELD_BYTES_MAX`] (`M_TOO_LARGE`).
    #[error("{0} is too long")]
    FieldTooLong(&'static str),
    /// More than [`PREV_EVENTS_MAX`] or [`AUTH_EVENTS_MAX`] references.
    #[error("too many {0}")]
    TooManyReferences(&'static str),
    /// No room id, and this event needs one; or one, and it must have none.
    #[error("wrong room id for this event and room version")]
    RoomId,
    /// Room versions 1 and 2 are not built here.
    #[error("this room version is not supported for new events")]
    UnsupportedVersion,
}

/// Builds, hashes and signs an event.
pub fn build<K: KeyPair>(
    draft: Draft,
    place: Place,
    rules: &RoomVersionRules,
    key: &K,
) -> Result<Signed, BuildError> {
    if matches!(rules.event_id_format, EventIdFormatVersion::V1) {
        return Err(BuildError::UnsupportedVersion);
    }
    check_envelope(&draft, &place, rules)?;
    let mut value =
        Value::parse(draft.content.get().as_bytes(), Numbers::Strict).map_err(BuildError::NotCanonical)?;
    let content = value.as_object_mut().ok_or(BuildError::NotAnObject)?;
    let unsigned = draft
        .unsigned
        .as_ref()
        .map(|raw| Value::parse(raw.get().as_bytes(), Numbers::Strict))
        .transpose()
        .map_err(BuildError::NotCanonical)?;
    let redacts = place_redacts(&draft, content, rules);
    let top_redacts = redacts.as_deref().filter(|_| !rules.redaction.content_field_redacts);

    let mut content_json = Vec::with_capacity(draft.content.get().len());
    write_object(&mut content_json, content);
    redact_content(&draft.kind, content, &rules.redaction);
    let mut redacted_json = Vec::new();
    write_object(&mut redacted_json, content);

    let mut envelope = Envelope { draft: &draft, place: &place, redacts: top_redacts };
    let mut scratch = Vec::with_capacity(content_json.len() + 1024);
    envelope.write(&mut scratch, &content_json, None, None, None);
    let hash = STANDARD_NO_PAD.encode(Sha256::digest(&scratch));

    // Signature and event id are over the redacted form; `redacts` at the top level is not in it.
    envelope.redacts = None;
    scratch.clear();
    envelope.write(&mut scratch, &redacted_json, Some(&hash), None, None);
    let signature = key.sign(&scratch);
    let event_id = event_id_of(&scratch, rules)?;

    envelope.redacts = top_redacts;
    let signatures = signatures_json(draft.sender.server_name(), &signature);
    scratch.clear();
    envelope.write(&mut scratch, &content_json, Some(&hash), Some(&signatures), unsigned.as_ref());
    if scratch.len() > EVENT_BYTES_MAX {
        return Err(BuildError::TooLarge(scratch.len()));
    }
    let content = own_content(draft.content.get(), content_json)?;
    finish(draft, place, event_id, content, redacts, scratch)
}

/// Puts the pieces of a built event together.
fn finish(
    draft: Draft,
    place: Place,
    event_id: OwnedEventId,
    content: Box<RawValue>,
    redacts: Option<OwnedEventId>,
    json: Vec<u8>,
) -> Result<Signed, BuildError> {
    let has_room_id = place.room_id.is_some();
    let room_id = match place.room_id {
        Some(room_id) => room_id,
        None => room_id_of(&event_id).ok_or(BuildError::RoomId)?,
    };
    let pdu = Pdu::assemble(Parts {
        event_id,
        room_id,
        sender: draft.sender,
        kind: draft.kind,
        state_key: draft.state_key,
        content,
        origin_server_ts: draft.origin_server_ts,
        prev_events: place.prev_events,
        auth_events: place.auth_events,
        depth: place.depth.min(DEPTH_MAX),
        redacts,
        has_room_id,
    });
    Ok(Signed { pdu, json })
}

/// The id of the room that a v12 create event makes.
pub fn room_id_of(create_event_id: &EventId) -> Option<OwnedRoomId> {
    let hash = create_event_id.as_str().strip_prefix('$')?;
    RoomId::parse(format!("!{hash}")).ok()
}

/// Adds another server's signature to an event (a resident server on a restricted join, an
/// invited server on an invite), leaving the rest as it is.
///
/// Only for events that the caller has checked field by field: see CVE-2026-24471.
pub fn countersign<K: KeyPair>(
    event: &mut CanonicalJsonObject,
    server: &ServerName,
    rules: &RoomVersionRules,
    key: &K,
) -> Result<Vec<u8>, BuildError> {
    sign_event(server.as_str(), key, event, &rules.redaction)
        .map_err(|error| BuildError::NotCanonical(serde::de::Error::custom(error)))?;
    let json = serde_json::to_vec(event).map_err(BuildError::NotCanonical)?;
    if json.len() > EVENT_BYTES_MAX {
        return Err(BuildError::TooLarge(json.len()));
    }
    Ok(json)
}

/// Checks sizes and the presence of the room id.
fn check_envelope(draft: &Draft, place: &Place, rules: &RoomVersionRules) -> Result<(), BuildError> {
    let room_id = place.room_id.as_ref().map_or("", |id| id.as_str());
    let fields = [
        ("type", draft.kind.as_str()),
        ("state_key", draft.state_key.as_deref().unwrap_or_default()),
        ("sender", draft.sender.as_str()),
        ("room_id", room_id),
    ];
    for (name, value) in fields {
        if value.len() > FIELD_BYTES_MAX {
            return Err(BuildError::FieldTooLong(name));
        }
    }
    let hash_is_room = draft.kind == "m.room.create" && !rules.event_format.require_room_create_room_id;
    if place.room_id.is_some() == hash_is_room {
        return Err(BuildError::RoomId);
    }
    if place.prev_events.len() > PREV_EVENTS_MAX {
        return Err(BuildError::TooManyReferences("prev_events"));
    }
    if place.auth_events.len() > AUTH_EVENTS_MAX {
        return Err(BuildError::TooManyReferences("auth_events"));
    }
    Ok(())
}

/// Moves the target of a redaction to where the room version wants it, and returns it.
fn place_redacts(draft: &Draft, content: &mut Object<'_>, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    if draft.kind != "m.room.redaction" {
        return None;
    }
    let in_content =
        canonical::get(content, "redacts").and_then(Value::as_str).and_then(|id| EventId::parse(id).ok());
    let target = draft.redacts.clone().or(in_content)?;
    if rules.redaction.content_field_redacts {
        let value = Value::String(target.as_str().to_owned().into());
        canonical::set(content, "redacts", value);
    } else {
        canonical::take(content, "redacts");
    }
    Some(target)
}

/// The hash of the redacted form as event id.
fn event_id_of(redacted: &[u8], rules: &RoomVersionRules) -> Result<OwnedEventId, BuildError> {
    let hash = Sha256::digest(redacted);
    let encoded = match rules.event_id_format {
        EventIdFormatVersion::V2 => STANDARD_NO_PAD.encode(hash),
        _ => URL_SAFE_NO_PAD.encode(hash),
    };
    EventId::parse(format!("${encoded}")).map_err(|_| BuildError::UnsupportedVersion)
}

/// The `signatures` object with one signature.
fn signatures_json(server: &ServerName, signature: &ruma::signatures::Signature) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    out.push(b'{');
    write_string(&mut out, server.as_str());
    out.extend_from_slice(b":{");
    write_string(&mut out, &signature.id());
    out.push(b':');
    write_string(&mut out, &signature.base64());
    out.extend_from_slice(b"}}");
    out
}

/// The content as it stands in the event: the draft's own text if that was canonical already.
fn own_content(given: &str, canonical: Vec<u8>) -> Result<Box<RawValue>, BuildError> {
    let text = if given.as_bytes() == canonical {
        given.to_owned()
    } else {
        String::from_utf8(canonical)
            .map_err(|error| BuildError::NotCanonical(serde::de::Error::custom(error)))?
    };
    RawValue::from_string(text).map_err(BuildError::NotCanonical)
}

/// The top level of an event, to be written in canonical order.
struct Envelope<'a> {
    draft: &'a Draft,
    place: &'a Place,
    redacts: Option<&'a EventId>,
}

impl Envelope<'_> {
    /// Writes the event. Keys are written in the order of canonical JSON.
    fn write(
        &self,
        out: &mut Vec<u8>,
        content: &[u8],
        hash: Option<&str>,
        signatures: Option<&[u8]>,
        unsigned: Option<&Value<'_>>,
    ) {
        out.extend_from_slice(b"{\"auth_events\":");
        write_ids(out, &self.place.auth_events);
        out.extend_from_slice(b",\"content\":");
        out.extend_from_slice(content);
        out.extend_from_slice(b",\"depth\":");
        write_display(out, &self.place.depth.min(DEPTH_MAX));
        if let Some(hash) = hash {
            out.extend_from_slice(b",\"hashes\":{\"sha256\":");
            write_string(out, hash);
            out.push(b'}');
        }
        out.extend_from_slice(b",\"origin_server_ts\":");
        write_display(out, &self.draft.origin_server_ts.get());
        out.extend_from_slice(b",\"prev_events\":");
        write_ids(out, &self.place.prev_events);
        write_field(out, b",\"redacts\":", self.redacts.map(EventId::as_str));
        write_field(out, b",\"room_id\":", self.place.room_id.as_ref().map(|id| id.as_str()));
        write_field(out, b",\"sender\":", Some(self.draft.sender.as_str()));
        if let Some(signatures) = signatures {
            out.extend_from_slice(b",\"signatures\":");
            out.extend_from_slice(signatures);
        }
        write_field(out, b",\"state_key\":", self.draft.state_key.as_deref());
        write_field(out, b",\"type\":", Some(&self.draft.kind));
        if let Some(unsigned) = unsigned {
            out.extend_from_slice(b",\"unsigned\":");
            unsigned.write(out);
        }
        out.push(b'}');
    }
}

/// Writes a string field if there is one.
fn write_field(out: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(name);
        write_string(out, value);
    }
}

/// Writes an array of event ids.
fn write_ids(out: &mut Vec<u8>, ids: &[OwnedEventId]) {
    out.push(b'[');
    for (index, id) in ids.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, id.as_str());
    }
    out.push(b']');
}

#[cfg(test)]
mod tests;
