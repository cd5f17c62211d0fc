//! `Pdu`: an event as the rules see it, parsed from its stored federation JSON.
//!
//! Parsing is lenient about content (events of other servers are untrusted, MSC2801) and exact
//! about the envelope. It checks no hash, signature or authorisation rule.

use std::borrow::Cow;

use ruma::{
    CanonicalJsonObject, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
    UInt, UserId,
    events::{TimelineEventType, room::member::MembershipState},
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
    state_res::Event,
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

/// An event, in any room version.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// Its id, which is not in the JSON since room version 3.
    pub event_id: OwnedEventId,
    /// Its room; filled in also for the create event of a v12 room, whose JSON has none.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its type.
    pub kind: String,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// Its content, always a JSON object.
    pub content: Box<RawValue>,
    /// When the sending server says that it was made.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The events before it.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorise it.
    pub auth_events: Vec<OwnedEventId>,
    /// The depth that the sender claims.
    pub depth: u64,
    /// For a redaction: the event that it redacts, read from where the room version puts it.
    pub redacts: Option<OwnedEventId>,
    /// Whether it failed the authorisation rules on receipt.
    pub rejected: bool,
    /// The type as ruma's enum, which `state_res::Event` must lend out.
    event_type: TimelineEventType,
    /// Whether the JSON itself has a `room_id`.
    has_room_id: bool,
}

/// Why JSON is not an event of this room.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("malformed event: {0}")]
    Malformed(#[from] serde_json::Error),
    /// `content` is not an object.
    #[error("content is not an object")]
    Content,
    /// There is no `room_id`, and this event needs one.
    #[error("room_id is missing")]
    NoRoomId,
    /// `room_id` is another room's, or a v12 create event has another hash than its room's id.
    #[error("the event belongs to another room")]
    OtherRoom,
    /// The JSON carries an `event_id` (room versions 1 and 2) and it is another one.
    #[error("the event has another id")]
    OtherId,
}

/// The envelope as it stands in the JSON.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    event_id: Option<Cow<'a, str>>,
    #[serde(default)]
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: Option<String>,
    content: Box<RawValue>,
    origin_server_ts: UInt,
    #[serde(borrow)]
    prev_events: &'a RawValue,
    #[serde(borrow)]
    auth_events: &'a RawValue,
    depth: u64,
    #[serde(borrow, default)]
    redacts: Option<&'a RawValue>,
}

impl Pdu {
    /// Parses the federation JSON of an event whose id and room are known.
    ///
    /// `room_id` is the room the event was asked from or found in: an event of another room is an
    /// error, so that no look-up can cross rooms.
    pub fn parse(
        json: &[u8],
        event_id: OwnedEventId,
        room_id: &RoomId,
        rules: &RoomVersionRules,
    ) -> Result<Self, ParseError> {
        let envelope: Envelope<'_> = serde_json::from_slice(json)?;
        if !envelope.content.get().starts_with('{') {
            return Err(ParseError::Content);
        }
        if rules.event_format.require_event_id && envelope.event_id.as_deref() != Some(event_id.as_str()) {
            return Err(ParseError::OtherId);
        }
        let has_room_id = match &envelope.room_id {
            Some(own) if own == room_id => true,
            Some(_) => return Err(ParseError::OtherRoom),
            None => {
                check_create_id(&envelope.kind, &event_id, room_id, rules)?;
                false
            }
        };
        let redacts = read_redacts(&envelope, rules);
        Ok(Self {
            room_id: room_id.to_owned(),
            event_id,
            sender: envelope.sender,
            event_type: envelope.kind.as_str().into(),
            kind: envelope.kind,
            state_key: envelope.state_key,
            content: envelope.content,
            origin_server_ts: MilliSecondsSinceUnixEpoch(envelope.origin_server_ts),
            prev_events: read_references(envelope.prev_events, rules)?,
            auth_events: read_references(envelope.auth_events, rules)?,
            depth: envelope.depth,
            redacts,
            rejected: false,
            has_room_id,
        })
    }

    /// As [`Pdu::parse`], for an object that was just verified with ruma's signature functions.
    pub fn parse_object(
        object: &CanonicalJsonObject,
        event_id: OwnedEventId,
        room_id: &RoomId,
        rules: &RoomVersionRules,
    ) -> Result<Self, ParseError> {
        Self::parse(&serde_json::to_vec(object)?, event_id, room_id, rules)
    }

    /// Whether it is a state event.
    pub fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// Whether it is the state event of this type and key.
    pub fn is(&self, kind: &str, state_key: &str) -> bool {
        self.kind == kind && self.state_key.as_deref() == Some(state_key)
    }

    /// The membership that a member event sets; `None` for other events and for nonsense.
    pub fn membership(&self) -> Option<MembershipState> {
        #[derive(Deserialize)]
        struct Content {
            membership: MembershipState,
        }
        if self.kind != "m.room.member" || self.state_key.is_none() {
            return None;
        }
        self.content_as::<Content>().map(|content| content.membership)
    }

    /// The content as `T`, or `None` if it does not fit. Declare `T` with as few fields as needed.
    pub fn content_as<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.content.get()).ok()
    }

    /// The type as ruma's enum.
    pub fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    /// Assembles an event that was just built; only `build` can.
    pub(super) fn assemble(parts: Parts) -> Self {
        Self {
            event_id: parts.event_id,
            room_id: parts.room_id,
            sender: parts.sender,
            event_type: parts.kind.as_str().into(),
            kind: parts.kind,
            state_key: parts.state_key,
            content: parts.content,
            origin_server_ts: parts.origin_server_ts,
            prev_events: parts.prev_events,
            auth_events: parts.auth_events,
            depth: parts.depth,
            redacts: parts.redacts,
            rejected: false,
            has_room_id: parts.has_room_id,
        }
    }
}

/// What `build` hands over to make a `Pdu` without parsing its own output.
pub(super) struct Parts {
    pub(super) event_id: OwnedEventId,
    pub(super) room_id: OwnedRoomId,
    pub(super) sender: OwnedUserId,
    pub(super) kind: String,
    pub(super) state_key: Option<String>,
    pub(super) content: Box<RawValue>,
    pub(super) origin_server_ts: MilliSecondsSinceUnixEpoch,
    pub(super) prev_events: Vec<OwnedEventId>,
    pub(super) auth_events: Vec<OwnedEventId>,
    pub(super) depth: u64,
    pub(super) redacts: Option<OwnedEventId>,
    pub(super) has_room_id: bool,
}

/// A room version 12 create event has no `room_id`; its hash must be its room's id.
fn check_create_id(
    kind: &str,
    event_id: &EventId,
    room_id: &RoomId,
    rules: &RoomVersionRules,
) -> Result<(), ParseError> {
    if rules.event_format.require_room_create_room_id || kind != "m.room.create" {
        return Err(ParseError::NoRoomId);
    }
    if event_id.as_str().strip_prefix('$') != Some(room_id.strip_sigil()) {
        return Err(ParseError::OtherRoom);
    }
    Ok(())
}

/// The target of a redaction, from the top level before room version 11 and from `content` since.
fn read_redacts(envelope: &Envelope<'_>, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Content {
        redacts: OwnedEventId,
    }
    if envelope.kind != "m.room.redaction" {
        return None;
    }
    if rules.redaction.content_field_redacts {
        let content: Content = serde_json::from_str(envelope.content.get()).ok()?;
        return Some(content.redacts);
    }
    serde_json::from_str(envelope.redacts?.get()).ok()
}

/// References to other events: ids, or pairs of id and hash in room versions 1 and 2.
fn read_references(raw: &RawValue, rules: &RoomVersionRules) -> Result<Vec<OwnedEventId>, serde_json::Error> {
    if matches!(rules.events_reference_format, EventsReferenceFormatVersion::V1) {
        let pairs: Vec<(OwnedEventId, IgnoredAny)> = serde_json::from_str(raw.get())?;
        return Ok(pairs.into_iter().map(|(id, _)| id).collect());
    }
    serde_json::from_str(raw.get())
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.has_room_id.then_some(&*self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{owned_event_id, room_id};
    use serde_json::{Value, json};

    use super::*;

    fn event() -> Value {
        json!({
            "type": "m.room.member", "state_key": "@a:b", "sender": "@a:b", "room_id": "!r:b",
            "content": {"membership": "join"}, "origin_server_ts": 5, "depth": 7,
            "prev_events": ["$p"], "auth_events": ["$q", "$s"],
            "hashes": {"sha256": ""}, "signatures": {},
        })
    }

    fn parse(json: &Value, rules: &RoomVersionRules) -> Result<Pdu, ParseError> {
        let bytes = json.to_string().into_bytes();
        Pdu::parse(&bytes, owned_event_id!("$e"), room_id!("!r:b"), rules)
    }

    #[test]
    fn reads_the_envelope() {
        let pdu = parse(&event(), &RoomVersionRules::V10).unwrap();
        assert!(pdu.is("m.room.member", "@a:b"));
        assert_eq!(pdu.membership(), Some(MembershipState::Join));
        assert_eq!(pdu.depth, 7);
        assert_eq!(pdu.auth_events, ["$q", "$s"]);
        assert_eq!(Event::room_id(&pdu), Some(room_id!("!r:b")));
    }

    #[test]
    fn reads_pairs_in_old_versions() {
        let mut json = event();
        json["prev_events"] = json!([["$p:b", {"sha256": "x"}]]);
        json["auth_events"] = json!([]);
        json["event_id"] = json!("$e");
        let pdu = parse(&json, &RoomVersionRules::V1).unwrap();
        assert_eq!(pdu.prev_events, ["$p:b"]);
        json["event_id"] = json!("$other");
        assert!(matches!(parse(&json, &RoomVersionRules::V1), Err(ParseError::OtherId)));
    }

    #[test]
    fn redacts_is_read_where_the_version_puts_it() {
        let mut json = event();
        json["type"] = json!("m.room.redaction");
        json["redacts"] = json!("$top");
        json["content"] = json!({"redacts": "$content"});
        let old = parse(&json, &RoomVersionRules::V10).unwrap().redacts;
        let new = parse(&json, &RoomVersionRules::V11).unwrap().redacts;
        assert_eq!(old, Some(owned_event_id!("$top")));
        assert_eq!(new, Some(owned_event_id!("$content")));
        json["content"] = json!({"redacts": 3});
        assert_eq!(parse(&json, &RoomVersionRules::V11).unwrap().redacts, None);
    }

    /// CVE-2020-26257 and its like: an event never passes for one of another room.
    #[test]
    fn another_rooms_event_is_refused() {
        let mut json = event();
        json["room_id"] = json!("!other:b");
        assert!(matches!(parse(&json, &RoomVersionRules::V10), Err(ParseError::OtherRoom)));
        json.as_object_mut().unwrap().remove("room_id");
        assert!(matches!(parse(&json, &RoomVersionRules::V12), Err(ParseError::NoRoomId)));
    }

    #[test]
    fn v12_create_has_no_room_id() {
        let mut json = event();
        json["type"] = json!("m.room.create");
        json.as_object_mut().unwrap().remove("room_id");
        let bytes = json.to_string();
        let parse = |id: &str, room: &str| {
            let room = <&RoomId>::try_from(room).unwrap();
            Pdu::parse(bytes.as_bytes(), id.try_into().unwrap(), room, &RoomVersionRules::V12)
        };
        let pdu = parse("$hash", "!hash").unwrap();
        assert_eq!(Event::room_id(&pdu), None);
        assert_eq!(pdu.room_id, "!hash");
        assert!(matches!(parse("$hash", "!else"), Err(ParseError::OtherRoom)));
    }

    /// Depths at the edges; ours are clamped where we build (`depth_is_clamped`).
    #[test]
    fn cve_2018_10657_depths() {
        for (depth, expected) in [
            (json!(0), Some(0)),
            (json!(-1), None),
            (json!(1_u64 << 53), Some(1 << 53)),
            (json!(i64::MAX), Some(i64::MAX.unsigned_abs())),
            (json!("1"), None),
            (json!(1.0), None),
        ] {
            let mut json = event();
            json["depth"] = depth.clone();
            let pdu = parse(&json, &RoomVersionRules::V5).ok();
            assert_eq!(pdu.map(|pdu| pdu.depth), expected, "{depth}");
        }
    }

    #[test]
    fn odd_content_is_tolerated() {
        let mut json = event();
        json["content"] = json!({"membership": 5});
        assert_eq!(parse(&json, &RoomVersionRules::V10).unwrap().membership(), None);
        json["content"] = json!([]);
        assert!(matches!(parse(&json, &RoomVersionRules::V10), Err(ParseError::Content)));
    }

    proptest! {
        #[test]
        fn never_panics(
            field in prop::sample::select(vec![
                "type", "state_key", "sender", "room_id", "content", "depth", "prev_events",
                "auth_events", "origin_server_ts", "redacts", "event_id",
            ]),
            value in prop::sample::select(vec![
                json!(null), json!(1), json!(-1), json!(1.5), json!("x"), json!([]), json!({}),
                json!([[]]), json!(["$x", 1]), json!(true),
            ]),
        ) {
            let mut json = event();
            json[field] = value;
            for rules in [RoomVersionRules::V1, RoomVersionRules::V10, RoomVersionRules::V12] {
                let _ = parse(&json, &rules);
            }
        }
    }
}
