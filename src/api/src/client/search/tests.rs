//! Searching over HTTP: results, what stands around them, groups, pages.

use http::Method;
use serde_json::{Value, json};

use crate::testing::TestApp;

async fn search(app: &TestApp, token: &str, query: &str, room_events: Value) -> Value {
    let body = json!({ "search_categories": { "room_events": room_events } }).to_string();
    let path = format!("/_matrix/client/v3/search{query}");
    let answer = app.call_as(token, Method::POST, &path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["search_categories"]["room_events"].clone()
}

#[tokio::test]
async fn results_come_with_what_was_asked_for() {
    let app = TestApp::new().await;
    let token = app.sign_in("@alice:example.org", |_| {}).await;
    let room = app.call_as(&token, Method::POST, "/_matrix/client/v3/createRoom", "{}").await.json();
    let room = room["room_id"].as_str().unwrap();
    for number in 1..=7 {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
        let body = json!({ "msgtype": "m.text", "body": format!("Message number {number}") }).to_string();
        app.call_as(&token, Method::PUT, &path, body).await;
    }
    let asked = json!({
        "search_term": "Message 4", "keys": ["content.body"], "order_by": "recent",
        "filter": { "limit": 1, "rooms": [room] }, "include_state": true,
        "event_context": { "before_limit": 2, "after_limit": 2, "include_profile": true },
        "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
    });
    let found = search(&app, &token, "", asked.clone()).await;
    let bodies = |events: &Value| {
        let events = events.as_array().unwrap().iter();
        events.map(|event| event["content"]["body"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((&found["count"], &found["highlights"]), (&json!(1), &json!(["message", "4"])));
    let result = &found["results"][0];
    assert_eq!(result["result"]["content"]["body"], "Message number 4");
    assert_eq!(result["result"]["room_id"], room);
    assert_eq!(bodies(&result["context"]["events_before"]), ["Message number 3", "Message number 2"]);
    assert_eq!(bodies(&result["context"]["events_after"]), ["Message number 5", "Message number 6"]);
    assert!(result["context"]["start"].is_string() && result["context"]["end"].is_string());
    assert!(result["context"]["profile_info"]["@alice:example.org"].is_object());
    assert!(found["state"][room].as_array().unwrap().len() > 3);
    let id = &result["result"]["event_id"];
    assert_eq!(found["groups"]["room_id"][room]["results"], json!([id]));
    assert_eq!(found["groups"]["sender"]["@alice:example.org"]["results"], json!([id]));
    let next = format!("?next_batch={}", found["next_batch"].as_str().unwrap());
    let end = search(&app, &token, &next, asked).await;
    assert_eq!((&end["count"], &end["results"], end.get("next_batch")), (&json!(1), &json!([]), None));
    // Nothing for those who are not in the room, named or not.
    let bob = app.sign_in("@bob:example.org", |_| {}).await;
    for filter in [json!({}), json!({ "rooms": [room] })] {
        let found = search(&app, &bob, "", json!({ "search_term": "message", "filter": filter })).await;
        assert_eq!((&found["count"], &found["results"]), (&json!(0), &json!([])));
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let app = TestApp::new().await;
    let token = app.sign_in("@alice:example.org", |_| {}).await;
    let path = "/_matrix/client/v3/search";
    let body = json!({ "search_categories": { "room_events": { "search_term": "x" } } }).to_string();
    let wrong = app.call_as(&token, Method::POST, &format!("{path}?next_batch=x"), body.clone()).await;
    assert_eq!(wrong.error(), (400, "M_INVALID_PARAM".to_owned()));
    assert_eq!(app.call(Method::POST, path, body).await.error(), (401, "M_MISSING_TOKEN".to_owned()));
    let empty = app.call_as(&token, Method::POST, path, json!({ "search_categories": {} }).to_string()).await;
    assert_eq!(empty.json(), json!({ "search_categories": {} }));
}
