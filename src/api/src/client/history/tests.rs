//! Pages of history: filters by relation, who is ignored, and who is not told of members.

use http::Method;
use serde_json::{Value, json};

use crate::testing::TestApp;

struct World {
    server: TestApp,
    alice: String,
    bob: String,
    room: String,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let room = json!({ "preset": "public_chat" }).to_string();
    let room = server.call_as(&alice, Method::POST, "/_matrix/client/v3/createRoom", room).await.json();
    let room = format!("/_matrix/client/v3/rooms/{}", room["room_id"].as_str().unwrap());
    assert_eq!(server.call_as(&bob, Method::POST, &format!("{room}/join"), "{}").await.status, 200);
    World { server, alice, bob, room }
}

impl World {
    async fn send(&self, token: &str, id: &str, relates_to: Value) -> String {
        let mut content = json!({ "msgtype": "m.text", "body": id });
        if !relates_to.is_null() {
            content["m.relates_to"] = relates_to;
        }
        let path = format!("{}/send/m.room.message/{id}", self.room);
        let answer = self.server.call_as(token, Method::PUT, &path, content.to_string()).await;
        answer.json()["event_id"].as_str().unwrap().to_owned()
    }

    async fn get(&self, path: &str) -> Value {
        let path = format!("{}/{path}", self.room);
        self.server.call_as(&self.alice, Method::GET, &path, "").await.json()
    }

    async fn bodies(&self, filter: &str) -> Vec<String> {
        let filter: String = form_urlencoded::byte_serialize(filter.as_bytes()).collect();
        let page = self.get(&format!("messages?dir=f&limit=100&filter={filter}")).await;
        bodies(&page["chunk"])
    }
}

fn bodies(events: &Value) -> Vec<String> {
    let messages = events.as_array().unwrap().iter();
    messages.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_filter_selects_by_relation() {
    let world = world().await;
    let root = world.send(&world.alice, "root", Value::Null).await;
    let related = |rel_type: &str| json!({ "rel_type": rel_type, "event_id": root });
    world.send(&world.alice, "thread", related("m.thread")).await;
    world.send(&world.alice, "reference", related("m.reference")).await;
    for (filter, expected) in [
        (r#"{"org.matrix.msc3874.rel_types":["m.thread"]}"#, vec!["thread"]),
        (r#"{"org.matrix.msc3874.rel_types":["m.thread","m.reference"]}"#, vec!["thread", "reference"]),
        (r#"{"rel_types":[]}"#, vec![]),
        (r#"{"org.matrix.msc3874.not_rel_types":["m.thread"]}"#, vec!["root", "reference"]),
        (r#"{"not_rel_types":["m.thread","m.reference"]}"#, vec!["root"]),
        ("{}", vec!["root", "thread", "reference"]),
    ] {
        assert_eq!(world.bodies(filter).await, expected, "{filter}");
    }
}

#[tokio::test]
async fn messages_of_ignored_users_are_left_out_and_their_state_is_not() {
    let world = world().await;
    world.send(&world.bob, "before", Value::Null).await;
    let own = world.send(&world.alice, "own", Value::Null).await;
    world.send(&world.bob, "after", Value::Null).await;
    let ignored = json!({ "ignored_users": { "@bob:example.org": {} } }).to_string();
    let path = "/_matrix/client/v3/user/@alice:example.org/account_data/m.ignored_user_list";
    assert_eq!(world.bodies("{}").await, ["before", "own", "after"]);
    assert_eq!(world.server.call_as(&world.alice, Method::PUT, path, ignored).await.status, 200);
    // The list is read anew once the log has told of it.
    while world.bodies("{}").await.len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.bodies("{}").await, ["own"]);
    let context = world.get(&format!("context/{own}?limit=20")).await;
    assert!(bodies(&context["events_before"]).is_empty());
    assert!(bodies(&context["events_after"]).is_empty());
    let joined = context["events_before"].as_array().unwrap().iter();
    let joined = joined.filter(|event| event["sender"] == "@bob:example.org").count();
    assert_eq!(joined, 1, "that he joined is shown");
}

/// CVE-2021-39164 and its like: whoever is not in a room, or not any more, is not told who came to it since.
#[tokio::test]
async fn cve_2021_39164_members_are_told_to_members() {
    let world = world().await;
    let leave = format!("{}/leave", world.room);
    assert_eq!(world.server.call_as(&world.bob, Method::POST, &leave, "{}").await.status, 200);
    let carol = world.server.sign_in("@carol:example.org", |_| {}).await;
    let dora = world.server.sign_in("@dora:example.org", |_| {}).await;
    let join = format!("{}/join", world.room);
    assert_eq!(world.server.call_as(&dora, Method::POST, &join, "{}").await.status, 200);
    let sync = world.server.call_as(&world.alice, Method::GET, "/_matrix/client/v3/sync", "").await.json();
    let at = format!("members?at={}", sync["next_batch"].as_str().unwrap());
    let page = world.get("messages?dir=b&limit=1").await;
    let page = format!("members?at={}", page["start"].as_str().unwrap());
    for path in ["members", at.as_str(), page.as_str(), "state"] {
        let whole = format!("{}/{path}", world.room);
        let members = |answer: &Value| {
            let events = answer.get("chunk").unwrap_or(answer).as_array().unwrap();
            events
                .iter()
                .filter_map(|event| event["state_key"].as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let shown = members(&world.get(path).await);
        assert!(shown.iter().any(|key| key == "@dora:example.org"), "{path}: {shown:?}");
        let stranger = world.server.call_as(&carol, Method::GET, &whole, "").await;
        assert_eq!(stranger.error(), (403, "M_FORBIDDEN".to_owned()), "{path}");
        let gone = members(&world.server.call_as(&world.bob, Method::GET, &whole, "").await.json());
        assert!(gone.iter().any(|key| key == "@bob:example.org"), "{path}: {gone:?}");
        assert!(gone.iter().all(|key| key != "@dora:example.org"), "{path}: {gone:?}");
    }
    for token in [&carol, &world.bob] {
        let path = format!("{}/joined_members", world.room);
        let refused = world.server.call_as(token, Method::GET, &path, "").await;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN".to_owned()));
    }
}
