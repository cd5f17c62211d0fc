//! Stripped state: what somebody who is not in a room gets to know of it (§Stripped state).
//!
//! Which state goes in, and what of another server's is let through: it is unauthenticated, and
//! malformed or huge state has broken sync elsewhere (CVE-2024-52815).

use ruma::{UInt, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::canonical::{Numbers, Value, write_string};

/// The types that go into invite and knock state, all with an empty state key, most important
/// first. The create event MUST be there (1.16).
pub const TYPES: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// Most events taken over from another server's stripped state.
const EVENTS_MAX: usize = 64;

/// Most bytes taken over, all events together.
const BYTES_MAX: usize = 256 * 1024;

/// The state to look up for an invitation or knock: type and state key. With `inviter`, also that
/// user's member event, from which clients show who invites. The invited or knocking user's own
/// member event is the new event itself and is added by the caller.
pub fn keys(inviter: Option<&UserId>) -> Vec<(&'static str, String)> {
    let mut keys: Vec<_> = TYPES.iter().map(|kind| (*kind, String::new())).collect();
    keys.extend(inviter.map(|user| ("m.room.member", user.to_string())));
    keys
}

/// A stripped state event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripped {
    /// Its type.
    pub kind: String,
    /// Its state key.
    pub state_key: String,
    /// `{"content":…,"sender":…,"state_key":…,"type":…}` and nothing else; of the create event its time too (MSC4311).
    pub json: Vec<u8>,
}

/// Takes over what is well-formed of another server's stripped state, of which full events are
/// reduced to their four fields. Of several events for the same piece of state the first counts.
pub fn accept<'a>(events: impl IntoIterator<Item = &'a RawValue>) -> Vec<Stripped> {
    let mut accepted: Vec<Stripped> = Vec::new();
    let mut bytes = 0;
    for raw in events {
        let Some(event) = read(raw) else { continue };
        let is_known =
            accepted.iter().any(|other| other.kind == event.kind && other.state_key == event.state_key);
        bytes += event.json.len();
        if bytes > BYTES_MAX || accepted.len() >= EVENTS_MAX {
            break;
        }
        if !is_known {
            accepted.push(event);
        }
    }
    accepted
}

/// Reads one event; `None` if it is no stripped state event.
fn read(raw: &RawValue) -> Option<Stripped> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        content: &'a RawValue,
        #[serde(default, borrow)]
        origin_server_ts: Option<&'a RawValue>,
        sender: ruma::OwnedUserId,
        state_key: String,
        #[serde(rename = "type")]
        kind: String,
    }
    let fields: Fields<'_> = serde_json::from_str(raw.get()).ok()?;
    // Parsed for its nesting: what clients get must be readable by them.
    let content = Value::parse(fields.content.get().as_bytes(), Numbers::Lenient).ok()?;
    if !matches!(content, Value::Object(_)) {
        return None;
    }
    let mut json = Vec::with_capacity(raw.get().len());
    json.extend_from_slice(b"{\"content\":");
    content.write(&mut json);
    let time = fields.origin_server_ts.filter(|_| fields.kind == "m.room.create");
    if let Some(time) = time.and_then(|time| serde_json::from_str::<UInt>(time.get()).ok()) {
        json.extend_from_slice(b",\"origin_server_ts\":");
        json.extend_from_slice(time.to_string().as_bytes());
    }
    json.extend_from_slice(b",\"sender\":");
    write_string(&mut json, fields.sender.as_str());
    json.extend_from_slice(b",\"state_key\":");
    write_string(&mut json, &fields.state_key);
    json.extend_from_slice(b",\"type\":");
    write_string(&mut json, &fields.kind);
    json.push(b'}');
    Some(Stripped { kind: fields.kind, state_key: fields.state_key, json })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    fn raw(json: &serde_json::Value) -> Box<RawValue> {
        RawValue::from_string(json.to_string()).unwrap()
    }

    #[test]
    fn what_goes_in() {
        let keys = keys(Some(user_id!("@a:b")));
        assert_eq!(keys.first(), Some(&("m.room.create", String::new())));
        assert_eq!(keys.last(), Some(&("m.room.member", "@a:b".to_owned())));
        assert_eq!(keys.len(), 8);
    }

    #[test]
    fn full_events_are_reduced() {
        let event = raw(&json!({
            "type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"name": "x"},
            "origin_server_ts": 1, "signatures": {}, "room_id": "!r:b",
        }));
        let accepted = accept([&*event, &*event]);
        assert_eq!(accepted.len(), 1);
        assert_eq!(
            String::from_utf8(accepted[0].json.clone()).unwrap(),
            r#"{"content":{"name":"x"},"sender":"@a:b","state_key":"","type":"m.room.name"}"#
        );
    }

    #[test]
    fn msc4311_the_create_event_keeps_its_time() {
        for (time, kept) in [(json!(7), true), (json!("7"), false), (json!(-1), false), (json!({}), false)] {
            let event = raw(&json!({
                "type": "m.room.create", "state_key": "", "sender": "@a:b", "content": {}, "origin_server_ts": time,
            }));
            let accepted = accept([&*event]);
            let json = String::from_utf8(accepted[0].json.clone()).unwrap();
            assert_eq!(json.contains(r#""origin_server_ts":7,"#), kept, "{json}");
        }
    }

    /// CVE-2024-52815 too: malformed and oversized invite state.
    #[test]
    fn cve_2023_32323_malformed_and_oversized_state() {
        let good = json!({"type": "t", "state_key": "", "sender": "@a:b", "content": {}});
        let mut events = vec![raw(&json!(null)), raw(&json!([])), raw(&json!("x"))];
        for (field, value) in [
            ("type", json!(1)),
            ("state_key", json!(null)),
            ("sender", json!("nobody")),
            ("content", json!([])),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            events.push(raw(&bad));
        }
        let deep = format!(
            r#"{{"type":"t","state_key":"","sender":"@a:b","content":{}1{}}}"#,
            r#"{"a":"#.repeat(120),
            "}".repeat(120)
        );
        events.push(RawValue::from_string(deep).unwrap());
        assert_eq!(accept(events.iter().map(|event| &**event)), vec![]);
        let huge: Vec<_> = (0..10_000)
            .map(|n| raw(&json!({
                "type": "t", "state_key": n.to_string(), "sender": "@a:b", "content": {"x": "y".repeat(1_000)},
            })))
            .collect();
        assert_eq!(accept(huge.iter().map(|event| &**event)).len(), EVENTS_MAX);
    }
}
