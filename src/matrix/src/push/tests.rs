//! Push rules: the default rules on typical events, and agreement with ruma where ruma is sound.

use std::{
    collections::BTreeMap,
    pin::pin,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;
use ruma::{
    owned_room_id, owned_user_id,
    power_levels::NotificationPowerLevels,
    push::PushConditionPowerLevelsCtx,
    room_version_rules::{AuthorizationRules, RoomPowerLevelsRules},
    serde::Raw,
    uint, user_id,
};
use serde_json::json;

use super::*;

fn context(members: u32) -> PushConditionRoomCtx {
    PushConditionRoomCtx::new(
        owned_room_id!("!r:b"),
        members.into(),
        owned_user_id!("@me:b"),
        "Me *".to_owned(),
    )
    .with_power_levels(PushConditionPowerLevelsCtx::new(
        BTreeMap::from([(owned_user_id!("@admin:b"), 100.into())]),
        0.into(),
        NotificationPowerLevels::default(),
        RoomPowerLevelsRules::new(&AuthorizationRules::V11, []),
    ))
}

fn defaults() -> Ruleset {
    Ruleset::server_default(user_id!("@me:b"))
}

fn event(changes: &Value) -> Value {
    let mut event = json!({
        "type": "m.room.message", "sender": "@you:b", "room_id": "!r:b", "event_id": "$e",
        "content": {"msgtype": "m.text", "body": "hello"}, "origin_server_ts": 0,
    });
    for (key, value) in changes.as_object().unwrap() {
        event[key] = value.clone();
    }
    event
}

fn verdict<'a>(rules: &'a Ruleset, event: &Value, members: u32) -> Option<(&'a str, bool, bool)> {
    let event = PushEvent::new(event.to_string().as_bytes()).unwrap();
    evaluate(rules, &event, &context(members)).map(|v| (v.rule_id, v.notify, v.highlight))
}

/// ruma's answer; its future never waits.
fn theirs<'a>(rules: &'a Ruleset, event: &Value, members: u32) -> Option<&'a str> {
    let raw: Raw<Value> = Raw::new(event).unwrap();
    let context = context(members);
    let future = pin!(rules.get_match(&raw, &context));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(rule) => rule.map(AnyPushRuleRef::rule_id),
        Poll::Pending => panic!("ruma's push rules have begun to wait"),
    }
}

#[test]
fn default_rules() {
    let mention = json!({"body": "x", "m.mentions": {"user_ids": ["@me:b"]}});
    let room = json!({"body": "x", "m.mentions": {"room": true}});
    let edit = json!({"body": "* x", "m.relates_to": {"rel_type": "m.replace", "event_id": "$o"}});
    let me_joining =
        json!({"type": "m.room.member", "state_key": "@me:b", "content": {"membership": "invite"}});
    let cases = [
        (json!({}), 5, Some((".m.rule.message", true, false))),
        (json!({}), 2, Some((".m.rule.room_one_to_one", true, false))),
        (json!({"sender": "@me:b"}), 2, None),
        (
            json!({"content": {"msgtype": "m.notice", "body": "x"}}),
            2,
            Some((".m.rule.suppress_notices", false, false)),
        ),
        (json!({"content": mention}), 5, Some((".m.rule.is_user_mention", true, true))),
        (json!({"content": room, "sender": "@admin:b"}), 5, Some((".m.rule.is_room_mention", true, true))),
        (json!({"content": room}), 5, Some((".m.rule.message", true, false))),
        (json!({"content": edit}), 5, Some((".m.rule.suppress_edits", false, false))),
        (json!({"type": "m.reaction"}), 5, Some((".m.rule.reaction", false, false))),
        (json!({"type": "m.room.encrypted"}), 5, Some((".m.rule.encrypted", true, false))),
        (me_joining, 5, Some((".m.rule.invite_for_me", true, false))),
        (json!({"type": "org.custom"}), 5, None),
    ];
    let rules = defaults();
    for (changes, members, expected) in cases {
        let event = event(&changes);
        assert_eq!(verdict(&rules, &event, members), expected, "{event}");
        assert_eq!(theirs(&rules, &event, members), expected.map(|(id, _, _)| id), "{event}");
    }
}

fn custom(conditions: &Value) -> Ruleset {
    serde_json::from_value(json!({"override": [{
        "rule_id": "custom", "default": false, "enabled": true, "conditions": conditions,
        "actions": ["notify", "dont_notify", {"set_tweak": "highlight"}],
    }]}))
    .unwrap()
}

#[test]
fn conditions() {
    let event = event(&json!({
        "content": {"body": "I like Pancakes", "m.x": {"a.b": [1, "two", null]}, "n": 5, "\\": "b"},
    }));
    for (condition, expected) in [
        (json!({"kind": "event_match", "key": "content.body", "pattern": "pancakes"}), true),
        (json!({"kind": "event_match", "key": "content.body", "pattern": "cakes"}), false),
        (json!({"kind": "event_match", "key": "content.body", "pattern": "pan*"}), true),
        (json!({"kind": "event_match", "key": "content.n", "pattern": "*"}), false),
        (json!({"kind": "event_match", "key": "state_key", "pattern": "*"}), false),
        (json!({"kind": "event_match", "key": "room_id", "pattern": "!R:b"}), true),
        (json!({"kind": "event_property_is", "key": "content.n", "value": 5}), true),
        (json!({"kind": "event_property_is", "key": "content.n", "value": "5"}), false),
        (json!({"kind": "event_property_is", "key": "content.\\\\", "value": "b"}), true),
        (json!({"kind": "event_property_contains", "key": "content.m\\.x.a\\.b", "value": "two"}), true),
        (json!({"kind": "event_property_contains", "key": "content.m\\.x.a\\.b", "value": null}), true),
        (json!({"kind": "event_property_contains", "key": "content.m.x.a.b", "value": 1}), false),
        (json!({"kind": "room_member_count", "is": "<=3"}), true),
        (json!({"kind": "room_member_count", "is": ">3"}), false),
        (json!({"kind": "unheard_of"}), false),
    ] {
        let rules = custom(&json!([condition]));
        assert_eq!(verdict(&rules, &event, 3).is_some(), expected, "{condition}");
        assert_eq!(theirs(&rules, &event, 3).is_some(), expected, "ruma: {condition}");
    }
    assert_eq!(verdict(&custom(&json!([])), &event, 3), Some(("custom", true, true)));
}

#[test]
fn display_names_are_literal() {
    let rules = custom(&json!([{"kind": "contains_display_name"}]));
    for (body, expected) in [("hi me *!", true), ("hi me too", false), ("some *", false)] {
        let event = event(&json!({"content": {"body": body}}));
        assert_eq!(verdict(&rules, &event, 3).is_some(), expected, "{body}");
    }
}

/// Patterns that make ruma panic (regex size), recurse too deep, or take long.
#[test]
fn hostile_patterns() {
    let pattern = |pattern: String| {
        custom(&json!([{"kind": "event_match", "key": "content.body", "pattern": pattern}]))
    };
    let body = event(&json!({"content": {"body": "xa ".repeat(20_000)}}));
    assert!(verdict(&pattern("a".to_owned()), &body, 3).is_none());
    assert!(verdict(&pattern(format!("{}q", "?".repeat(20_000))), &body, 3).is_none());
    assert!(verdict(&pattern("*a".repeat(500) + "q"), &body, 3).is_none());
    let deep = format!("{}{}", r#"{"content":"#.repeat(200), "}".repeat(200));
    assert!(PushEvent::new(deep.as_bytes()).is_err());
}

#[test]
fn paths() {
    for (path, parts) in [
        ("a.b", &["a", "b"][..]),
        ("a\\.b", &["a.b"]),
        ("a\\\\.b", &["a\\", "b"]),
        ("", &[""]),
        ("a\\b", &["a\\b"]),
        ("a.", &["a", ""]),
    ] {
        assert_eq!(split_path(path), parts);
    }
}

proptest! {
    #[test]
    fn agrees_with_ruma(
        // Of two wildcards in a row ruma takes the second literally, so never two in a row.
        pattern in "[?*]?[ab_ !]{1,2}([?*][ab_ !]{1,2}){0,2}[?*]?",
        body in "[ab_ !]{0,10}",
        key in prop::sample::select(vec!["content.body", "content.other"]),
    ) {
        let rules = custom(&json!([{"kind": "event_match", "key": key, "pattern": pattern}]));
        let event = event(&json!({"content": {"body": body, "other": body}}));
        prop_assert_eq!(verdict(&rules, &event, 3).is_some(), theirs(&rules, &event, 3).is_some());
    }
}

#[test]
fn context_is_as_expected() {
    assert_eq!(context(3).member_count, uint!(3));
}
