//! Pushers and notifications over HTTP.

use http::Method;
use serde_json::json;

use crate::testing::TestApp;

fn pusher(pushkey: &str) -> serde_json::Value {
    json!({
        "pushkey": pushkey, "kind": "http", "app_id": "org.example.app", "app_display_name": "App",
        "device_display_name": "Phone", "profile_tag": "tag", "lang": "en",
        "data": { "url": "https://push.example/_matrix/push/v1/notify", "format": "event_id_only", "x": [1] },
    })
}

#[tokio::test]
async fn pushers_are_set_shown_and_removed() {
    let app = TestApp::new().await;
    let token = app.sign_in("@alice:example.org", |_| {}).await;
    let set = |body: serde_json::Value| {
        app.call_as(&token, Method::POST, "/_matrix/client/v3/pushers/set", body.to_string())
    };
    let shown = || async {
        app.call_as(&token, Method::GET, "/_matrix/client/v3/pushers", "").await.json()["pushers"].clone()
    };
    assert_eq!(shown().await, json!([]));
    assert_eq!(set(pusher("one")).await.status, 200);
    assert_eq!(shown().await, json!([pusher("one")]));
    let mut other = pusher("one");
    other["lang"] = json!("de");
    assert_eq!(set(other.clone()).await.status, 200);
    assert_eq!(shown().await, json!([other]));
    let gone = json!({ "pushkey": "one", "app_id": "org.example.app", "kind": null });
    assert_eq!(set(gone).await.status, 200);
    assert_eq!(shown().await, json!([]));
    for (change, value) in [
        ("/data/url", json!("http://push.example/_matrix/push/v1/notify")),
        ("/data/url", json!("https://push.example/other")),
        ("/kind", json!("pigeon")),
        ("/app_id", json!("a".repeat(65))),
        ("/pushkey", json!("")),
    ] {
        let mut bad = pusher("two");
        *bad.pointer_mut(change).unwrap() = value;
        assert_eq!(set(bad).await.error(), (400, "M_INVALID_PARAM".to_owned()), "{change}");
    }
}

#[tokio::test]
async fn a_pusher_goes_with_its_device() {
    let app = TestApp::new().await;
    let token = app.sign_in("@alice:example.org", |_| {}).await;
    let other = app.sign_in("@alice:example.org", |_| {}).await;
    for (token, pushkey) in [(&token, "one"), (&other, "two")] {
        let body = pusher(pushkey).to_string();
        app.call_as(token, Method::POST, "/_matrix/client/v3/pushers/set", body).await;
    }
    app.call_as(&other, Method::POST, "/_matrix/client/v3/logout", "").await;
    let shown = app.call_as(&token, Method::GET, "/_matrix/client/v3/pushers", "").await.json();
    assert_eq!(shown["pushers"], json!([pusher("one")]));
}

#[tokio::test]
async fn notifications_are_listed() {
    let app = TestApp::new().await;
    let token = app.sign_in("@alice:example.org", |_| {}).await;
    let path = "/_matrix/client/v3/notifications?limit=3";
    assert_eq!(app.call_as(&token, Method::GET, path, "").await.json(), json!({ "notifications": [] }));
    let wrong = app.call_as(&token, Method::GET, "/_matrix/client/v3/notifications?from=x", "").await;
    assert_eq!(wrong.error(), (400, "M_INVALID_PARAM".to_owned()));
}
