//! Pages of history: filters by relation, and who is ignored.

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
