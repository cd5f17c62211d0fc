//! Sliding sync through the router.

use http::Method;
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp};

const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

struct World {
    server: TestApp,
    token: String,
    room: String,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let token = server.sign_in("@alice:example.org", |_| {}).await;
    let body = json!({ "name": "Kitchen" }).to_string();
    let room = server.call_as(&token, Method::POST, "/_matrix/client/v3/createRoom", body).await.json();
    World { server, token, room: room["room_id"].as_str().unwrap().to_owned() }
}

impl World {
    async fn post(&self, query: &str, body: Value) -> Answer {
        let path = format!("{PATH}?{query}");
        self.server.call_as(&self.token, Method::POST, &path, body.to_string()).await
    }

    async fn say(&self, id: &str) -> String {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{id}", self.room);
        let body = json!({ "msgtype": "m.text", "body": id }).to_string();
        let answer = self.server.call_as(&self.token, Method::PUT, &path, body).await;
        answer.json()["event_id"].as_str().unwrap().to_owned()
    }
}

fn lists() -> Value {
    json!({ "all": {
        "ranges": [[0, 19]],
        "timeline_limit": 1,
        "required_state": [["m.room.name", ""], ["m.room.member", "$ME"], ["m.room.member", "$LAZY"]],
        "filters": { "not_room_types": ["m.space"] },
    } })
}

#[tokio::test]
async fn a_connection_begins_goes_on_and_is_forgotten() {
    let world = world().await;
    world.say("one").await;
    let first =
        world.post("timeout=0", json!({ "lists": lists(), "conn_id": "a", "txn_id": "t" })).await.json();
    assert_eq!((&first["txn_id"], &first["lists"]), (&json!("t"), &json!({ "all": { "count": 1 } })));
    let room = &first["rooms"][&world.room];
    assert_eq!((&room["name"], &room["initial"]), (&json!("Kitchen"), &json!(true)), "{first}");
    assert_eq!(room["timeline"][0]["content"]["body"], "one");
    assert_eq!((&room["limited"], &room["num_live"]), (&json!(true), &json!(0)));
    assert_eq!(room["required_state"].as_array().unwrap().len(), 2);
    let pos = first["pos"].as_str().unwrap().to_owned();
    world.say("two").await;
    let body = json!({ "lists": lists(), "conn_id": "a" });
    let query = format!("timeout=0&pos={pos}");
    let next = world.post(&query, body.clone()).await.json();
    let room = &next["rooms"][&world.room];
    assert_eq!(room["timeline"][0]["content"]["body"], "two", "{next}");
    assert_eq!(room.get("required_state"), None);
    assert_eq!(room["num_live"], 1);
    // The answer got lost: the same again.
    let again = world.post(&query, body.clone()).await.json();
    assert_eq!(next["rooms"], again["rooms"]);
    // Also where the place is in the body.
    let third = json!({ "lists": lists(), "conn_id": "a", "pos": again["pos"] });
    let third = world.post("timeout=0", third).await.json();
    assert_eq!(third["rooms"], json!({}));
    // The connection has gone on from there.
    let unknown = (400, "M_UNKNOWN_POS".to_owned());
    assert_eq!(world.post(&query, body.clone()).await.error(), unknown);
    let other = json!({ "lists": lists(), "conn_id": "b", "pos": third["pos"] });
    assert_eq!(world.post("", other).await.error(), unknown);
    for bad in ["x", "s1_1_0.0", "s1_1_0.0~1.1", "s1_1_0.0~zz.1"] {
        assert_eq!(world.post(&format!("pos={bad}"), body.clone()).await.error(), unknown, "{bad}");
    }
    let device = world.server.sign_in("@alice:example.org", |_| {}).await;
    let body = json!({ "lists": lists(), "conn_id": "a", "pos": third["pos"] }).to_string();
    assert_eq!(world.server.call_as(&device, Method::POST, PATH, body).await.error(), unknown);
}

#[tokio::test]
async fn what_clients_send_wrong_is_refused() {
    let world = world().await;
    let many: Value =
        (0..101).map(|number| (number.to_string(), json!({}))).collect::<serde_json::Map<_, _>>().into();
    for (body, expected) in [
        (json!({ "lists": many }), "M_INVALID_PARAM"),
        (json!({ "conn_id": "x".repeat(300) }), "M_INVALID_PARAM"),
        (json!({ "lists": { "x".repeat(300): {} } }), "M_INVALID_PARAM"),
        (json!({ "lists": { "a": { "required_state": [["x", "y".repeat(20_000)]] } } }), "M_INVALID_PARAM"),
        (json!({ "lists": { "a": { "ranges": [[-1, 2]] } } }), "M_BAD_JSON"),
        (json!({ "lists": [] }), "M_BAD_JSON"),
        (json!({ "extensions": { "to_device": { "enabled": true, "since": "x" } } }), "M_INVALID_PARAM"),
    ] {
        assert_eq!(world.post("", body.clone()).await.error(), (400, expected.to_owned()), "{body}");
    }
    assert_eq!(
        world.server.call(Method::POST, PATH, "{}").await.error(),
        (401, "M_MISSING_TOKEN".to_owned())
    );
    let empty = world.post("", json!({})).await.json();
    assert_eq!((&empty["rooms"], &empty["extensions"]), (&json!({}), &json!({})));
}

#[tokio::test]
async fn followed_threads_come_and_are_paged_through() {
    let world = world().await;
    let follow = async |root: &str, method: Method| {
        let path = format!(
            "/_matrix/client/unstable/io.element.msc4306/rooms/{}/thread/{root}/subscription",
            world.room
        );
        assert_eq!(world.server.call_as(&world.token, method, &path, "{}").await.status, 200);
    };
    let name = "io.element.msc4308.thread_subscriptions";
    let body = |limit: usize| json!({ "extensions": { name: { "enabled": true, "limit": limit } } });
    let mut roots = Vec::new();
    for id in ["a", "b", "c"] {
        let root = world.say(id).await;
        follow(&root, Method::PUT).await;
        roots.push(root);
    }
    let first = world.post("", body(2)).await.json();
    let told = &first["extensions"][name];
    let subscribed = &told["subscribed"][&world.room];
    assert_eq!(subscribed.as_object().unwrap().len(), 2, "{told}");
    assert_eq!(subscribed[&roots[2]]["automatic"], false);
    let from = told["prev_batch"].as_str().unwrap();
    let path = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";
    let page =
        world.server.call_as(&world.token, Method::GET, &format!("{path}?dir=b&from={from}"), "").await;
    let subscribed = &page.json()["subscribed"][&world.room];
    assert!(subscribed[&roots[0]]["bump_stamp"].is_number(), "{}", page.text);
    assert_eq!(subscribed.as_object().unwrap().len(), 1);
    let pos = first["pos"].as_str().unwrap();
    follow(&roots[0], Method::DELETE).await;
    let next = world.post(&format!("pos={pos}"), body(2)).await.json();
    let told = &next["extensions"][name];
    assert!(told["unsubscribed"][&world.room][&roots[0]]["bump_stamp"].is_number(), "{next}");
    assert_eq!((told.get("subscribed"), told.get("prev_batch")), (None, None));
    let page = format!("{path}?dir=b&to={pos}&limit=5");
    let page = world.server.call_as(&world.token, Method::GET, &page, "").await.json();
    assert!(page["unsubscribed"][&world.room].is_object() && page.get("subscribed").is_none(), "{page}");
    let bad = world.server.call_as(&world.token, Method::GET, &format!("{path}?dir=b&from=x"), "").await;
    assert_eq!(bad.error(), (400, "M_INVALID_PARAM".to_owned()));
}
