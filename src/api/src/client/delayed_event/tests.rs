//! Delayed events through the router: sent, restarted, cancelled, given up.

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Answer, TestApp};

const ALL: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";

struct World {
    server: TestApp,
    token: String,
    room: String,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let token = server.sign_in("@alice:example.org", |_| {}).await;
    let room = server.call_as(&token, Method::POST, "/_matrix/client/v3/createRoom", "{}").await.json();
    let room = format!("/_matrix/client/v3/rooms/{}", room["room_id"].as_str().unwrap());
    World { server, token, room }
}

impl World {
    async fn put(&self, path: &str, delay_ms: u64, body: &Value) -> Answer {
        let path = format!("{}/{path}?org.matrix.msc4140.delay={delay_ms}", self.room);
        self.server.call_as(&self.token, Method::PUT, &path, body.to_string()).await
    }

    async fn delay(&self, path: &str, delay_ms: u64, body: &Value) -> String {
        let answer = self.put(path, delay_ms, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["delay_id"].as_str().unwrap().to_owned()
    }

    async fn waiting(&self) -> Vec<Value> {
        let answer = self.server.call_as(&self.token, Method::GET, ALL, "").await.json();
        answer["delayed_events"].as_array().unwrap().clone()
    }

    async fn act(&self, delay_id: &str, action: &str) -> u16 {
        let path = format!("{ALL}/{delay_id}/{action}");
        self.server.call(Method::POST, &path, "{}").await.status.as_u16()
    }

    /// Lets time pass, and what is due be sent.
    async fn pass(&self, milliseconds: u64) {
        self.server.clock.advance(Duration::from_millis(milliseconds));
        self.server.app.delayed_events.send_due().await.unwrap();
    }

    async fn state(&self, key: &str) -> Value {
        let path = format!("{}/state/org.example.test/{key}", self.room);
        let answer = self.server.call_as(&self.token, Method::GET, &path, "").await;
        if answer.status == 404 { Value::Null } else { answer.json() }
    }

    async fn sent(&self) -> Vec<Value> {
        let path = format!("{}/messages?dir=b&limit=100", self.room);
        let page = self.server.call_as(&self.token, Method::GET, &path, "").await.json();
        let events = page["chunk"].as_array().unwrap().iter();
        events
            .filter(|event| event["type"] == "org.example.test")
            .map(|event| event["content"].clone())
            .collect()
    }
}

#[tokio::test]
async fn a_delayed_event_is_sent_once_when_its_time_has_come() {
    let world = world().await;
    let id = world.delay("send/org.example.test/1", 900, &json!({ "n": 1 })).await;
    assert_eq!(world.delay("send/org.example.test/1", 900, &json!({ "n": 1 })).await, id);
    world.delay("state/org.example.test/key", 500, &json!({ "n": 2 })).await;
    let waiting = world.waiting().await;
    assert_eq!(waiting.len(), 2);
    assert_eq!(waiting[0]["state_key"], "key");
    assert_eq!((&waiting[1]["delay"], &waiting[1]["content"]), (&json!(900), &json!({ "n": 1 })));
    world.pass(499).await;
    assert_eq!(world.waiting().await.len(), 2);
    world.pass(1).await;
    assert_eq!(world.state("key").await, json!({ "n": 2 }));
    world.pass(1000).await;
    world.pass(1000).await;
    assert_eq!(world.waiting().await.len(), 0);
    assert_eq!(world.sent().await, [json!({ "n": 1 }), json!({ "n": 2 })]);
    assert_eq!(world.delay("send/org.example.test/1", 900, &json!({ "n": 1 })).await, id);
    assert_eq!(world.waiting().await.len(), 0, "it was sent already");
    assert_eq!(world.act(&id, "send").await, 404);
}

#[tokio::test]
async fn whoever_knows_the_id_may_restart_send_or_cancel() {
    let world = world().await;
    let cancelled = world.delay("state/org.example.test/cancelled", 1000, &json!({})).await;
    let sent = world.delay("state/org.example.test/sent", 1_000_000, &json!({ "x": 1 })).await;
    let restarted = world.delay("state/org.example.test/restarted", 1000, &json!({ "x": 2 })).await;
    assert_eq!(world.act(&cancelled, "cancel").await, 200);
    assert_eq!(world.act(&cancelled, "cancel").await, 404);
    assert_eq!(world.act(&sent, "send").await, 200);
    assert_eq!(world.act(&sent, "oops").await, 404);
    assert_eq!(world.state("sent").await, json!({ "x": 1 }));
    world.pass(999).await;
    assert_eq!(world.act(&restarted, "restart").await, 200);
    world.pass(999).await;
    assert_eq!((world.state("restarted").await, world.state("cancelled").await), (Value::Null, Value::Null));
    world.pass(1).await;
    assert_eq!(world.state("restarted").await, json!({ "x": 2 }));
    assert!(world.waiting().await.is_empty());
}

#[tokio::test]
async fn events_that_a_room_does_not_take_are_given_up() {
    let world = world().await;
    world.delay("send/org.example.test/1", 10, &json!({})).await;
    world.delay("state/org.example.test/same", 10, &json!({ "x": 1 })).await;
    world.delay("state/org.example.test/same", 20, &json!({ "x": 1 })).await;
    world.pass(10).await;
    world.pass(10).await;
    assert!(world.waiting().await.is_empty(), "state that is so already is done");
    world.delay("send/org.example.test/2", 10, &json!({ "x": 2 })).await;
    let leave = format!("{}/leave", world.room);
    assert_eq!(world.server.call_as(&world.token, Method::POST, &leave, "{}").await.status, 200);
    world.pass(10).await;
    assert!(world.waiting().await.is_empty());
    assert!(!world.sent().await.contains(&json!({ "x": 2 })));
}

#[tokio::test]
async fn delays_have_bounds() {
    let world = world().await;
    let long = world.put("send/org.example.test/1", 86_400_001, &json!({})).await;
    assert_eq!(long.error(), (400, "ORG.MATRIX.MSC4140.M_MAX_DELAY_EXCEEDED".to_owned()));
    assert_eq!(long.json()["org.matrix.msc4140.max_delay"], 86_400_000);
    for number in 0..100 {
        world.delay(&format!("send/org.example.test/{number}"), 86_400_000, &json!({})).await;
    }
    let many = world.put("send/org.example.test/100", 1, &json!({})).await;
    assert_eq!(many.error(), (400, "ORG.MATRIX.MSC4140.M_MAX_DELAYED_EVENTS_EXCEEDED".to_owned()));
    let other = world.server.sign_in("@bob:example.org", |_| {}).await;
    let path = format!("{}/send/org.example.test/1?org.matrix.msc4140.delay=1", world.room);
    let answer = world.server.call_as(&other, Method::PUT, &path, "{}").await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(world.server.call(Method::GET, ALL, "").await.status, 401);
}
