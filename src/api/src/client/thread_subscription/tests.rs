//! Following threads through the router.

use http::Method;
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp};

struct World {
    server: TestApp,
    token: String,
    room_id: String,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let token = server.sign_in("@alice:example.org", |_| {}).await;
    let room = server.call_as(&token, Method::POST, "/_matrix/client/v3/createRoom", "{}").await.json();
    World { server, token, room_id: room["room_id"].as_str().unwrap().to_owned() }
}

impl World {
    async fn send(&self, id: &str, thread: Option<&str>) -> String {
        let mut content = json!({ "msgtype": "m.text", "body": id });
        if let Some(root) = thread {
            content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
        }
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{id}", self.room_id);
        let answer = self.server.call_as(&self.token, Method::PUT, &path, content.to_string()).await;
        answer.json()["event_id"].as_str().unwrap().to_owned()
    }

    async fn subscription(&self, method: Method, root: &str, body: Value) -> Answer {
        let path = format!(
            "/_matrix/client/unstable/io.element.msc4306/rooms/{}/thread/{root}/subscription",
            self.room_id
        );
        self.server.call_as(&self.token, method, &path, body.to_string()).await
    }

    async fn is_automatic(&self, root: &str) -> Value {
        self.subscription(Method::GET, root, json!({})).await.json()["automatic"].clone()
    }
}

#[tokio::test]
async fn a_thread_is_followed_by_hand_or_because_of_an_event_in_it() {
    let world = world().await;
    let root = world.send("root", None).await;
    let (reply, other) = (world.send("reply", Some(&root)).await, world.send("other", None).await);
    let not_found = (404, "M_NOT_FOUND".to_owned());
    assert_eq!(world.subscription(Method::GET, &root, json!({})).await.error(), not_found);
    assert_eq!(world.subscription(Method::DELETE, &root, json!({})).await.status, 200);
    for wrong in [&root, &other] {
        let answer = world.subscription(Method::PUT, &root, json!({ "automatic": wrong })).await;
        assert_eq!(answer.error(), (400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD".to_owned()));
    }
    for (body, automatic) in [(json!({ "automatic": reply }), true), (json!({}), false)] {
        assert_eq!(world.subscription(Method::PUT, &root, body).await.status, 200);
        assert_eq!(world.is_automatic(&root).await, automatic);
    }
    let again = json!({ "automatic": reply });
    assert_eq!(world.subscription(Method::PUT, &root, again).await.status, 200);
    assert_eq!(world.is_automatic(&root).await, false, "it stays as it was made by hand");
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        assert_eq!(world.subscription(method, "$nothing:example.org", json!({})).await.error(), not_found);
    }
}

#[tokio::test]
async fn who_has_unsubscribed_is_subscribed_again_only_by_something_new() {
    let world = world().await;
    let root = world.send("root", None).await;
    let before = world.send("before", Some(&root)).await;
    assert_eq!(world.subscription(Method::PUT, &root, json!({ "automatic": before })).await.status, 200);
    let between = world.send("between", Some(&root)).await;
    assert_eq!(world.subscription(Method::DELETE, &root, json!({})).await.status, 200);
    for old in [&before, &between] {
        let answer = world.subscription(Method::PUT, &root, json!({ "automatic": old })).await;
        assert_eq!(answer.error(), (409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION".to_owned()));
    }
    let after = world.send("after", Some(&root)).await;
    assert_eq!(world.subscription(Method::PUT, &root, json!({ "automatic": after })).await.status, 200);
    assert_eq!(world.is_automatic(&root).await, true);
}
