//! `m.relates_to`: what an event says about another one (§Forming relationships between events).
//!
//! Extraction only. Whether the target is in the same room, and what the relation then means, is
//! decided where the target is known; [`is_valid_edit`] has the rules for edits.

use ruma::{EventId, OwnedEventId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::Pdu;

/// A relation to another event of the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `m.annotation`, `m.replace`, `m.thread`, `m.reference` or anything else.
    pub rel_type: String,
    /// The parent.
    pub event_id: OwnedEventId,
    /// The key of an annotation.
    pub key: Option<String>,
}

/// What `m.relates_to` holds, as far as it is well-formed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelatesTo {
    /// The relation. A reply alone is none.
    pub relation: Option<Relation>,
    /// The event replied to.
    pub in_reply_to: Option<OwnedEventId>,
}

/// Longest annotation key that is indexed, in bytes; that of an event's type and state key.
const KEY_BYTES_MAX: usize = 255;

/// Reads the relation from an event's content. Malformed relations count as absent.
///
/// For encrypted events it is in the clear beside the ciphertext, so this works for them too.
pub fn relates_to(content: &RawValue) -> RelatesTo {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(rename = "m.relates_to", borrow, default)]
        relates_to: Option<&'a RawValue>,
    }
    // Most events have none: no need to parse those.
    if !content.get().contains("m.relates_to") && !content.get().contains('\\') {
        return RelatesTo::default();
    }
    let content: Option<Content<'_>> = serde_json::from_str(content.get()).ok();
    let Some(raw) = content.and_then(|content| content.relates_to) else {
        return RelatesTo::default();
    };
    RelatesTo { relation: read_relation(raw), in_reply_to: read_reply(raw) }
}

fn read_relation(raw: &RawValue) -> Option<Relation> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        rel_type: String,
        event_id: OwnedEventId,
        #[serde(borrow, default)]
        key: Option<&'a RawValue>,
    }
    let fields: Fields<'_> = serde_json::from_str(raw.get()).ok()?;
    let key = fields.key.and_then(|key| serde_json::from_str::<String>(key.get()).ok());
    let key_fits = key.as_ref().is_none_or(|key| key.len() <= KEY_BYTES_MAX);
    // An annotation without a key annotates nothing.
    if fields.rel_type.len() > KEY_BYTES_MAX
        || fields.rel_type == "m.annotation" && (key.is_none() || !key_fits)
    {
        return None;
    }
    Some(Relation { rel_type: fields.rel_type, event_id: fields.event_id, key })
}

fn read_reply(raw: &RawValue) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(rename = "m.in_reply_to")]
        in_reply_to: Reply,
    }
    #[derive(Deserialize)]
    struct Reply {
        event_id: OwnedEventId,
    }
    serde_json::from_str::<Fields>(raw.get()).ok().map(|fields| fields.in_reply_to.event_id)
}

/// Whether `edit` is a valid `m.replace` of `original` (§Validity of replacement events): same
/// room, sender and type, neither a state event, the original no edit itself, and `m.new_content`
/// there unless the event is encrypted.
pub fn is_valid_edit(original: &Pdu, edit: &Pdu) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.new_content")]
        _new_content: serde_json::Map<String, serde_json::Value>,
    }
    let replaces = |pdu: &Pdu, target: Option<&EventId>| {
        relates_to(&pdu.content).relation.is_some_and(|relation| {
            relation.rel_type == "m.replace" && target.is_none_or(|id| *id == *relation.event_id)
        })
    };
    original.room_id == edit.room_id
        && original.sender == edit.sender
        && original.kind == edit.kind
        && !original.is_state()
        && !edit.is_state()
        && !replaces(original, None)
        && replaces(edit, Some(&original.event_id))
        && (edit.kind == "m.room.encrypted" || edit.content_as::<Content>().is_some())
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, room_id, room_version_rules::RoomVersionRules};
    use serde_json::{Value, json};

    use super::*;

    fn read(relates_to: &Value) -> RelatesTo {
        let content = json!({"body": "x", "m.relates_to": relates_to}).to_string();
        super::relates_to(&RawValue::from_string(content).unwrap())
    }

    fn relation(rel_type: &str, key: Option<&str>) -> Relation {
        Relation {
            rel_type: rel_type.to_owned(),
            event_id: owned_event_id!("$p"),
            key: key.map(str::to_owned),
        }
    }

    #[test]
    fn cases() {
        for (json, expected) in [
            (json!({"rel_type": "m.thread", "event_id": "$p"}), Some(relation("m.thread", None))),
            (
                json!({"rel_type": "m.annotation", "event_id": "$p", "key": "👍"}),
                Some(relation("m.annotation", Some("👍"))),
            ),
            (json!({"rel_type": "m.annotation", "event_id": "$p"}), None),
            (json!({"rel_type": "m.annotation", "event_id": "$p", "key": 5}), None),
            (json!({"rel_type": "m.annotation", "event_id": "$p", "key": "k".repeat(256)}), None),
            (json!({"rel_type": "org.x", "event_id": "$p", "key": 5}), Some(relation("org.x", None))),
            (json!({"rel_type": "m.thread"}), None),
            (json!({"event_id": "$p"}), None),
            (json!({"rel_type": "m.thread", "event_id": "nonsense"}), None),
            (json!({"rel_type": 1, "event_id": "$p"}), None),
            (json!("text"), None),
            (json!(null), None),
            (json!([]), None),
        ] {
            assert_eq!(read(&json).relation, expected, "{json}");
        }
    }

    #[test]
    fn replies_are_not_relations() {
        let reply = read(&json!({"m.in_reply_to": {"event_id": "$r"}}));
        assert_eq!(reply, RelatesTo { relation: None, in_reply_to: Some(owned_event_id!("$r")) });
        let both = read(&json!({
            "rel_type": "m.thread", "event_id": "$p", "m.in_reply_to": {"event_id": "$r"},
        }));
        assert!(both.relation.is_some() && both.in_reply_to.is_some());
        assert_eq!(read(&json!({"m.in_reply_to": "$r"})).in_reply_to, None);
    }

    #[test]
    fn escaped_key_is_found() {
        let content = r#"{"m.relates\u005fto":{"rel_type":"m.thread","event_id":"$p"}}"#;
        let raw = RawValue::from_string(content.to_owned()).unwrap();
        assert_eq!(super::relates_to(&raw).relation, Some(relation("m.thread", None)));
    }

    fn pdu(id: &str, changes: &Value) -> Pdu {
        let mut json = json!({
            "type": "m.room.message", "sender": "@a:b", "room_id": "!r:b", "content": {"body": "x"},
            "origin_server_ts": 0, "prev_events": [], "auth_events": [], "depth": 1,
        });
        for (key, value) in changes.as_object().unwrap() {
            json[key] = value.clone();
        }
        let bytes = json.to_string();
        let rules = RoomVersionRules::V11;
        Pdu::parse(bytes.as_bytes(), id.try_into().unwrap(), room_id!("!r:b"), &rules).unwrap()
    }

    #[test]
    fn edits() {
        let edit_content = json!({
            "m.new_content": {"body": "y"}, "m.relates_to": {"rel_type": "m.replace", "event_id": "$o"},
        });
        let original = pdu("$o", &json!({}));
        let edit = |changes: Value| {
            let mut all = json!({"content": edit_content});
            for (key, value) in changes.as_object().unwrap() {
                all[key] = value.clone();
            }
            pdu("$e", &all)
        };
        assert!(is_valid_edit(&original, &edit(json!({}))));
        for changes in [
            json!({"sender": "@c:b"}),
            json!({"type": "m.sticker"}),
            json!({"state_key": ""}),
            json!({"content": {"m.relates_to": {"rel_type": "m.replace", "event_id": "$o"}}}),
            json!({"content": {"m.new_content": {}, "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}}}),
            json!({"content": {"m.new_content": {}, "m.relates_to": {"rel_type": "m.thread", "event_id": "$o"}}}),
        ] {
            assert!(!is_valid_edit(&original, &edit(changes.clone())), "{changes}");
        }
        let edit_of_edit = edit(json!({}));
        let again = pdu(
            "$f",
            &json!({"content": {
                "m.new_content": {}, "m.relates_to": {"rel_type": "m.replace", "event_id": "$e"},
            }}),
        );
        assert!(!is_valid_edit(&edit_of_edit, &again));
    }
}
