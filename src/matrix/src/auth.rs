//! Authorisation: ruma's rules, and the few that ruma leaves to its callers.
//!
//! On receipt (§Checks performed on receipt of a PDU): [`check_pdu_format`], signatures and hash
//! (ruma), [`check_auth_events`], then [`check_state`] three times: with the state that
//! `auth_events` give (else reject), with the state before the event (else reject), and with the
//! current state (else soft-fail). Look-ups are synchronous: [`state_needed`] says what to fetch.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, RoomId, RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{AuthorizationRules, RoomVersionRules},
    state_res::{
        self, Event, auth_types_for_event, check_state_dependent_auth_rules,
        check_state_independent_auth_rules,
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{AUTH_EVENTS_MAX, EVENT_BYTES_MAX, FIELD_BYTES_MAX, PREV_EVENTS_MAX, Pdu};

/// Why an event is not allowed, in words for logs and for `M_FORBIDDEN`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

impl From<String> for AuthError {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

impl From<&str> for AuthError {
    fn from(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// The state whose events go into `auth_events` (§Auth events selection).
pub fn auth_types(
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &AuthorizationRules,
) -> Result<Vec<(StateEventType, String)>, AuthError> {
    let kind = TimelineEventType::from(kind);
    Ok(auth_types_for_event(&kind, sender, state_key, content, rules)?)
}

/// All state that [`check_state`] may ask for: the above and the create event, which since room
/// version 12 is not among `auth_events`.
pub fn state_needed(
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &AuthorizationRules,
) -> Result<Vec<(StateEventType, String)>, AuthError> {
    let mut needed = auth_types(kind, sender, state_key, content, rules)?;
    let create = (StateEventType::RoomCreate, String::new());
    if !needed.contains(&create) {
        needed.push(create);
    }
    Ok(needed)
}

/// The rules that look at the event and its `auth_events` only; needed once.
///
/// `fetch_event` must find the auth events and, since room version 12, the create event, and must
/// say of each whether it was rejected.
pub fn check_auth_events<E: Event>(
    rules: &AuthorizationRules,
    event: &Pdu,
    fetch_event: impl Fn(&EventId) -> Option<E>,
) -> Result<(), AuthError> {
    if event.kind == "m.room.create" {
        check_create(event)?;
    }
    Ok(check_state_independent_auth_rules(rules, event, fetch_event)?)
}

/// The rules that depend on a state of the room; needed up to three times.
pub fn check_state<E: Event>(
    rules: &AuthorizationRules,
    event: &Pdu,
    fetch_state: impl Fn(&StateEventType, &str) -> Option<E>,
) -> Result<(), AuthError> {
    if event.kind == "m.room.create" {
        // ruma allows every create event here; but a room has one only (CVE-2025-54315).
        let other = fetch_state(&StateEventType::RoomCreate, "");
        let other_id = other.as_ref().map(|other| std::borrow::Borrow::borrow(other.event_id()));
        if other_id.is_some_and(|id: &EventId| *id != *event.event_id) {
            return Err("the room has another create event".into());
        }
        return Ok(());
    }
    Ok(check_state_dependent_auth_rules(rules, event, fetch_state)?)
}

/// [`check_auth_events`] and [`check_state`] with one state: all that an event that we build on
/// the current state needs.
pub fn check<E: Event, F: Event>(
    rules: &AuthorizationRules,
    event: &Pdu,
    fetch_event: impl Fn(&EventId) -> Option<E>,
    fetch_state: impl Fn(&StateEventType, &str) -> Option<F>,
) -> Result<(), AuthError> {
    check_auth_events(rules, event, fetch_event)?;
    check_state(rules, event, fetch_state)
}

/// The room version that a create event names; 1 if it names none.
pub fn room_version(create: &Pdu) -> Result<RoomVersionId, AuthError> {
    Ok(state_res::events::RoomCreateEvent::new(create).room_version()?)
}

/// What ruma does not check about a create event: that its version is one that we know, and that
/// it is a state event at all.
fn check_create(event: &Pdu) -> Result<(), AuthError> {
    if event.state_key.as_deref() != Some("") {
        return Err("create event without empty state_key".into());
    }
    if room_version(event)?.rules().is_none() {
        return Err("unknown room version".into());
    }
    Ok(())
}

/// Which limits on the number of references [`check_pdu_format`] enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum References {
    /// At most 20 `prev_events` and 10 `auth_events`: everywhere but in backfill.
    Limited,
    /// Any number: backfill must not drop events for it.
    Unlimited,
}

/// Checks the format of an event of another server: fields, their types and their sizes.
///
/// As ruma's function of that name, but with the specification's limit of 65,536 bytes, and
/// without counting references in backfill. The event is dropped on error.
///
/// Fields may have 255 bytes; in room versions that take the room's creator from the content of
/// the create event, 255 characters: the servers of their time counted so, and such events are in
/// rooms.
pub fn check_pdu_format(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    references: References,
) -> Result<(), AuthError> {
    let size = serde_json::to_vec(event).map_err(|error| error.to_string())?.len();
    if size > EVENT_BYTES_MAX {
        return Err("event too large".into());
    }
    let length: fn(&str) -> usize =
        if rules.authorization.use_room_create_sender { str::len } else { |text| text.chars().count() };
    let string = |field| string(event, field, length);
    let rules = &rules.event_format;
    let kind = string("type")?;
    string("sender")?;
    if !matches!(event.get("content"), Some(CanonicalJsonValue::Object(_))) {
        return Err("content is missing or not an object".into());
    }
    if event.contains_key("state_key") {
        string("state_key")?;
    }
    if rules.require_event_id {
        string("event_id")?;
    }
    check_references(event, "prev_events", PREV_EVENTS_MAX, references)?;
    let auth_events = check_references(event, "auth_events", AUTH_EVENTS_MAX, references)?;
    if kind != "m.room.create" || rules.require_room_create_room_id {
        let room_id =
            <&RoomId>::try_from(string("room_id")?).map_err(|_| AuthError::from("room_id is invalid"))?;
        if !rules.allow_room_create_in_auth_events && names_create(auth_events, room_id) {
            return Err("auth_events name the create event".into());
        }
    }
    match event.get("depth") {
        Some(CanonicalJsonValue::Integer(depth)) if i64::from(*depth) >= 0 => Ok(()),
        _ => Err("depth is missing or not a natural number".into()),
    }
}

/// Whether one of these references is the create event of a room named after it.
fn names_create(references: &[CanonicalJsonValue], room_id: &RoomId) -> bool {
    references.iter().any(|reference| {
        reference.as_str().and_then(|id| id.strip_prefix('$')) == Some(room_id.strip_sigil())
    })
}

/// A string field of at most 255 units of `length`.
fn string<'a>(
    event: &'a CanonicalJsonObject,
    field: &str,
    length: fn(&str) -> usize,
) -> Result<&'a str, AuthError> {
    match event.get(field) {
        Some(CanonicalJsonValue::String(text)) if length(text) <= FIELD_BYTES_MAX => Ok(text),
        Some(CanonicalJsonValue::String(_)) => Err(format!("{field} is too long").into()),
        _ => Err(format!("{field} is missing or not a string").into()),
    }
}

/// An array of references to events.
fn check_references<'a>(
    event: &'a CanonicalJsonObject,
    field: &str,
    max: usize,
    references: References,
) -> Result<&'a [CanonicalJsonValue], AuthError> {
    match event.get(field) {
        Some(CanonicalJsonValue::Array(items))
            if items.len() <= max || references == References::Unlimited =>
        {
            Ok(items)
        }
        Some(CanonicalJsonValue::Array(_)) => Err(format!("too many {field}").into()),
        _ => Err(format!("{field} is missing or not an array").into()),
    }
}

/// Whether the room may be joined by servers other than the creator's.
pub fn is_federated(create: &Pdu) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.federate")]
        federate: Option<bool>,
    }
    create.content_as::<Content>().and_then(|content| content.federate).unwrap_or(true)
}

#[cfg(test)]
mod tests;
