//! Searching for users through the router.

use http::Method;
use serde_json::{Value, json};

use crate::testing::TestApp;

async fn put(server: &TestApp, token: &str, path: &str, body: Value) {
    let path = format!("/_matrix/client/v3/{path}");
    let answer = server.call_as(token, Method::PUT, &path, body.to_string()).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
}

async fn create(server: &TestApp, token: &str, body: Value) -> String {
    let path = "/_matrix/client/v3/createRoom";
    let answer = server.call_as(token, Method::POST, path, body.to_string()).await;
    answer.json()["room_id"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

/// The localparts found, and whether there are more.
async fn search(server: &TestApp, token: &str, body: Value) -> (Vec<String>, bool) {
    let path = "/_matrix/client/v3/user_directory/search";
    let answer = server.call_as(token, Method::POST, path, body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    let names = body["results"].as_array().unwrap().iter().map(|user| {
        user["user_id"].as_str().unwrap().trim_start_matches('@').trim_end_matches(":example.org").to_owned()
    });
    (names.collect(), body["limited"].as_bool().unwrap())
}

#[tokio::test]
async fn names_of_one_room_do_not_leak() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@user-alice:example.org", |_| {}).await;
    let bob = server.sign_in("@user-bob:example.org", |_| {}).await;
    let eve = server.sign_in("@user-eve:example.org", |_| {}).await;
    let name = json!({"displayname": "Alice Cooper"});
    put(&server, &alice, "profile/@user-alice:example.org/displayname", name).await;
    create(&server, &alice, json!({"preset": "public_chat"})).await;
    let private = create(&server, &bob, json!({"invite": ["@user-alice:example.org"]})).await;
    let join = format!("/_matrix/client/v3/rooms/{private}/join");
    assert_eq!(server.call_as(&alice, Method::POST, &join, "{}").await.status, 200);
    let member = format!("rooms/{private}/state/m.room.member/@user-alice:example.org");
    put(&server, &alice, &member, json!({"displayname": "Freddy", "membership": "join"})).await;

    let only_alice = (vec!["user-alice".to_owned()], false);
    for token in [&eve, &bob] {
        assert_eq!(search(&server, token, json!({"search_term": "alice COOPER"})).await, only_alice);
    }
    assert_eq!(search(&server, &eve, json!({"search_term": "@user"})).await, only_alice);
    assert_eq!(search(&server, &eve, json!({"search_term": "Freddy"})).await, (vec![], false));
    assert_eq!(search(&server, &eve, json!({"search_term": " "})).await, (vec![], false));
    // Alice is in a public room, where anybody would find her; Bob is not.
    let both = (vec!["user-alice".to_owned(), "user-bob".to_owned()], false);
    assert_eq!(search(&server, &alice, json!({"search_term": "@user"})).await, both);
    assert_eq!(search(&server, &bob, json!({"search_term": "@user"})).await, only_alice);
}

#[tokio::test]
async fn the_best_fit_comes_first_and_the_gone_are_not_found() {
    let server = TestApp::new().await;
    let me = server.sign_in("@me:example.org", |_| {}).await;
    for name in ["xbob", "bobby", "bob"] {
        let token = server.sign_in(&format!("@{name}:example.org"), |_| {}).await;
        create(&server, &token, json!({"preset": "public_chat"})).await;
    }
    server.sign_in("@bob-hidden:example.org", |_| {}).await;
    server.sign_in("@bob-gone:example.org", |account| account.deactivated_ms = Some(1)).await;
    let all = ["bob", "bobby", "xbob"].map(str::to_owned).to_vec();
    assert_eq!(search(&server, &me, json!({"search_term": "BOB"})).await, (all.clone(), false));
    let first = search(&server, &me, json!({"search_term": "bob", "limit": 2})).await;
    assert_eq!(first, (all[..2].to_vec(), true));
}
