//! The rules that are ours, and that ruma's are wired up the right way round.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedEventId, owned_room_id, room_version_rules::RoomVersionRules, user_id};
use serde_json::{Value, json};

use super::*;

/// A room as a list of events, each authorised by the ones before.
struct Room {
    rules: RoomVersionRules,
    events: HashMap<OwnedEventId, Arc<Pdu>>,
    state: HashMap<(StateEventType, String), Arc<Pdu>>,
}

impl Room {
    fn new(version: &str) -> Self {
        let rules = RoomVersionId::try_from(version).unwrap().rules().unwrap();
        let mut room = Self { rules, events: HashMap::new(), state: HashMap::new() };
        room.add(room.create(version, "@a:x"));
        room.add(room.event("$join", "@a:x", "m.room.member", Some("@a:x"), &json!({"membership": "join"})));
        room
    }

    fn create(&self, version: &str, creator: &str) -> Pdu {
        let mut json = json!({
            "type": "m.room.create", "state_key": "", "sender": creator, "room_id": "!create:x",
            "content": {"room_version": version, "creator": creator},
            "origin_server_ts": 0, "prev_events": [], "auth_events": [], "depth": 1,
        });
        let room_id = if self.rules.authorization.room_create_event_id_as_room_id {
            json.as_object_mut().unwrap().remove("room_id");
            owned_room_id!("!create")
        } else {
            owned_room_id!("!create:x")
        };
        let bytes = json.to_string();
        Pdu::parse(bytes.as_bytes(), "$create".try_into().unwrap(), &room_id, &self.rules).unwrap()
    }

    fn event(&self, id: &str, sender: &str, kind: &str, state_key: Option<&str>, content: &Value) -> Pdu {
        let sender_id = UserId::parse(sender).unwrap();
        let raw = RawValue::from_string(content.to_string()).unwrap();
        let types = auth_types(kind, &sender_id, state_key, &raw, &self.rules.authorization).unwrap();
        let auth: Vec<_> =
            types.iter().filter_map(|key| Some(self.state.get(key)?.event_id.to_string())).collect();
        let room_id = self.state[&(StateEventType::RoomCreate, String::new())].room_id.clone();
        let prev = if self.events.len() == 1 { "$create" } else { "$prev" };
        let mut json = json!({
            "type": kind, "sender": sender, "room_id": room_id, "content": content,
            "origin_server_ts": 0, "prev_events": [prev], "auth_events": auth, "depth": 2,
        });
        if let Some(state_key) = state_key {
            json["state_key"] = json!(state_key);
        }
        Pdu::parse(json.to_string().as_bytes(), id.try_into().unwrap(), &room_id, &self.rules).unwrap()
    }

    fn check(&self, event: &Pdu) -> Result<(), AuthError> {
        check(
            &self.rules.authorization,
            event,
            |id| self.events.get(id).cloned(),
            |kind, key| self.state.get(&(kind.clone(), key.to_owned())).cloned(),
        )
    }

    fn add(&mut self, event: Pdu) {
        self.check(&event).unwrap();
        let event = Arc::new(event);
        let key = (event.kind.as_str().into(), event.state_key.clone().unwrap());
        self.events.insert(event.event_id.clone(), event.clone());
        self.state.insert(key, event);
    }
}

#[test]
fn a_room_comes_up_in_every_version() {
    for version in ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        let mut room = Room::new(version);
        let levels = json!({"users": if version == "12" { json!({}) } else { json!({"@a:x": 100}) }});
        room.add(room.event("$levels", "@a:x", "m.room.power_levels", Some(""), &levels));
        room.add(room.event(
            "$rules",
            "@a:x",
            "m.room.join_rules",
            Some(""),
            &json!({"join_rule": "public"}),
        ));
        room.add(room.event("$bob", "@b:y", "m.room.member", Some("@b:y"), &json!({"membership": "join"})));
        let message = room.event("$m", "@b:y", "m.room.message", None, &json!({"body": "x"}));
        assert_eq!(room.check(&message), Ok(()), "version {version}");
        let name = room.event("$n", "@b:y", "m.room.name", Some(""), &json!({"name": "x"}));
        assert!(room.check(&name).is_err(), "version {version}");
        let stranger = room.event("$s", "@c:y", "m.room.message", None, &json!({"body": "x"}));
        assert!(room.check(&stranger).is_err(), "version {version}");
    }
}

/// Creators in power levels, a second create event, a v12 create with a room id.
#[test]
fn cve_2025_54315_creators_and_create_events() {
    let room = Room::new("12");
    let levels = json!({"users": {"@a:x": 100}});
    let levels = room.event("$levels", "@a:x", "m.room.power_levels", Some(""), &levels);
    assert!(room.check(&levels).is_err());
    for version in ["11", "12"] {
        let room = Room::new(version);
        let mut second = room.create(version, "@a:x");
        assert_eq!(room.check(&second), Ok(()));
        second.event_id = "$second".try_into().unwrap();
        assert!(room.check(&second).is_err());
    }
    let named = json!({
        "type": "m.room.create", "state_key": "", "sender": "@a:x", "room_id": "!create",
        "content": {"room_version": "12"}, "origin_server_ts": 0, "prev_events": [], "auth_events": [],
        "depth": 1,
    });
    let (id, room_id) = ("$create".try_into().unwrap(), owned_room_id!("!create"));
    let named = Pdu::parse(named.to_string().as_bytes(), id, &room_id, &room.rules).unwrap();
    assert!(check_auth_events(&room.rules.authorization, &named, |_| None::<Pdu>).is_err());
}

#[test]
fn unknown_versions_are_refused() {
    let room = Room::new("11");
    let mut create = room.create("11", "@a:x");
    create.content = RawValue::from_string(r#"{"room_version":"unheard-of"}"#.to_owned()).unwrap();
    let checked = check_auth_events(&room.rules.authorization, &create, |_| None::<Pdu>);
    assert_eq!(checked, Err("unknown room version".into()));
    create.state_key = None;
    assert!(check_auth_events(&room.rules.authorization, &create, |_| None::<Pdu>).is_err());
}

/// References to events of the wrong kind (tuwunel 44c28741), or rejected, or of another room.
#[test]
fn cve_2022_39374_bad_auth_events() {
    let mut room = Room::new("11");
    let message = room.event("$message", "@a:x", "m.room.message", None, &json!({}));
    room.events.insert(message.event_id.clone(), Arc::new(message.clone()));
    let mut event = room.event("$e", "@a:x", "m.room.message", None, &json!({}));
    let good = event.auth_events.clone();
    event.auth_events.push(message.event_id);
    assert!(room.check(&event).is_err(), "a message as auth event");
    event.auth_events = good.iter().chain(&good).cloned().collect();
    assert!(room.check(&event).is_err(), "duplicates");
    event.auth_events = vec!["$missing".try_into().unwrap()];
    assert!(room.check(&event).is_err(), "missing");
    event.auth_events = vec![];
    assert!(room.check(&event).is_err(), "no create event");
    event.auth_events = good;
    assert_eq!(room.check(&event), Ok(()));
    let id: OwnedEventId = "$join".try_into().unwrap();
    let mut join = (*room.events[&id]).clone();
    join.rejected = true;
    room.events.insert(id.clone(), Arc::new(join.clone()));
    assert!(room.check(&event).is_err(), "rejected");
    let json = json!({
        "type": "m.room.member", "state_key": "@a:x", "sender": "@a:x", "room_id": "!other:x",
        "content": {"membership": "join"}, "origin_server_ts": 0, "prev_events": [],
        "auth_events": [], "depth": 2,
    });
    let other = owned_room_id!("!other:x");
    let foreign = Pdu::parse(json.to_string().as_bytes(), id.clone(), &other, &room.rules).unwrap();
    room.events.insert(id, Arc::new(foreign));
    assert!(room.check(&event).is_err(), "another room's");
}

/// Rules on members and levels that were applied other than as specified: each of these is refused, in every version.
#[test]
fn cve_2022_31152_rules_that_were_misread() {
    for version in ["3", "6", "9", "10", "11"] {
        let mut room = Room::new(version);
        let rule = json!({ "join_rule": "public" });
        room.add(room.event("$rules", "@a:x", "m.room.join_rules", Some(""), &rule));
        let levels = json!({ "users": { "@a:x": 100, "@b:y": 50 }, "events": { "x.secret": 75 } });
        room.add(room.event("$levels", "@a:x", "m.room.power_levels", Some(""), &levels));
        room.add(room.event("$bob", "@b:y", "m.room.member", Some("@b:y"), &json!({ "membership": "join" })));
        let kind = "m.room.power_levels";
        let changed = |path: &str, value: Value| {
            let mut levels = levels.clone();
            *levels.pointer_mut(path).unwrap() = value;
            levels
        };
        let refused = [
            ("no user id", "@a:x", kind, Some(""), changed("/users", json!({ "@a:x": 100, "a": 1 }))),
            ("no number", "@a:x", kind, Some(""), changed("/users/@b:y", json!("much"))),
            ("no object", "@a:x", kind, Some(""), changed("/users", json!([]))),
            ("to more than one's own", "@b:y", kind, Some(""), changed("/users/@b:y", json!(51))),
            ("from more than one's own", "@b:y", kind, Some(""), changed("/events/x.secret", json!(50))),
            ("another's level", "@b:y", kind, Some(""), changed("/users/@a:x", json!(0))),
            ("another's state key", "@b:y", "x.state", Some("@a:x"), json!({})),
            ("a level above one's own", "@b:y", "x.secret", None, json!({})),
            ("a join for another", "@b:y", "m.room.member", Some("@c:y"), json!({ "membership": "join" })),
            (
                "a kick of one's equal or better",
                "@b:y",
                "m.room.member",
                Some("@a:x"),
                json!({ "membership": "leave" }),
            ),
            (
                "an unknown membership",
                "@b:y",
                "m.room.member",
                Some("@b:y"),
                json!({ "membership": "guest" }),
            ),
            (
                "an invitation of a member",
                "@a:x",
                "m.room.member",
                Some("@b:y"),
                json!({ "membership": "invite" }),
            ),
        ];
        for (what, sender, kind, state_key, content) in refused {
            let event = room.event("$event", sender, kind, state_key, &content);
            assert!(room.check(&event).is_err(), "version {version}: {what}");
        }
        let lowered = room.event("$event", "@b:y", kind, Some(""), &changed("/users/@b:y", json!(10)));
        assert_eq!(room.check(&lowered), Ok(()), "version {version}: one's own level lowered");
    }
}

#[test]
fn state_needed_has_the_create_event() {
    for rules in [RoomVersionRules::V11, RoomVersionRules::V12] {
        let content = RawValue::from_string("{}".to_owned()).unwrap();
        let needed = state_needed("m.room.message", user_id!("@a:x"), None, &content, &rules.authorization);
        assert!(needed.unwrap().contains(&(StateEventType::RoomCreate, String::new())));
    }
}

#[test]
fn pdu_format() {
    let good = json!({
        "type": "t", "sender": "@a:x", "room_id": "!hash", "content": {}, "prev_events": ["$p"],
        "auth_events": ["$q"], "depth": 1,
    });
    let check = |json: &Value, references| {
        let event: CanonicalJsonObject = serde_json::from_value(json.clone()).unwrap();
        check_pdu_format(&event, &RoomVersionRules::V12, references)
    };
    assert_eq!(check(&good, References::Limited), Ok(()));
    for (field, value) in [
        ("type", json!("t".repeat(256))),
        ("type", json!(1)),
        ("sender", json!(null)),
        ("room_id", json!("nonsense")),
        ("state_key", json!(1)),
        ("state_key", json!("k".repeat(256))),
        ("content", json!([])),
        ("depth", json!(-1)),
        ("depth", json!("1")),
        ("prev_events", json!({})),
        ("auth_events", json!(["$hash"])),
        ("prev_events", json!(vec!["$p"; 21])),
        ("auth_events", json!(vec!["$p"; 11])),
        ("big", json!("x".repeat(65_536))),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(check(&bad, References::Limited).is_err(), "{field}: {}", bad[field]);
    }
    for field in ["type", "sender", "room_id", "content", "depth", "prev_events", "auth_events"] {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(field);
        assert!(check(&bad, References::Limited).is_err(), "{field} missing");
    }
    let mut emoji = good.clone();
    emoji["state_key"] = json!("💥".repeat(70));
    assert!(check(&emoji, References::Limited).is_err());
    let event: CanonicalJsonObject = serde_json::from_value(emoji).unwrap();
    assert_eq!(check_pdu_format(&event, &RoomVersionRules::V10, References::Limited), Ok(()));
    let mut many = good.clone();
    many["prev_events"] = json!(vec!["$p"; 50]);
    assert_eq!(check(&many, References::Unlimited), Ok(()));
    let mut exact = good;
    exact["content"] = json!({"b": ""});
    let room = 65_536 - exact.to_string().len();
    exact["content"] = json!({"b": "x".repeat(room)});
    assert_eq!(check(&exact, References::Limited), Ok(()));
    exact["content"] = json!({"b": "x".repeat(room + 1)});
    assert!(check(&exact, References::Limited).is_err());
}
