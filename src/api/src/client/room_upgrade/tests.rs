//! Upgrades through the router.

use http::Method;
use serde_json::{Value, json};

use crate::testing::TestApp;

/// A request that must succeed; the body of its answer.
async fn ok(server: &TestApp, token: &str, method: Method, path: &str, body: Value) -> Value {
    let answer = server.call_as(token, method, &format!("/_matrix/client/v3/{path}"), body.to_string()).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    answer.json()
}

async fn state(server: &TestApp, token: &str, room: &str, kind: &str) -> Value {
    ok(server, token, Method::GET, &format!("rooms/{room}/state/{kind}"), json!({})).await
}

#[tokio::test]
async fn settings_names_and_bans_move_to_the_new_room() {
    let server = TestApp::new().await;
    let admin = server.sign_in("@admin:example.org", |account| account.admin = true).await;
    let create = json!({
        "room_version": "10", "preset": "public_chat", "visibility": "public", "name": "Old", "topic": "T",
        "room_alias_name": "here", "creation_content": {"type": "m.space"},
        "power_level_content_override": {"users": {"@admin:example.org": 100, "@mod:example.org": 50}},
    });
    let old = ok(&server, &admin, Method::POST, "createRoom", create).await["room_id"].clone();
    let old = old.as_str().unwrap();
    let ban = json!({"user_id": "@bad:example.org", "reason": "spam"});
    ok(&server, &admin, Method::POST, &format!("rooms/{old}/ban"), ban).await;
    let child = format!("rooms/{old}/state/m.space.child/!child:example.org");
    ok(&server, &admin, Method::PUT, &child, json!({"via": ["example.org"]})).await;

    let upgrade = json!({"new_version": "11"});
    let new = ok(&server, &admin, Method::POST, &format!("rooms/{old}/upgrade"), upgrade).await;
    let new = new["replacement_room"].as_str().unwrap();
    let create = state(&server, &admin, new, "m.room.create").await;
    assert_eq!((&create["type"], &create["room_version"]), (&json!("m.space"), &json!("11")));
    assert_eq!(create["predecessor"]["room_id"], json!(old));
    assert!(create["predecessor"]["event_id"].is_string());
    assert_eq!(state(&server, &admin, new, "m.room.name").await["name"], "Old");
    assert_eq!(state(&server, &admin, new, "m.room.topic").await["topic"], "T");
    assert_eq!(state(&server, &admin, new, "m.room.join_rules").await["join_rule"], "public");
    let levels = state(&server, &admin, new, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({"@admin:example.org": 100, "@mod:example.org": 50}));
    let alias = json!({"alias": "#here:example.org"});
    assert_eq!(state(&server, &admin, new, "m.room.canonical_alias").await, alias);
    let bad = state(&server, &admin, new, "m.room.member/@bad:example.org").await;
    assert_eq!(bad, json!({"membership": "ban", "reason": "spam"}));
    let child = state(&server, &admin, new, "m.space.child/!child:example.org").await;
    assert_eq!(child, json!({"via": ["example.org"]}));

    let tombstone = state(&server, &admin, old, "m.room.tombstone").await;
    assert_eq!(tombstone["replacement_room"], json!(new));
    let levels = state(&server, &admin, old, "m.room.power_levels").await;
    assert_eq!((&levels["events_default"], &levels["invite"]), (&json!(50), &json!(50)));
    let alias = ok(&server, &admin, Method::GET, "directory/room/%23here:example.org", json!({})).await;
    assert_eq!(alias["room_id"], json!(new));
    for (room, visibility) in [(old, "private"), (new, "public")] {
        let path = format!("directory/list/room/{room}");
        assert_eq!(ok(&server, &admin, Method::GET, &path, json!({})).await["visibility"], visibility);
    }
}

#[tokio::test]
async fn creators_of_v12_are_those_of_the_request() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let create = json!({
        "room_version": "12", "preset": "public_chat",
        "power_level_content_override": {
            "users": {"@bob:example.org": 150, "@carol:example.org": 50, "@dave:example.org": 50},
        },
    });
    let old = ok(&server, &alice, Method::POST, "createRoom", create).await["room_id"].clone();
    let old = old.as_str().unwrap();
    ok(&server, &bob, Method::POST, &format!("rooms/{old}/join"), json!({})).await;
    let upgrade = json!({"new_version": "12", "additional_creators": ["@carol:example.org"]});
    let new = ok(&server, &bob, Method::POST, &format!("rooms/{old}/upgrade"), upgrade).await;
    let new = new["replacement_room"].as_str().unwrap();
    let create = state(&server, &bob, new, "m.room.create").await;
    assert_eq!(create["predecessor"], json!({"room_id": old}));
    assert_eq!(create["additional_creators"], json!(["@carol:example.org"]));
    let levels = state(&server, &bob, new, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({"@dave:example.org": 50}));
    assert_eq!(levels["events"]["m.room.tombstone"], json!(150));
}

#[tokio::test]
async fn who_lacks_the_power_or_names_no_version_is_refused() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let create = json!({"preset": "public_chat"});
    let room = ok(&server, &alice, Method::POST, "createRoom", create).await["room_id"].clone();
    let room = room.as_str().unwrap();
    ok(&server, &bob, Method::POST, &format!("rooms/{room}/join"), json!({})).await;
    let upgrade = |room: &str| format!("/_matrix/client/v3/rooms/{room}/upgrade");
    for (token, room, version, expected) in [
        (&bob, room, "12", (403, "M_FORBIDDEN")),
        (&alice, "!none:example.org", "12", (404, "M_NOT_FOUND")),
        (&alice, room, "new", (400, "M_UNSUPPORTED_ROOM_VERSION")),
    ] {
        let body = json!({"new_version": version}).to_string();
        let answer = server.call_as(token, Method::POST, &upgrade(room), body).await;
        assert_eq!(answer.error(), (expected.0, expected.1.to_owned()));
    }
}

#[tokio::test]
async fn tags_rules_and_direct_chats_are_handed_down_on_joining() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let create = json!({"preset": "public_chat", "room_version": "10"});
    let old = ok(&server, &alice, Method::POST, "createRoom", create).await["room_id"].clone();
    let old = old.as_str().unwrap();
    ok(&server, &bob, Method::POST, &format!("rooms/{old}/join"), json!({})).await;
    let tag = |room: &str| format!("user/@bob:example.org/rooms/{room}/tags");
    ok(&server, &bob, Method::PUT, &format!("{}/m.favourite", tag(old)), json!({"order": 0.5})).await;
    ok(&server, &bob, Method::PUT, &format!("pushrules/global/room/{old}"), json!({"actions": []})).await;
    let direct = "user/@bob:example.org/account_data/m.direct";
    ok(&server, &bob, Method::PUT, direct, json!({"@alice:example.org": [old]})).await;

    let (upgrade, body) = (format!("rooms/{old}/upgrade"), json!({"new_version": "11"}));
    let new = ok(&server, &alice, Method::POST, &upgrade, body).await["replacement_room"].clone();
    let new = new.as_str().unwrap();
    ok(&server, &bob, Method::POST, &format!("rooms/{new}/join"), json!({})).await;
    let tags = ok(&server, &bob, Method::GET, &tag(new), json!({})).await;
    assert_eq!(tags["tags"], json!({"m.favourite": {"order": 0.5}}));
    let rule = ok(&server, &bob, Method::GET, &format!("pushrules/global/room/{new}"), json!({})).await;
    assert_eq!(rule["actions"], json!([]));
    let chats = ok(&server, &bob, Method::GET, direct, json!({})).await;
    assert_eq!(chats, json!({"@alice:example.org": [old, new]}));
}

#[tokio::test]
async fn a_room_that_nobody_named_as_replacement_inherits_nothing() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let create = json!({"preset": "public_chat"});
    let old = ok(&server, &alice, Method::POST, "createRoom", create).await["room_id"].clone();
    let old = old.as_str().unwrap();
    for token in [&alice, &bob] {
        ok(&server, token, Method::POST, &format!("rooms/{old}/join"), json!({})).await;
        let rule = format!("pushrules/global/room/{old}");
        ok(&server, token, Method::PUT, &rule, json!({"actions": []})).await;
    }
    let create = json!({"preset": "public_chat", "creation_content": {"predecessor": {"room_id": old}}});
    let new = ok(&server, &alice, Method::POST, "createRoom", create).await["room_id"].clone();
    let new = new.as_str().unwrap();
    ok(&server, &bob, Method::POST, &format!("rooms/{new}/join"), json!({})).await;
    let rule = format!("/_matrix/client/v3/pushrules/global/room/{new}");
    // Who makes the room is believed about their own settings.
    assert_eq!(server.call_as(&alice, Method::GET, &rule, "").await.status, 200);
    assert_eq!(server.call_as(&bob, Method::GET, &rule, "").await.status, 404);
}
