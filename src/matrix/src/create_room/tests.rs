//! Planned rooms: order, precedence, presets, room version 12, refusals.

use ruma::{owned_user_id, room_alias_id, user_id};

use super::*;

fn request(json: Value) -> Request {
    // The request type itself reads HTTP requests only.
    let mut request = Request::new();
    let Value::Object(mut fields) = json else { panic!("not an object") };
    let mut take = |name: &str| fields.remove(name);
    macro_rules! set {
        ($($field:ident),*) => {$(
            if let Some(value) = take(stringify!($field)) {
                request.$field = serde_json::from_value(value).unwrap();
            }
        )*};
    }
    set!(
        creation_content,
        initial_state,
        invite,
        is_direct,
        name,
        power_level_content_override,
        preset,
        room_version,
        topic,
        visibility
    );
    assert!(fields.is_empty(), "{fields:?}");
    request
}

fn versions() -> Vec<RoomVersionId> {
    ["6", "10", "11", "12"].map(|version| version.try_into().unwrap()).to_vec()
}

fn plan(json: Value) -> Result<Plan, CreateRoomError> {
    let versions = versions();
    let defaults =
        Defaults { room_version: RoomVersionId::V11, supported: &versions, encryption: Encryption::Never };
    let profile =
        |user: &UserId| Profile { displayname: Some(user.localpart().to_owned()), avatar_url: None };
    super::plan(&request(json), user_id!("@me:x"), None, &defaults, profile)
}

fn kinds(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|event| event.kind.as_str()).collect()
}

fn content(plan: &Plan, kind: &str) -> Value {
    let found: Vec<_> = plan.events.iter().filter(|event| event.kind == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    serde_json::from_str(found[0].content.get()).unwrap()
}

#[test]
fn order() {
    let json = json!({
        "name": "n", "topic": "t", "invite": ["@b:x"], "is_direct": true,
        "initial_state": [{"type": "org.z", "content": {}}, {"type": "org.a", "state_key": "k", "content": {}}],
    });
    let versions = versions();
    let defaults =
        Defaults { room_version: RoomVersionId::V11, supported: &versions, encryption: Encryption::Private };
    let alias = room_alias_id!("#a:x");
    let plan = super::plan(&request(json), user_id!("@me:x"), Some(alias), &defaults, |_| Profile::default());
    let plan = plan.unwrap();
    assert_eq!(
        kinds(&plan),
        [
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.canonical_alias",
            "m.room.join_rules",
            "m.room.history_visibility",
            "m.room.guest_access",
            "m.room.encryption",
            "org.z",
            "org.a",
            "m.room.name",
            "m.room.topic",
        ]
    );
    assert_eq!(content(&plan, "m.room.canonical_alias"), json!({"alias": "#a:x"}));
    assert_eq!(plan.invites.len(), 1);
    assert_eq!(plan.invites[0].state_key, "@b:x");
    let invite: Value = serde_json::from_str(plan.invites[0].content.get()).unwrap();
    assert_eq!(invite, json!({"membership": "invite", "is_direct": true}));
}

#[test]
fn rooms_that_have_to_be_encrypted_are() {
    let versions = versions();
    let plan = |encryption, json: Value| {
        let defaults = Defaults { room_version: RoomVersionId::V11, supported: &versions, encryption };
        super::plan(&request(json), user_id!("@me:x"), None, &defaults, |_| Profile::default())
    };
    let (direct, private) = (json!({"preset": "public_chat", "is_direct": true}), json!({}));
    let public = json!({"preset": "public_chat"});
    let all = [
        (Encryption::Never, [false, false, false]),
        (Encryption::Direct, [true, false, false]),
        (Encryption::Private, [true, true, false]),
        (Encryption::Always, [true, true, true]),
    ];
    for (encryption, expected) in all {
        let encrypted = [&direct, &private, &public]
            .map(|json| kinds(&plan(encryption, json.clone()).unwrap()).contains(&"m.room.encryption"));
        assert_eq!(encrypted, expected, "{encryption:?}");
    }
    let asks_for = |algorithm: &str| {
        let event = json!({"type": "m.room.encryption", "content": {"algorithm": algorithm}});
        json!({"initial_state": [event]})
    };
    let own = plan(Encryption::Always, asks_for("m.megolm.v1.aes-sha2")).unwrap();
    assert_eq!(kinds(&own).iter().filter(|kind| **kind == "m.room.encryption").count(), 1);
    let none = plan(Encryption::Always, asks_for("none"));
    assert!(matches!(none, Err(CreateRoomError::Encryption)), "{none:?}");
    plan(Encryption::Never, asks_for("none")).unwrap();
}

#[test]
fn presets() {
    for (json, join_rule, guests, invite) in [
        (json!({}), "invite", Some("can_join"), 0),
        (json!({"visibility": "public"}), "public", None, 50),
        (json!({"preset": "public_chat"}), "public", None, 50),
        (json!({"preset": "private_chat", "visibility": "public"}), "invite", Some("can_join"), 0),
        (json!({"preset": "trusted_private_chat"}), "invite", Some("can_join"), 0),
    ] {
        let plan = plan(json.clone()).unwrap();
        assert_eq!(content(&plan, "m.room.join_rules"), json!({"join_rule": join_rule}), "{json}");
        assert_eq!(kinds(&plan).contains(&"m.room.guest_access"), guests.is_some(), "{json}");
        if let Some(guests) = guests {
            assert_eq!(content(&plan, "m.room.guest_access"), json!({"guest_access": guests}), "{json}");
        }
        let visibility = content(&plan, "m.room.history_visibility");
        assert_eq!(visibility, json!({"history_visibility": "shared"}));
        assert_eq!(content(&plan, "m.room.power_levels")["invite"], json!(invite));
    }
}

#[test]
fn precedence() {
    let plan = plan(json!({
        "name": "wins", "topic": "wins", "preset": "public_chat",
        "initial_state": [
            {"type": "m.room.join_rules", "content": {"join_rule": "knock"}},
            {"type": "m.room.name", "content": {"name": "loses"}},
            {"type": "m.room.topic", "state_key": "", "content": {"topic": "loses"}},
            {"type": "m.room.power_levels", "content": {"users": {"@me:x": 77}}},
        ],
        "power_level_content_override": {"ban": 3, "org.custom": {"x": 1}},
    }))
    .unwrap();
    assert_eq!(content(&plan, "m.room.join_rules"), json!({"join_rule": "knock"}));
    assert_eq!(content(&plan, "m.room.name"), json!({"name": "wins"}));
    assert_eq!(
        content(&plan, "m.room.topic"),
        json!({"topic": "wins", "m.topic": {"m.text": [{"body": "wins", "mimetype": "text/plain"}]}})
    );
    let levels = content(&plan, "m.room.power_levels");
    assert_eq!(levels, json!({"users": {"@me:x": 77}, "ban": 3, "org.custom": {"x": 1}}));
    assert_eq!(kinds(&plan)[2], "m.room.power_levels");
}

#[test]
fn creation_content() {
    let given = json!({
        "creator": "@evil:x", "room_version": "1", "m.federate": false, "type": "m.space", "org.x": 1,
    });
    for (version, creator) in [("10", Some("@me:x")), ("11", None), ("12", None)] {
        let plan = plan(json!({"room_version": version, "creation_content": given})).unwrap();
        let create = content(&plan, "m.room.create");
        assert_eq!(create["room_version"], version);
        assert_eq!(create.get("creator").and_then(Value::as_str), creator);
        assert_eq!(create["m.federate"], json!(false));
        assert_eq!((&create["type"], &create["org.x"]), (&json!("m.space"), &json!(1)));
    }
}

#[test]
fn trusted_private_chat() {
    let json = json!({"preset": "trusted_private_chat", "invite": ["@b:x", "@me:x", "@b:x"]});
    let plan_in = |version: &str| {
        let mut json = json.clone();
        json["room_version"] = json!(version);
        plan(json).unwrap()
    };
    let old = plan_in("11");
    assert_eq!(content(&old, "m.room.power_levels")["users"], json!({"@me:x": 100, "@b:x": 100}));
    assert!(content(&old, "m.room.create").get("additional_creators").is_none());
    let new = plan_in("12");
    assert_eq!(content(&new, "m.room.power_levels")["users"], json!({}));
    assert_eq!(content(&new, "m.room.create")["additional_creators"], json!(["@b:x"]));
    assert_eq!(new.invites.len(), 1);
}

#[test]
fn v12_power_levels() {
    let levels = |json: Value| {
        let json = json!({"room_version": "12", "power_level_content_override": json});
        Ok::<_, CreateRoomError>(content(&plan(json)?, "m.room.power_levels"))
    };
    assert_eq!(levels(json!({})).unwrap()["events"]["m.room.tombstone"], 150);
    let replaced = levels(json!({"events": {"m.room.name": 0}, "state_default": 200})).unwrap();
    assert_eq!(replaced["events"], json!({"m.room.name": 0, "m.room.tombstone": 201}));
    let chosen = levels(json!({"events": {"m.room.tombstone": 60}})).unwrap();
    assert_eq!(chosen["events"]["m.room.tombstone"], 60);
    assert_eq!(levels(json!({"users": {"@b:x": 50}})).unwrap()["users"], json!({"@b:x": 50}));
    assert!(matches!(levels(json!({"users": {"@me:x": 100}})), Err(CreateRoomError::PowerLevels(_))));
    let additional = json!({
        "room_version": "12", "creation_content": {"additional_creators": ["@b:x", "@b:x"]},
        "power_level_content_override": {"users": {"@b:x": 1}},
    });
    assert!(matches!(plan(additional), Err(CreateRoomError::PowerLevels(_))));
}

#[test]
fn refusals() {
    type Check = fn(&CreateRoomError) -> bool;
    let cases: [(Value, Check); 10] = [
        (json!({"room_version": "1"}), |e| matches!(e, CreateRoomError::UnsupportedVersion(_))),
        (json!({"room_version": "org.x"}), |e| matches!(e, CreateRoomError::UnsupportedVersion(_))),
        (json!({"preset": "odd"}), |e| matches!(e, CreateRoomError::UnknownPreset)),
        (json!({"creation_content": [1]}), |e| matches!(e, CreateRoomError::CreationContent(_))),
        (json!({"room_version": "12", "creation_content": {"additional_creators": ["nobody"]}}), |e| {
            matches!(e, CreateRoomError::CreationContent(_))
        }),
        (json!({"initial_state": [{"type": "t"}]}), |e| matches!(e, CreateRoomError::InitialState(0))),
        (json!({"initial_state": [{"type": "t", "content": {}}, {"type": "t", "content": []}]}), |e| {
            matches!(e, CreateRoomError::InitialState(1))
        }),
        (json!({"initial_state": [{"type": "m.room.create", "content": {}}]}), |e| {
            matches!(e, CreateRoomError::InitialState(0))
        }),
        (json!({"power_level_content_override": {"ban": "x"}}), |e| {
            matches!(e, CreateRoomError::PowerLevels(_))
        }),
        (json!({"power_level_content_override": {"users": {"a": 1}}}), |e| {
            matches!(e, CreateRoomError::PowerLevels(_))
        }),
    ];
    for (json, is_expected) in cases {
        let error = plan(json.clone()).unwrap_err();
        assert!(is_expected(&error), "{json}: {error}");
    }
}

#[test]
fn members_carry_profiles() {
    let plan = plan(json!({"invite": ["@b:x"]})).unwrap();
    assert_eq!(content(&plan, "m.room.member"), json!({"membership": "join", "displayname": "me"}));
    let invite: Value = serde_json::from_str(plan.invites[0].content.get()).unwrap();
    assert_eq!(invite, json!({"membership": "invite", "displayname": "b"}));
    assert_eq!(plan.room_version, RoomVersionId::V11);
    assert_eq!(owned_user_id!("@b:x"), plan.invites[0].state_key.as_str());
}
