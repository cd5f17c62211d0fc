//! Mutual rooms through the router.

use http::Method;
use serde_json::json;

use crate::testing::TestApp;

#[tokio::test]
async fn rooms_that_both_have_joined() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let create = json!({"preset": "public_chat", "invite": ["@bob:example.org"]}).to_string();
        let room = server.call_as(&alice, Method::POST, "/_matrix/client/v3/createRoom", create).await.json();
        rooms.push(room["room_id"].as_str().unwrap().to_owned());
    }
    for room in &rooms[1..] {
        let path = format!("/_matrix/client/v3/rooms/{room}/join");
        assert_eq!(server.call_as(&bob, Method::POST, &path, "{}").await.status, 200);
    }
    let path = "/_matrix/client/v1/mutual_rooms?user_id=";
    for (token, other) in [(&alice, "@bob:example.org"), (&bob, "@alice:example.org")] {
        let answer = server.call_as(token, Method::GET, &format!("{path}{other}"), "").await;
        assert_eq!(answer.json(), json!({"count": 2, "joined": &rooms[1..]}));
    }
    let nobody = server.call_as(&alice, Method::GET, &format!("{path}@nobody:example.com"), "").await;
    assert_eq!(nobody.json(), json!({"count": 0, "joined": []}));
    for bad in ["@alice:example.org", "@bob:example.org&from=x"] {
        let answer = server.call_as(&alice, Method::GET, &format!("{path}{bad}"), "").await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM".to_owned()), "{bad}");
    }
}

#[tokio::test]
async fn many_rooms_come_in_pages() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    for _ in 0..101 {
        let create = json!({"preset": "public_chat"}).to_string();
        let room = server.call_as(&alice, Method::POST, "/_matrix/client/v3/createRoom", create).await.json();
        let path = format!("/_matrix/client/v3/rooms/{}/join", room["room_id"].as_str().unwrap());
        assert_eq!(server.call_as(&bob, Method::POST, &path, "{}").await.status, 200);
    }
    let path = "/_matrix/client/v1/mutual_rooms?user_id=@bob:example.org";
    let first = server.call_as(&alice, Method::GET, path, "").await.json();
    assert_eq!((&first["count"], first["joined"].as_array().unwrap().len()), (&json!(101), 100));
    let from = first["next_batch"].as_str().unwrap();
    let last = server.call_as(&alice, Method::GET, &format!("{path}&from={from}"), "").await.json();
    assert_eq!((&last["count"], last["joined"].as_array().unwrap().len()), (&json!(101), 1));
    assert_eq!(last.get("next_batch"), None);
}
