//! Jumping to a date through the router.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::testing::TestApp;

#[tokio::test]
async fn the_nearest_event_in_each_direction() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let before = server.clock.now_ms();
    server.clock.advance(Duration::from_secs(1));
    let create = json!({"preset": "public_chat"}).to_string();
    let room = server.call_as(&alice, Method::POST, "/_matrix/client/v3/createRoom", create).await.json();
    let room = room["room_id"].as_str().unwrap();
    let mut sent = Vec::new();
    for number in 0..4_u8 {
        // The second and third have the same time.
        server.clock.advance(Duration::from_secs(if number == 2 { 0 } else { 10 }));
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
        let message = json!({"msgtype": "m.text", "body": "x"}).to_string();
        let event = server.call_as(&alice, Method::PUT, &path, message).await.json();
        sent.push((server.clock.now_ms(), event["event_id"].as_str().unwrap().to_owned()));
    }
    let path =
        |ts: u64, dir: &str| format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir={dir}");
    for (ts, dir, found) in [
        (sent[0].0, "f", &sent[0]),
        (sent[0].0, "b", &sent[0]),
        (sent[0].0 + 1, "f", &sent[1]),
        (sent[1].0, "f", &sent[1]),
        (sent[1].0, "b", &sent[2]),
        (sent[3].0 + 1, "b", &sent[3]),
    ] {
        let answer = server.call_as(&alice, Method::GET, &path(ts, dir), "").await.json();
        assert_eq!(answer, json!({"event_id": found.1, "origin_server_ts": found.0}), "{ts} {dir}");
    }
    for (ts, dir) in [(before, "b"), (sent[3].0 + 1, "f")] {
        let answer = server.call_as(&alice, Method::GET, &path(ts, dir), "").await;
        assert_eq!(answer.error(), (404, "M_NOT_FOUND".to_owned()));
    }
    let refused = server.call_as(&bob, Method::GET, &path(before, "f"), "").await;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN".to_owned()));
}
