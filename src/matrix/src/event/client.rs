//! The forms in which clients see events, spliced from stored federation JSON as bytes.
//!
//! `content` is never parsed or written anew. [`ClientForm`] holds what all readers of an event
//! share and is worth caching; [`ClientForm::finish`] adds what depends on reader and moment.

use std::borrow::Cow;

use ruma::{EventId, MilliSecondsSinceUnixEpoch, RoomId, UInt, UserId, room_version_rules::RedactionRules};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::canonical::{write_display, write_string};

/// The part of an event's client form that is the same for every reader.
#[derive(Clone, Debug)]
pub struct ClientForm {
    /// An unclosed object: `{"content":…,…,"type":…`
    head: Vec<u8>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
}

/// What a reader and a moment add to an event; all optional.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// The room; left out where the room is known from the context, as in `/sync`.
    pub room_id: Option<&'a RoomId>,
    /// The current time, for `unsigned.age`.
    pub now: Option<MilliSecondsSinceUnixEpoch>,
    /// Only for the device that sent the event.
    pub transaction_id: Option<&'a str>,
    /// The replaced state event's content, only if that event is visible to the reader.
    pub prev_content: Option<&'a RawValue>,
    /// The sender of the replaced state event, where `prev_content` is given (not in the
    /// specification; clients have come to expect it).
    pub prev_sender: Option<&'a UserId>,
    /// The replaced state event.
    pub replaces_state: Option<&'a EventId>,
    /// The redaction in client format, if the event is redacted.
    pub redacted_because: Option<&'a RawValue>,
    /// The reader's membership at the event.
    pub membership: Option<&'a str>,
    /// Bundled aggregations, the object for `m.relations`.
    pub relations: Option<&'a RawValue>,
}

/// Stored federation JSON without what clients never see.
#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    origin_server_ts: UInt,
    #[serde(borrow, default)]
    redacts: Option<&'a RawValue>,
    #[serde(borrow)]
    sender: &'a RawValue,
    #[serde(borrow, default)]
    state_key: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
}

impl ClientForm {
    /// Reads an event's stored federation JSON.
    ///
    /// For a redaction the target stands both at the top level and in `content`, whatever the
    /// room version (§Redactions, room version 11).
    pub fn new(json: &[u8], event_id: &EventId, rules: &RedactionRules) -> Result<Self, serde_json::Error> {
        let stored: Stored<'_> = serde_json::from_slice(json)?;
        let (content, redacts) = if stored.kind.get() == "\"m.room.redaction\"" {
            copy_redacts(&stored, rules)
        } else {
            (Cow::Borrowed(stored.content.get()), None)
        };
        let mut head = Vec::with_capacity(json.len());
        head.extend_from_slice(b"{\"content\":");
        head.extend_from_slice(content.as_bytes());
        head.extend_from_slice(b",\"event_id\":");
        write_string(&mut head, event_id.as_str());
        head.extend_from_slice(b",\"origin_server_ts\":");
        write_display(&mut head, &stored.origin_server_ts);
        write_raw(&mut head, b",\"redacts\":", redacts.as_deref());
        write_raw(&mut head, b",\"sender\":", Some(stored.sender.get()));
        write_raw(&mut head, b",\"state_key\":", stored.state_key.map(RawValue::get));
        write_raw(&mut head, b",\"type\":", Some(stored.kind.get()));
        let origin_server_ts = MilliSecondsSinceUnixEpoch(stored.origin_server_ts);
        Ok(Self { head, origin_server_ts })
    }

    /// The complete client format for one reader, as JSON text.
    pub fn finish(&self, facts: &Facts<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.head.len() + 128);
        self.write(facts, &mut out);
        out
    }

    /// As [`ClientForm::finish`], into a buffer.
    pub fn write(&self, facts: &Facts<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        if let Some(room_id) = facts.room_id {
            out.extend_from_slice(b",\"room_id\":");
            write_string(out, room_id.as_str());
        }
        write_unsigned(out, facts, self.origin_server_ts);
        out.push(b'}');
    }

    /// Bytes that it holds, for cache accounting.
    pub fn size(&self) -> usize {
        self.head.len()
    }
}

/// The stripped form of a state event: `sender`, `type`, `state_key` and `content` only, and of the create event its time
/// too (MSC4311).
pub fn stripped(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let stored: Stored<'_> = serde_json::from_slice(json)?;
    let mut out = Vec::with_capacity(json.len());
    out.extend_from_slice(b"{\"content\":");
    out.extend_from_slice(stored.content.get().as_bytes());
    if stored.kind.get() == "\"m.room.create\"" {
        write_raw(&mut out, b",\"origin_server_ts\":", Some(&stored.origin_server_ts.to_string()));
    }
    write_raw(&mut out, b",\"sender\":", Some(stored.sender.get()));
    write_raw(&mut out, b",\"state_key\":", stored.state_key.map(RawValue::get));
    write_raw(&mut out, b",\"type\":", Some(stored.kind.get()));
    out.push(b'}');
    Ok(out)
}

/// The form for filters with `event_format: federation`: the stored event, its id and room, and
/// our own `unsigned` instead of the sender's.
pub fn federation(json: &[u8], event_id: &EventId, facts: &Facts<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let fields: std::collections::BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(json)?;
    let origin_server_ts =
        fields.get("origin_server_ts").and_then(|raw| serde_json::from_str(raw.get()).ok());
    let mut out = Vec::with_capacity(json.len() + 256);
    out.extend_from_slice(b"{\"event_id\":");
    write_string(&mut out, event_id.as_str());
    if let Some(room_id) = facts.room_id.filter(|_| !fields.contains_key("room_id")) {
        out.extend_from_slice(b",\"room_id\":");
        write_string(&mut out, room_id.as_str());
    }
    for (key, raw) in fields {
        if !matches!(key.as_ref(), "event_id" | "unsigned") {
            out.push(b',');
            write_string(&mut out, &key);
            write_raw(&mut out, b":", Some(raw.get()));
        }
    }
    write_unsigned(&mut out, facts, origin_server_ts.unwrap_or(MilliSecondsSinceUnixEpoch(UInt::MIN)));
    out.push(b'}');
    Ok(out)
}

/// Content and top-level target of a redaction, each holding the target.
fn copy_redacts<'a>(stored: &Stored<'a>, rules: &RedactionRules) -> (Cow<'a, str>, Option<Cow<'a, str>>) {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow, default)]
        redacts: Option<&'a RawValue>,
    }
    let content = stored.content.get();
    let inner = serde_json::from_str::<Content<'_>>(content).ok().and_then(|c| c.redacts);
    if rules.content_field_redacts {
        return (content.into(), inner.map(|raw| raw.get().into()));
    }
    let Some(top) = stored.redacts.map(RawValue::get) else {
        return (content.into(), None);
    };
    let open = content.trim_start().strip_prefix('{').map(str::trim_start);
    let copied = match open {
        Some(rest) if inner.is_none() => {
            let comma = if rest.starts_with('}') { "" } else { "," };
            format!("{{\"redacts\":{top}{comma}{rest}").into()
        }
        _ => content.into(),
    };
    (copied, Some(top.into()))
}

/// Writes `,"unsigned":{…}`, or nothing if there is nothing to say.
fn write_unsigned(out: &mut Vec<u8>, facts: &Facts<'_>, sent: MilliSecondsSinceUnixEpoch) {
    let mut inner = Vec::new();
    if let Some(now) = facts.now {
        inner.extend_from_slice(b",\"age\":");
        write_display(&mut inner, &now.get().saturating_sub(sent.get()));
    }
    write_raw(&mut inner, b",\"m.relations\":", facts.relations.map(RawValue::get));
    let strings = [
        (&b",\"membership\":"[..], facts.membership),
        (b",\"prev_sender\":", facts.prev_sender.map(UserId::as_str)),
        (b",\"replaces_state\":", facts.replaces_state.map(EventId::as_str)),
        (b",\"transaction_id\":", facts.transaction_id),
    ];
    for (name, value) in strings {
        if let Some(value) = value {
            inner.extend_from_slice(name);
            write_string(&mut inner, value);
        }
    }
    write_raw(&mut inner, b",\"prev_content\":", facts.prev_content.map(RawValue::get));
    write_raw(&mut inner, b",\"redacted_because\":", facts.redacted_because.map(RawValue::get));
    if let Some((_comma, members)) = inner.split_first() {
        out.extend_from_slice(b",\"unsigned\":{");
        out.extend_from_slice(members);
        out.push(b'}');
    }
}

/// Writes a member whose value is JSON text already.
fn write_raw(out: &mut Vec<u8>, name: &[u8], json: Option<&str>) {
    if let Some(json) = json {
        out.extend_from_slice(name);
        out.extend_from_slice(json.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id, uint, user_id};
    use serde_json::{Value, json};

    use super::*;

    fn stored() -> Vec<u8> {
        json!({
            "auth_events": ["$a"], "content": {"body": "\u{1}\"x", "msgtype": "m.text"}, "depth": 4,
            "hashes": {"sha256": "h"}, "origin": "b", "origin_server_ts": 1000,
            "prev_events": ["$p"], "room_id": "!r:b", "sender": "@a:b",
            "signatures": {"b": {}}, "type": "m.room.message",
            "unsigned": {"age": 3, "prev_content": {"evil": true}},
        })
        .to_string()
        .into_bytes()
    }

    fn read(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn sync_form_has_only_what_clients_see() {
        let form = ClientForm::new(&stored(), event_id!("$e"), &RedactionRules::V11).unwrap();
        assert_eq!(
            read(&form.finish(&Facts::default())),
            json!({
                "content": {"body": "\u{1}\"x", "msgtype": "m.text"}, "event_id": "$e",
                "origin_server_ts": 1000, "sender": "@a:b", "type": "m.room.message",
            })
        );
    }

    #[test]
    fn all_facts() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        let (prev, because, relations) = (raw(r#"{"a":1}"#), raw(r#"{"b":2}"#), raw(r#"{"c":3}"#));
        let form = ClientForm::new(&stored(), event_id!("$e"), &RedactionRules::V11).unwrap();
        let out = read(&form.finish(&Facts {
            room_id: Some(room_id!("!r:b")),
            now: Some(MilliSecondsSinceUnixEpoch(uint!(1500))),
            transaction_id: Some("t\"1"),
            prev_content: Some(&prev),
            prev_sender: Some(user_id!("@p:b")),
            replaces_state: Some(event_id!("$old")),
            redacted_because: Some(&because),
            membership: Some("join"),
            relations: Some(&relations),
        }));
        assert_eq!(out["room_id"], "!r:b");
        assert_eq!(
            out["unsigned"],
            json!({
                "age": 500, "transaction_id": "t\"1", "prev_content": {"a": 1},
                "prev_sender": "@p:b", "replaces_state": "$old", "redacted_because": {"b": 2},
                "membership": "join", "m.relations": {"c": 3},
            })
        );
    }

    #[test]
    fn age_is_never_negative() {
        let form = ClientForm::new(&stored(), event_id!("$e"), &RedactionRules::V11).unwrap();
        let now = Some(MilliSecondsSinceUnixEpoch(uint!(1)));
        assert_eq!(read(&form.finish(&Facts { now, ..Facts::default() }))["unsigned"]["age"], 0);
    }

    #[test]
    fn redactions_carry_their_target_twice() {
        let cases = [
            (RedactionRules::V9, json!({"redacts": "$t", "content": {}}), Some("$t")),
            (RedactionRules::V9, json!({"redacts": "$t", "content": {"reason": "x"}}), Some("$t")),
            (RedactionRules::V9, json!({"content": {"redacts": "$c"}}), None),
            (RedactionRules::V11, json!({"content": {"redacts": "$c"}}), Some("$c")),
            (RedactionRules::V11, json!({"redacts": "$t", "content": {"redacts": "$c"}}), Some("$c")),
            (RedactionRules::V11, json!({"redacts": "$t", "content": {}}), None),
        ];
        for (rules, mut event, target) in cases {
            let fields = event.as_object_mut().unwrap();
            fields.insert("type".into(), "m.room.redaction".into());
            fields.insert("sender".into(), "@a:b".into());
            fields.insert("origin_server_ts".into(), 1.into());
            let json = event.to_string();
            let form = ClientForm::new(json.as_bytes(), event_id!("$e"), &rules).unwrap();
            let out = read(&form.finish(&Facts::default()));
            assert_eq!(out.get("redacts").and_then(Value::as_str), target, "{json}");
            if target.is_some() {
                assert_eq!(out["content"]["redacts"].as_str(), target, "{json}");
            }
        }
    }

    #[test]
    fn stripped_form() {
        let json = br#"{"type":"m.room.name","state_key":"","sender":"@a:b","content":{"name":"x"},
            "origin_server_ts":1,"unsigned":{"a":1},"room_id":"!r:b"}"#;
        assert_eq!(
            String::from_utf8(stripped(json).unwrap()).unwrap(),
            r#"{"content":{"name":"x"},"sender":"@a:b","state_key":"","type":"m.room.name"}"#
        );
    }

    #[test]
    fn msc4311_the_create_event_has_its_time() {
        let json =
            br#"{"type":"m.room.create","state_key":"","sender":"@a:b","content":{},"origin_server_ts":1}"#;
        assert_eq!(
            String::from_utf8(stripped(json).unwrap()).unwrap(),
            r#"{"content":{},"origin_server_ts":1,"sender":"@a:b","state_key":"","type":"m.room.create"}"#
        );
    }

    #[test]
    fn federation_form_has_our_unsigned() {
        let facts = Facts { membership: Some("join"), ..Facts::default() };
        let out = read(&federation(&stored(), event_id!("$e"), &facts).unwrap());
        let mut expected = read(&stored());
        expected["event_id"] = json!("$e");
        expected["unsigned"] = json!({"membership": "join"});
        assert_eq!(out, expected);
    }

    #[test]
    fn garbage_is_an_error() {
        for garbage in [&b""[..], b"{}", b"[]", b"\xff", br#"{"type":"x"}"#] {
            assert!(ClientForm::new(garbage, event_id!("$e"), &RedactionRules::V11).is_err());
            assert!(stripped(garbage).is_err());
        }
    }
}
