//! Account data, filters, push rules, presence, typing, tags and receipts through the router.

use http::Method;
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp};

struct World {
    server: TestApp,
    alice: String,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    server.sign_in("@bob:example.org", |_| {}).await;
    World { server, alice }
}

impl World {
    async fn get(&self, path: &str) -> Answer {
        self.server.call_as(&self.alice, Method::GET, &format!("/_matrix/client/v3/{path}"), "").await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        let path = format!("/_matrix/client/v3/{path}");
        self.server.call_as(&self.alice, Method::PUT, &path, body.to_string()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.server.call_as(&self.alice, Method::DELETE, &format!("/_matrix/client/v3/{path}"), "").await
    }
}

#[tokio::test]
async fn account_data_is_ones_own() {
    let world = world().await;
    let path = "user/@alice:example.org/account_data/org.example.prefs";
    assert_eq!(world.get(path).await.error(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(world.put(path, json!({ "a": [1.5, null] })).await.text, "{}");
    assert_eq!(world.get(path).await.text, r#"{"a":[1.5,null]}"#);
    let bobs = "user/@bob:example.org/account_data/org.example.prefs";
    assert_eq!(world.get(bobs).await.error(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(world.put(bobs, json!({})).await.error(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(world.put(path, json!([])).await.status, 400);
    assert_eq!(world.get(path).await.text, r#"{"a":[1.5,null]}"#);
}

#[tokio::test]
async fn types_with_endpoints_of_their_own_are_read_only() {
    let world = world().await;
    for event_type in ["m.push_rules", "m.fully_read"] {
        let refused =
            world.put(&format!("user/@alice:example.org/account_data/{event_type}"), json!({})).await;
        assert_eq!(refused.error(), (405, "M_BAD_JSON".to_owned()));
    }
    let rules = world.get("user/@alice:example.org/account_data/m.push_rules").await.json();
    assert_eq!(rules["global"]["override"][0]["rule_id"], ".m.rule.master");
}

#[tokio::test]
async fn data_that_is_too_large_is_refused() {
    let world = world().await;
    let path = "user/@alice:example.org/account_data/org.example.prefs";
    let fits = json!({ "x": "x".repeat(900 * 1024) });
    assert_eq!(world.put(path, fits).await.status, 200);
    let large = json!({ "x": "x".repeat(1_000 * 1024) });
    assert_eq!(world.put(path, large).await.error(), (413, "M_TOO_LARGE".to_owned()));
}

#[tokio::test]
async fn filters_are_stored_and_read() {
    let world = world().await;
    let filter = json!({ "room": { "timeline": { "limit": 7 } } });
    let post = async |path: &str, body: &Value| {
        let path = format!("/_matrix/client/v3/{path}");
        world.server.call_as(&world.alice, Method::POST, &path, body.to_string()).await
    };
    let created = post("user/@alice:example.org/filter", &filter).await.json();
    let id = created["filter_id"].as_str().unwrap();
    assert_eq!(world.get(&format!("user/@alice:example.org/filter/{id}")).await.json(), filter);
    assert_eq!(world.get("user/@alice:example.org/filter/0").await.error(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(world.get(&format!("user/@bob:example.org/filter/{id}")).await.status, 403);
    let malformed = json!({ "room": { "timeline": { "limit": "many" } } });
    assert_eq!(post("user/@alice:example.org/filter", &malformed).await.status, 400);
}

#[tokio::test]
async fn push_rules_are_made_changed_and_removed() {
    let world = world().await;
    let ids = async || -> Vec<String> {
        let rules = world.get("pushrules/global/").await.json();
        let content = rules["content"].as_array().cloned().unwrap_or_default();
        let ids = content.iter().map(|rule| rule["rule_id"].as_str().unwrap().to_owned());
        ids.filter(|id| !id.starts_with(".m.")).collect()
    };
    let rule = json!({ "actions": ["notify", "dont_notify"], "pattern": "cake" });
    assert_eq!(world.put("pushrules/global/content/a", rule.clone()).await.text, "{}");
    assert_eq!(world.put("pushrules/global/content/b?after=a", rule.clone()).await.text, "{}");
    assert_eq!(ids().await, ["a", "b"]);
    let missing = world.put("pushrules/global/content/c?before=none", rule.clone()).await;
    assert_eq!(missing.error(), (404, "M_NOT_FOUND".to_owned()));
    let beside = world.put("pushrules/global/content/c?before=.m.rule.master", rule.clone()).await;
    assert_eq!(beside.error(), (400, "M_INVALID_PARAM".to_owned()));
    assert_eq!(world.put("pushrules/global/unknown/c", rule).await.status, 400);
    assert_eq!(world.put("pushrules/global/content/a/enabled", json!({ "enabled": false })).await.text, "{}");
    assert_eq!(world.get("pushrules/global/content/a/enabled").await.text, r#"{"enabled":false}"#);
    assert_eq!(world.put("pushrules/global/content/a/actions", json!({ "actions": [] })).await.text, "{}");
    assert_eq!(world.get("pushrules/global/content/a/actions").await.text, r#"{"actions":[]}"#);
    assert_eq!(world.get("pushrules/global/content/a").await.json()["pattern"], "cake");
    assert_eq!(world.delete("pushrules/global/content/a").await.text, "{}");
    assert_eq!(world.delete("pushrules/global/content/a").await.error(), (404, "M_NOT_FOUND".to_owned()));
    let default = world.delete("pushrules/global/override/.m.rule.master").await;
    assert_eq!(default.error(), (400, "M_INVALID_PARAM".to_owned()));
    let all = world.get("pushrules/").await.json();
    assert_eq!(all["global"]["underride"].as_array().unwrap().len(), 9);
    assert_eq!(all["global"].get("postcontent"), None);
}

#[tokio::test]
async fn presence_is_set_for_oneself_and_hidden_from_strangers() {
    let world = world().await;
    let set = json!({ "presence": "online", "status_msg": "here" });
    assert_eq!(world.put("presence/@alice:example.org/status", set.clone()).await.text, "{}");
    let shown = world.get("presence/@alice:example.org/status").await.json();
    assert_eq!((&shown["presence"], &shown["status_msg"]), (&json!("online"), &json!("here")));
    assert_eq!(shown["last_active_ago"], 0);
    assert_eq!(world.put("presence/@bob:example.org/status", set).await.status, 403);
    for stranger in ["@bob:example.org", "@nobody:example.org"] {
        assert_eq!(
            world.get(&format!("presence/{stranger}/status")).await.error(),
            (403, "M_FORBIDDEN".to_owned())
        );
    }
}

#[tokio::test]
async fn rooms_that_one_is_not_in_are_refused() {
    let world = world().await;
    let typing = json!({ "typing": true, "timeout": 1000 });
    let mine = world.put("rooms/!r:example.org/typing/@alice:example.org", typing.clone()).await;
    assert_eq!(mine.error(), (403, "M_FORBIDDEN".to_owned()));
    let bobs = world.put("rooms/!r:example.org/typing/@bob:example.org", typing).await;
    assert_eq!(bobs.error(), (403, "M_FORBIDDEN".to_owned()));
    for (path, error) in [
        ("receipt/m.read/$e", (403, "M_FORBIDDEN")),
        ("receipt/m.unknown/$e", (400, "M_INVALID_PARAM")),
        ("read_markers", (403, "M_FORBIDDEN")),
    ] {
        let path = format!("/_matrix/client/v3/rooms/!r:example.org/{path}");
        let refused = world.server.call_as(&world.alice, Method::POST, &path, "{}").await;
        assert_eq!(refused.error(), (error.0, error.1.to_owned()), "{path}");
    }
    let bad_thread = world.server.call_as(
        &world.alice,
        Method::POST,
        "/_matrix/client/v3/rooms/!r:example.org/receipt/m.read/$e",
        r#"{"thread_id":"neither"}"#,
    );
    assert_eq!(bad_thread.await.error(), (400, "M_INVALID_PARAM".to_owned()));
}

#[tokio::test]
async fn in_a_room_one_types_reads_and_tags() {
    let world = world().await;
    let post = async |path: &str, body: Value| {
        let path = format!("/_matrix/client/v3/{path}");
        world.server.call_as(&world.alice, Method::POST, &path, body.to_string()).await
    };
    let room = post("createRoom", json!({})).await.json()["room_id"].as_str().unwrap().to_owned();
    let message = json!({ "msgtype": "m.text", "body": "hello" });
    let mut events = Vec::new();
    for txn_id in ["1", "2"] {
        let sent = world.put(&format!("rooms/{room}/send/m.room.message/{txn_id}"), message.clone()).await;
        events.push(sent.json()["event_id"].as_str().unwrap().to_owned());
    }
    let since = world.get("sync").await.json()["next_batch"].as_str().unwrap().to_owned();
    let typing = json!({ "typing": true, "timeout": 1000 });
    let typed = world.put(&format!("rooms/{room}/typing/@alice:example.org"), typing).await;
    assert_eq!(typed.text, "{}");
    let marks = json!({ "m.fully_read": events[1], "m.read": events[1], "m.read.private": events[0] });
    assert_eq!(post(&format!("rooms/{room}/read_markers"), marks).await.text, "{}");
    let back = post(&format!("rooms/{room}/receipt/m.read/{}", events[0]), json!({})).await;
    assert_eq!(back.text, "{}");
    let unknown = post(&format!("rooms/{room}/receipt/m.read/$none"), json!({})).await;
    assert_eq!(unknown.error(), (404, "M_NOT_FOUND".to_owned()));
    let tags = format!("user/@alice:example.org/rooms/{room}/tags");
    assert_eq!(world.put(&format!("{tags}/u.work"), json!({ "order": 0.5 })).await.text, "{}");
    assert_eq!(world.get(&tags).await.json(), json!({ "tags": { "u.work": { "order": 0.5 } } }));
    let sync = world.get(&format!("sync?since={since}")).await.json();
    let joined = &sync["rooms"]["join"][&room];
    let content = |kind: &str, event_type: &str| {
        let events = joined[kind]["events"].as_array().unwrap();
        events.iter().find(|event| event["type"] == event_type).map(|event| event["content"].clone())
    };
    assert_eq!(content("ephemeral", "m.typing"), Some(json!({ "user_ids": ["@alice:example.org"] })));
    let receipts = content("ephemeral", "m.receipt").unwrap();
    assert!(receipts[&events[1]]["m.read"]["@alice:example.org"].is_object(), "{receipts}");
    assert!(receipts[&events[0]]["m.read.private"]["@alice:example.org"].is_object(), "{receipts}");
    assert_eq!(content("account_data", "m.fully_read"), Some(json!({ "event_id": events[1] })));
    assert_eq!(content("account_data", "m.tag"), Some(json!({ "tags": { "u.work": { "order": 0.5 } } })));
    let next = sync["next_batch"].as_str().unwrap();
    let changes = world.get(&format!("keys/changes?from={since}&to={next}")).await;
    assert_eq!(changes.json(), json!({ "changed": [], "left": [] }));
    assert_eq!(world.get("keys/changes?from=x&to=y").await.status, 400);
}

#[tokio::test]
async fn data_is_deleted_by_its_endpoint_or_by_an_empty_object() {
    let world = world().await;
    let path = "user/@alice:example.org/account_data/org.example.test";
    let delete = async |user: &str| {
        let path =
            format!("/_matrix/client/unstable/org.matrix.msc3391/user/{user}/account_data/org.example.test");
        world.server.call_as(&world.alice, Method::DELETE, &path, "").await
    };
    for way in ["DELETE", "PUT"] {
        world.put(path, json!({ "a": 1 })).await;
        let answer =
            if way == "PUT" { world.put(path, json!({})).await } else { delete("@alice:example.org").await };
        assert_eq!(answer.text, "{}");
        assert_eq!(world.get(path).await.error(), (404, "M_NOT_FOUND".to_owned()), "{way}");
    }
    assert_eq!(delete("@bob:example.org").await.error(), (403, "M_FORBIDDEN".to_owned()));
}
