//! Summaries through the router.

use http::Method;
use serde_json::json;

use crate::{
    router,
    testing::{TestApp, config},
};

async fn create(server: &TestApp, token: &str, body: &serde_json::Value) -> String {
    let path = "/_matrix/client/v3/createRoom";
    let answer = server.call_as(token, Method::POST, path, body.to_string()).await;
    answer.json()["room_id"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

fn path(room: &str) -> String {
    format!("/_matrix/client/v1/room_summary/{room}")
}

#[tokio::test]
async fn members_and_those_who_may_join_see_a_summary() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let space = create(&server, &alice, &json!({
        "preset": "public_chat", "creation_content": {"type": "m.space"}, "room_alias_name": "s", "name": "S",
    }))
    .await;
    let rules =
        json!({"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]});
    let restricted = create(
        &server,
        &alice,
        &json!({
            "initial_state": [{"type": "m.room.join_rules", "state_key": "", "content": rules}],
        }),
    )
    .await;
    let private = create(&server, &alice, &json!({"preset": "private_chat"})).await;

    let seen = server.call_as(&alice, Method::GET, &path(&restricted), "").await.json();
    assert_eq!((&seen["join_rule"], &seen["membership"]), (&json!("restricted"), &json!("join")));
    assert_eq!(seen["allowed_room_ids"], json!([space]));
    let seen = server.call_as(&bob, Method::GET, &path("%23s:example.org"), "").await.json();
    assert_eq!((&seen["room_id"], &seen["membership"]), (&json!(space), &json!("leave")));
    assert_eq!((&seen["room_type"], &seen["name"]), (&json!("m.space"), &json!("S")));
    assert_eq!((&seen["num_joined_members"], &seen["room_version"]), (&json!(1), &json!("12")));
    for room in [&restricted, &private, &"!none:example.org".to_owned()] {
        let refused = server.call_as(&bob, Method::GET, &path(room), "").await;
        assert_eq!(refused.error(), (404, "M_NOT_FOUND".to_owned()), "{room}");
    }
    let join = format!("/_matrix/client/v3/rooms/{space}/join");
    assert_eq!(server.call_as(&bob, Method::POST, &join, "{}").await.status, 200);
    let unstable = format!("/_matrix/client/unstable/im.nheko.summary/summary/{restricted}");
    let seen = server.call_as(&bob, Method::GET, &unstable, "").await;
    assert_eq!(seen.status, 200, "{}", seen.text);
    assert_eq!(seen.json()["membership"], json!("leave"));
}

#[tokio::test]
async fn without_an_account_it_is_as_open_as_the_directory() {
    let server = TestApp::new().await;
    let answer = server.call(Method::GET, &path("!x:example.org"), "").await;
    assert_eq!(answer.error(), (401, "M_MISSING_TOKEN".to_owned()));

    let mut open = config();
    open.rooms.directory_without_account = true;
    let server = TestApp::with(open, router::build).await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let public = create(&server, &alice, &json!({"preset": "public_chat"})).await;
    let private = create(&server, &alice, &json!({"preset": "private_chat"})).await;
    let seen = server.call(Method::GET, &path(&public), "").await;
    assert_eq!(seen.status, 200);
    assert_eq!(seen.json().get("membership"), None);
    assert_eq!(server.call(Method::GET, &path(&private), "").await.status, 404);
}
