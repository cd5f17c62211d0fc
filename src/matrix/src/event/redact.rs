//! Redaction: which parts of an event survive, per room version (§Redactions, §Room Versions).
//!
//! Works on the canonical tree or on stored federation JSON. Whether a redaction *applies* is
//! decided elsewhere (redact level or same domain, both events seen).

use ruma::room_version_rules::RedactionRules;

use super::canonical::{self, Numbers, Object, Value};

/// Why stored JSON could not be redacted.
#[derive(Debug, thiserror::Error)]
pub enum RedactError {
    /// Not JSON.
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not an object, or without a `type`.
    #[error("not an event")]
    NotAnEvent,
}

/// Redacts an event in federation format and returns it in canonical form.
///
/// Hashes and signatures stay, and stay valid. With `because` (the redaction event as JSON) the
/// result has `unsigned.redacted_because`; without it there is no `unsigned`.
pub fn redact(json: &[u8], rules: &RedactionRules, because: Option<&[u8]>) -> Result<Vec<u8>, RedactError> {
    let mut event = Value::parse(json, Numbers::Lenient)?;
    let because = because.map(|because| Value::parse(because, Numbers::Lenient)).transpose()?;
    let object = event.as_object_mut().ok_or(RedactError::NotAnEvent)?;
    redact_event(object, rules)?;
    if let Some(because) = because {
        let unsigned = vec![("redacted_because".into(), because)];
        canonical::set(object, "unsigned", Value::Object(unsigned));
    }
    let mut out = Vec::with_capacity(json.len());
    event.write(&mut out);
    Ok(out)
}

/// Whether redactions of events of this type are heeded, whoever sends them.
///
/// Not those of create events: before room version 11 little would be left of one, and the room
/// would lose its version and who may join it.
pub fn is_redactable(kind: &str) -> bool {
    kind != "m.room.create"
}

/// Redacts an event's tree in place.
pub fn redact_event(event: &mut Object<'_>, rules: &RedactionRules) -> Result<(), RedactError> {
    let kind =
        canonical::get(event, "type").and_then(Value::as_str).ok_or(RedactError::NotAnEvent)?.to_owned();
    event.retain(|(key, _)| keeps_field(key, rules));
    if let Some((_, Value::Object(content))) = event.iter_mut().find(|(key, _)| key.as_ref() == "content") {
        redact_content(&kind, content, rules);
    }
    Ok(())
}

/// Redacts the content of an event of type `kind` in place.
pub fn redact_content(kind: &str, content: &mut Object<'_>, rules: &RedactionRules) {
    content.retain(|(key, _)| keeps_content_field(kind, key, rules));
    if kind == "m.room.member" {
        for (key, value) in content.iter_mut() {
            if key.as_ref() == "third_party_invite"
                && let Some(invite) = value.as_object_mut()
            {
                invite.retain(|(key, _)| key.as_ref() == "signed");
            }
        }
    }
}

/// Whether a top-level field survives.
fn keeps_field(key: &str, rules: &RedactionRules) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes" | "signatures"
        | "depth" | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "origin" | "membership" | "prev_state" => rules.keep_origin_membership_prev_state,
        _ => false,
    }
}

/// Whether a field of the content survives.
fn keeps_content_field(kind: &str, key: &str, rules: &RedactionRules) -> bool {
    match (kind, key) {
        ("m.room.member", "membership")
        | ("m.room.join_rules", "join_rule")
        | ("m.room.history_visibility", "history_visibility")
        | (
            "m.room.power_levels",
            "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users"
            | "users_default",
        )
        | ("m.room.create", "creator") => true,
        ("m.room.member", "join_authorised_via_users_server") => {
            rules.keep_room_member_join_authorised_via_users_server
        }
        ("m.room.member", "third_party_invite") => rules.keep_room_member_third_party_invite_signed,
        ("m.room.create", _) => rules.keep_room_create_content,
        ("m.room.join_rules", "allow") => rules.keep_room_join_rules_allow,
        ("m.room.power_levels", "invite") => rules.keep_room_power_levels_invite,
        ("m.room.redaction", "redacts") => rules.keep_room_redaction_redacts,
        ("m.room.aliases", "aliases") => rules.keep_room_aliases_aliases,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{CanonicalJsonObject, RoomVersionId, canonical_json::redact as ruma_redact};
    use serde_json::json;

    use super::*;

    const VERSIONS: [&str; 10] = ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

    /// An event of each type whose content has protected, unprotected and odd fields.
    fn events() -> Vec<serde_json::Value> {
        let content = json!({
            "membership": "join", "join_authorised_via_users_server": "@a:b", "displayname": "x",
            "third_party_invite": {"signed": {"token": "t"}, "display_name": "y"},
            "creator": "@a:b", "room_version": "9", "m.federate": true,
            "join_rule": "public", "allow": [], "history_visibility": "shared", "extra": 1,
            "ban": 1, "events": {"a": 1}, "events_default": 1, "kick": 1, "redact": 1,
            "state_default": 1, "users": {}, "users_default": 0, "invite": 3, "notifications": {},
            "redacts": "$x", "aliases": ["#a:b"], "deny": ["x"], "body": "secret",
        });
        let mut events = Vec::new();
        for kind in [
            "m.room.member",
            "m.room.create",
            "m.room.join_rules",
            "m.room.power_levels",
            "m.room.history_visibility",
            "m.room.redaction",
            "m.room.aliases",
            "m.room.message",
            "m.room.server_acl",
            "m.room.topic",
        ] {
            events.push(json!({
                "type": kind, "content": content, "sender": "@a:b", "room_id": "!r:b",
                "state_key": "", "hashes": {"sha256": "h"}, "signatures": {"b": {"k": "s"}},
                "depth": 3, "prev_events": [], "auth_events": [], "origin_server_ts": 1,
                "origin": "b", "membership": "join", "prev_state": [], "redacts": "$y",
                "unsigned": {"age": 1}, "event_id": "$e", "else": true,
            }));
        }
        let mut odd = json!({"type": "m.room.member", "content": {"third_party_invite": 3}});
        events.push(odd.clone());
        odd["content"] = json!("text");
        events.push(odd);
        events
    }

    #[test]
    fn agrees_with_ruma_in_every_version() {
        for version in VERSIONS {
            let rules = RoomVersionId::try_from(version).unwrap().rules().unwrap();
            for event in events() {
                let ours = redact(event.to_string().as_bytes(), &rules.redaction, None).unwrap();
                let object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
                let theirs = ruma_redact(object, &rules.redaction, None).unwrap();
                let theirs = serde_json::to_string(&theirs).unwrap();
                assert_eq!(String::from_utf8(ours).unwrap(), theirs, "version {version}");
            }
        }
    }

    /// A piece of an event that survives, and from the first to the last version in which it does.
    const KEPT: [(&str, &str, u8, u8); 25] = [
        ("m.room.member", "membership", 3, 12),
        ("m.room.member", "join_authorised_via_users_server", 9, 12),
        ("m.room.member", "third_party_invite", 11, 12),
        ("m.room.create", "creator", 3, 12),
        ("m.room.create", "room_version", 11, 12),
        ("m.room.create", "m.federate", 11, 12),
        ("m.room.create", "extra", 11, 12),
        ("m.room.join_rules", "join_rule", 3, 12),
        ("m.room.join_rules", "allow", 8, 12),
        ("m.room.power_levels", "ban", 3, 12),
        ("m.room.power_levels", "events", 3, 12),
        ("m.room.power_levels", "events_default", 3, 12),
        ("m.room.power_levels", "kick", 3, 12),
        ("m.room.power_levels", "redact", 3, 12),
        ("m.room.power_levels", "state_default", 3, 12),
        ("m.room.power_levels", "users", 3, 12),
        ("m.room.power_levels", "users_default", 3, 12),
        ("m.room.power_levels", "invite", 11, 12),
        ("m.room.history_visibility", "history_visibility", 3, 12),
        ("m.room.redaction", "redacts", 11, 12),
        ("m.room.aliases", "aliases", 3, 5),
        ("", "origin", 3, 10),
        ("", "membership", 3, 10),
        ("", "prev_state", 3, 10),
        ("", "origin_server_ts", 3, 12),
    ];

    /// The lists of the room versions' pages (§Redactions), field by field; type "" is the top level.
    #[test]
    fn what_survives_in_which_version() {
        for version in 3..=12_u8 {
            let rules = RoomVersionId::try_from(version.to_string()).unwrap().rules().unwrap();
            for event in events().iter().filter(|event| event["content"]["body"] == "secret") {
                let kind = event["type"].as_str().unwrap();
                let out = redact(event.to_string().as_bytes(), &rules.redaction, None).unwrap();
                let out: serde_json::Value = serde_json::from_slice(&out).unwrap();
                let kept = |kind: &str, field: &str| {
                    let is = |row: &&(&str, &str, u8, u8)| row.0 == kind && row.1 == field;
                    KEPT.iter().find(is).is_some_and(|row| (row.2..=row.3).contains(&version))
                };
                for field in event["content"].as_object().unwrap().keys() {
                    // All of a create event's content is kept since version 11.
                    let all = kind == "m.room.create" && version >= 11;
                    let expected = all || kept(kind, field);
                    assert_eq!(out["content"].get(field).is_some(), expected, "{version} {kind} {field}");
                }
                for field in ["origin", "membership", "prev_state", "origin_server_ts"] {
                    assert_eq!(out.get(field).is_some(), kept("", field), "{version} {field}");
                }
                for field in ["redacts", "unsigned", "else"] {
                    assert_eq!(out.get(field), None, "{version} {field}");
                }
                if kind == "m.room.member"
                    && let Some(invite) = out["content"].get("third_party_invite")
                {
                    assert_eq!(*invite, json!({"signed": {"token": "t"}}), "{version}");
                }
            }
        }
    }

    /// Synapse 1.2.1: a redacted create event took its room back to version 1.
    #[test]
    fn synapse_1_2_1_create_events_are_not_redacted() {
        assert!(!is_redactable("m.room.create"));
        assert!(is_redactable("m.room.message") && is_redactable("m.room.member"));
        // And why: what would be left of one names no version.
        let create = br#"{"type":"m.room.create","content":{"room_version":"10","creator":"@a:b"}}"#;
        let left = redact(create, &RedactionRules::V9, None).unwrap();
        assert_eq!(left, br#"{"content":{"creator":"@a:b"},"type":"m.room.create"}"#);
    }

    #[test]
    fn because_becomes_unsigned() {
        let event = br#"{"type":"m.room.message","content":{"body":"x"},"unsigned":{"age":2}}"#;
        let out = redact(event, &RedactionRules::V11, Some(br#"{"type":"m.room.redaction"}"#));
        assert_eq!(
            String::from_utf8(out.unwrap()).unwrap(),
            r#"{"content":{},"type":"m.room.message","unsigned":{"redacted_because":{"type":"m.room.redaction"}}}"#
        );
    }

    #[test]
    fn garbage_is_an_error() {
        for garbage in [&b"{}"[..], b"[]", b"", b"{\"type\":1}", b"\xff"] {
            assert!(redact(garbage, &RedactionRules::V1, None).is_err());
        }
    }
}
