//! Signing in through the router.

use allod_server::config::{Period, Rate, accounts::Registration};
use http::Method;
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp, config};

const LOGIN: &str = "/_matrix/client/v3/login";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

async fn server() -> TestApp {
    let mut config = config();
    config.accounts.registration = Registration::Open;
    TestApp::with(config, crate::router::build).await
}

/// A server with the account @bob:example.org, and his access token.
async fn with_bob() -> (TestApp, String) {
    let server = server().await;
    let body = json!({ "username": "bob", "password": "correct horse", "auth": { "type": "m.login.dummy" } });
    let answer = server.call(Method::POST, "/_matrix/client/v3/register", body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    (server, token)
}

async fn login(server: &TestApp, body: Value) -> Answer {
    server.call(Method::POST, LOGIN, body.to_string()).await
}

fn by(identifier: impl Into<Value>, password: &str) -> Value {
    json!({ "type": "m.login.password", "identifier": identifier.into(), "password": password })
}

fn user(name: &str) -> Value {
    json!({ "type": "m.id.user", "user": name })
}

#[tokio::test]
async fn register_login_whoami_logout() {
    let (server, first) = with_bob().await;
    let answer = login(&server, by(user("bob"), "correct horse")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    let who = server.call_as(&token, Method::GET, WHOAMI, "").await.json();
    assert_eq!(who, json!({ "user_id": "@bob:example.org", "device_id": answer.json()["device_id"] }));
    let logout = "/_matrix/client/v3/logout";
    assert_eq!(server.call_as(&token, Method::POST, logout, "").await.json(), json!({}));
    let gone = server.call_as(&token, Method::GET, WHOAMI, "").await;
    assert_eq!(gone.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
    assert_eq!(server.call_as(&first, Method::GET, WHOAMI, "").await.status, 200);
    let all = server.call_as(&first, Method::POST, "/_matrix/client/v3/logout/all", "").await;
    assert_eq!(all.json(), json!({}));
    assert_eq!(server.call_as(&first, Method::GET, WHOAMI, "").await.status, 401);
}

#[tokio::test]
async fn users_are_named_in_many_ways() {
    let (server, _) = with_bob().await;
    let legacy = json!({ "type": "m.login.password", "user": "bob", "password": "correct horse" });
    for body in [
        by(user("bob"), "correct horse"),
        by(user("@bob:example.org"), "correct horse"),
        by(user("@BOB:example.org"), "correct horse"),
        legacy,
    ] {
        let answer = login(&server, body.clone()).await;
        assert_eq!(answer.json()["user_id"], "@bob:example.org", "{body} {}", answer.text);
    }
    let email = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "bob@example.org" });
    let phone = json!({ "type": "m.id.phone", "country": "GB", "phone": "123" });
    let address = json!({ "type": "m.login.password", "medium": "email", "address": "b@x", "password": "x" });
    for (body, status, errcode) in [
        (by(user("bob"), "wrong"), 403, "M_FORBIDDEN"),
        (by(user("bob"), ""), 403, "M_FORBIDDEN"),
        (by(user("nobody"), "correct horse"), 403, "M_FORBIDDEN"),
        (by(user("@bob:example.com"), "correct horse"), 403, "M_FORBIDDEN"),
        (by(email, "correct horse"), 403, "M_FORBIDDEN"),
        (by(phone, "correct horse"), 403, "M_FORBIDDEN"),
        (address, 403, "M_FORBIDDEN"),
        (by(json!({ "type": "m.id.odd" }), "x"), 400, "M_UNKNOWN"),
        (json!({ "type": "m.login.password", "password": "x" }), 400, "M_MISSING_PARAM"),
        (json!({ "type": "m.login.password", "identifier": user("bob") }), 400, "M_MISSING_PARAM"),
        (json!({ "type": "m.login.odd" }), 400, "M_UNKNOWN"),
        (json!({ "type": "m.login.token", "token": "x" }), 400, "M_UNKNOWN"),
        (json!({ "identifier": user("bob"), "password": "x" }), 400, "M_MISSING_PARAM"),
        (json!({ "type": 1 }), 400, "M_MISSING_PARAM"),
    ] {
        let answer = login(&server, body.clone()).await;
        assert_eq!(answer.error(), (status, errcode.to_owned()), "{body} {}", answer.text);
    }
}

#[tokio::test]
async fn the_wanted_device_is_signed_in_and_its_earlier_tokens_are_void() {
    let (server, _) = with_bob().await;
    let mut body = by(user("bob"), "correct horse");
    body["device_id"] = "PHONE".into();
    body["initial_device_display_name"] = "phone".into();
    let one = login(&server, body.clone()).await.json();
    body["initial_device_display_name"] = "ignored".into();
    let two = login(&server, body).await.json();
    assert_eq!((&one["device_id"], &two["device_id"]), (&json!("PHONE"), &json!("PHONE")));
    let (one, two) = (one["access_token"].as_str().unwrap(), two["access_token"].as_str().unwrap());
    assert_eq!(server.call_as(one, Method::GET, WHOAMI, "").await.status, 401);
    let device = server.call_as(two, Method::GET, "/_matrix/client/v3/devices/PHONE", "").await.json();
    assert_eq!(device["display_name"], "phone");
}

#[tokio::test]
async fn tokens_are_refreshed_and_expire_softly() {
    let (server, _) = with_bob().await;
    let mut body = by(user("bob"), "correct horse");
    body["refresh_token"] = true.into();
    let issued = login(&server, body).await.json();
    assert_eq!(issued["expires_in_ms"], 300_000);
    let token = issued["access_token"].as_str().unwrap();
    server.clock.advance(std::time::Duration::from_secs(300));
    let expired = server.call_as(token, Method::GET, WHOAMI, "").await;
    assert_eq!(expired.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
    assert_eq!(expired.json()["soft_logout"], true);
    let refresh = json!({ "refresh_token": issued["refresh_token"] }).to_string();
    let path = "/_matrix/client/v3/refresh";
    let fresh = server.call(Method::POST, path, refresh.clone()).await.json();
    assert_eq!(fresh["expires_in_ms"], 300_000);
    let token = fresh["access_token"].as_str().unwrap();
    assert_eq!(server.call_as(token, Method::GET, WHOAMI, "").await.status, 200);
    let used = server.call(Method::POST, path, refresh).await;
    assert_eq!(used.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
}

#[tokio::test]
async fn guessing_is_slowed_down_however_the_name_is_written() {
    let mut config = config();
    config.accounts.registration = Registration::Open;
    config.limits.rates = true;
    config.limits.failed_logins = Rate::new(1, Period::Minute, 3);
    config.limits.logins = Rate::new(1000, Period::Second, 1000);
    let server = TestApp::with(config, crate::router::build).await;
    let mut refused = Vec::new();
    for name in ["bob", "@bob:example.org", "BOB", "@Bob:example.org", "bob"] {
        refused.push(login(&server, by(user(name), "guess")).await.status.as_u16());
    }
    assert_eq!(refused, [403, 403, 403, 429, 429]);
    assert_eq!(login(&server, by(user("alice"), "guess")).await.status, 403);
}

#[tokio::test]
async fn passwords_can_be_switched_off() {
    let mut config = config();
    config.accounts.passwords = false;
    let server = TestApp::with(config, crate::router::build).await;
    assert_eq!(server.call(Method::GET, LOGIN, "").await.json(), json!({ "flows": [] }));
    let answer = login(&server, by(user("bob"), "correct horse")).await;
    assert_eq!(answer.error(), (400, "M_UNKNOWN".to_owned()));
    let on = server_flows().await;
    assert_eq!(on, json!({ "flows": [{ "type": "m.login.password" }] }));
}

async fn server_flows() -> Value {
    server().await.call(Method::GET, LOGIN, "").await.json()
}
