//! The tree below a space through the router.

use http::Method;
use serde_json::{Value, json};

use crate::testing::TestApp;

struct World {
    server: TestApp,
    alice: String,
    bob: String,
}

impl World {
    async fn new() -> Self {
        let server = TestApp::new().await;
        let alice = server.sign_in("@alice:example.org", |_| {}).await;
        let bob = server.sign_in("@bob:example.org", |_| {}).await;
        Self { server, alice, bob }
    }

    async fn room(&self, preset: &str, kind: Option<&str>) -> String {
        let create = json!({"preset": preset, "creation_content": kind.map(|kind| json!({"type": kind}))});
        let create = create.to_string().replace("\"creation_content\":null,", "");
        let path = "/_matrix/client/v3/createRoom";
        let answer = self.server.call_as(&self.alice, Method::POST, path, create).await;
        answer.json()["room_id"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
    }

    async fn link(&self, space: &str, child: &str, content: Value) {
        let path = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{child}");
        self.server.clock.advance(std::time::Duration::from_millis(5));
        let answer = self.server.call_as(&self.alice, Method::PUT, &path, content.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }

    /// The rooms of a page with their children, and the token of the next page.
    async fn page(
        &self,
        token: &str,
        root: &str,
        query: &str,
    ) -> (Vec<(String, Vec<String>)>, Option<String>) {
        let path = format!("/_matrix/client/v1/rooms/{root}/hierarchy{query}");
        let answer = self.server.call_as(token, Method::GET, &path, "").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let body = answer.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rooms = body["rooms"].as_array().unwrap().iter().map(|room| {
            let children = room["children_state"].as_array().unwrap();
            (text(&room["room_id"]), children.iter().map(|child| text(&child["state_key"])).collect())
        });
        (rooms.collect(), body["next_batch"].as_str().map(str::to_owned))
    }

    async fn ids(&self, token: &str, root: &str, query: &str) -> Vec<String> {
        self.page(token, root, query).await.0.into_iter().map(|(room, _)| room).collect()
    }
}

#[tokio::test]
async fn the_tree_is_walked_depth_first_and_in_pages() {
    let world = World::new().await;
    let (space, alice) = (Some("m.space"), world.alice.as_str());
    let root = world.room("public_chat", space).await;
    let (r1, r2, r3) = (
        world.room("public_chat", None).await,
        world.room("public_chat", None).await,
        world.room("public_chat", None).await,
    );
    let inner = world.room("public_chat", space).await;
    let via = json!({"via": ["example.org"]});
    world.link(&root, &r1, json!({"via": ["example.org"], "suggested": true})).await;
    world.link(&root, &inner, via.clone()).await;
    world.link(&root, &r2, json!({"via": ["example.org"], "suggested": true})).await;
    world.link(&root, "!unknown:example.org", via.clone()).await;
    world.link(&inner, &r3, via.clone()).await;
    // A loop, a link that was removed, and one from a room that is no space.
    world.link(&inner, &root, via.clone()).await;
    world.link(&inner, &r2, json!({})).await;
    world.link(&r1, &r3, via.clone()).await;

    assert_eq!(world.ids(alice, &root, "").await, [&root, &r1, &inner, &r3, &r2].map(String::clone));
    let (first, next) = world.page(alice, &root, "?limit=3").await;
    assert_eq!(first.len(), 3);
    assert_eq!(first[0].1, [&r1, &inner, &r2, &"!unknown:example.org".to_owned()].map(String::clone));
    assert!(first[1].1.is_empty());
    let next = next.unwrap();
    assert_eq!(world.ids(alice, &root, &format!("?from={next}")).await, [&r3, &r2].map(String::clone));
    for other in [format!("?from={next}&max_depth=1"), format!("?from={next}&suggested_only=true")] {
        let path = format!("/_matrix/client/v1/rooms/{root}/hierarchy{other}");
        let answer = world.server.call_as(alice, Method::GET, &path, "").await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM".to_owned()));
    }
    assert_eq!(world.ids(alice, &root, "?max_depth=1").await, [&root, &r1, &inner, &r2].map(String::clone));
    let suggested = world.ids(alice, &root, "?suggested_only=true").await;
    assert_eq!(suggested, [&root, &r1, &r2].map(String::clone));

    world.link(&root, &r2, json!({"via": ["example.org"], "order": "a"})).await;
    assert_eq!(world.ids(alice, &root, "?max_depth=1").await, [&root, &r2, &r1, &inner].map(String::clone));
}

#[tokio::test]
async fn what_one_may_not_know_of_is_left_out_with_what_is_below() {
    let world = World::new().await;
    let root = world.room("public_chat", Some("m.space")).await;
    let inner = world.room("private_chat", Some("m.space")).await;
    let below = world.room("public_chat", None).await;
    let via = json!({"via": ["example.org"]});
    world.link(&root, &inner, via.clone()).await;
    world.link(&inner, &below, via).await;
    let bob = world.bob.as_str();
    assert_eq!(world.ids(bob, &root, "").await, std::slice::from_ref(&root));
    for room in [inner.as_str(), "!none:example.org"] {
        let path = format!("/_matrix/client/v1/rooms/{room}/hierarchy");
        let answer = world.server.call_as(bob, Method::GET, &path, "").await;
        assert_eq!(answer.error(), (403, "M_FORBIDDEN".to_owned()));
    }
    let invite = json!({"user_id": "@bob:example.org"}).to_string();
    let path = format!("/_matrix/client/v3/rooms/{inner}/invite");
    assert_eq!(world.server.call_as(&world.alice, Method::POST, &path, invite).await.status, 200);
    assert_eq!(world.ids(bob, &root, "").await, [root, inner, below]);
}
