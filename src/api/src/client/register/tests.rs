//! Registration through the router.

use allod_server::config::accounts::Registration;
use http::Method;
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp, config};

const REGISTER: &str = "/_matrix/client/v3/register";

async fn server(mode: Registration) -> TestApp {
    let mut config = config();
    config.accounts.registration = mode;
    config.accounts.guests = true;
    TestApp::with(config, crate::router::build).await
}

async fn register(server: &TestApp, body: &Value) -> Answer {
    server.call(Method::POST, REGISTER, body.to_string()).await
}

#[tokio::test]
async fn flows_are_shown_first_even_if_there_is_nothing_to_show() {
    let server = server(Registration::Open).await;
    let answer = register(&server, &json!({})).await;
    assert_eq!(answer.status, 401);
    let body = answer.json();
    assert_eq!(body["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    assert_eq!(body["params"], json!({}));
    let wanted = json!({
        "username": "bob",
        "password": "übers3kr1t",
        "device_id": "xyzzy",
        "auth": { "type": "m.login.dummy", "session": body["session"] },
    });
    let answer = register(&server, &wanted).await;
    assert_eq!(answer.json()["user_id"], "@bob:example.org", "{}", answer.text);
    assert_eq!(answer.json()["device_id"], "xyzzy");
}

#[tokio::test]
async fn names_are_lowered_and_refused_with_their_own_errcodes() {
    let server = server(Registration::Open).await;
    let auth = json!({ "type": "m.login.dummy" });
    let wanted = |name: &str| json!({ "username": name, "password": "correct horse", "auth": auth });
    let answer = register(&server, &wanted("user-UPPER")).await;
    assert_eq!(answer.json()["user_id"], "@user-upper:example.org");
    for letter in ["!", "\"", ":", "?", "\\", "@", "[", "]", "{", "|", "}", "£", "é", "\n", "'"] {
        let answer = register(&server, &wanted(&format!("user-{letter}-reject"))).await;
        assert_eq!(answer.error(), (400, "M_INVALID_USERNAME".to_owned()), "{letter}");
    }
    let taken = register(&server, &json!({ "username": "user-upper", "password": "correct horse" })).await;
    assert_eq!(taken.error(), (400, "M_USER_IN_USE".to_owned()));
    let weak = register(&server, &json!({ "username": "bob", "password": "weak" })).await;
    assert_eq!(weak.error(), (400, "M_WEAK_PASSWORD".to_owned()));
    let none = register(&server, &json!({ "username": "bob", "auth": auth })).await;
    assert_eq!(none.error(), (400, "M_MISSING_PARAM".to_owned()));
    let available = "/_matrix/client/v3/register/available?username=";
    for (name, status, errcode) in
        [("bob", 200, ""), ("user-upper", 400, "M_USER_IN_USE"), ("a,b", 400, "M_INVALID_USERNAME")]
    {
        let answer = server.call(Method::GET, &format!("{available}{name}"), "").await;
        assert_eq!(answer.error(), (status, errcode.to_owned()));
    }
}

#[tokio::test]
async fn an_account_may_be_made_without_a_session() {
    let server = server(Registration::Open).await;
    let body = json!({
        "username": "bob", "password": "correct horse", "inhibit_login": true, "auth": { "type": "m.login.dummy" },
    });
    assert_eq!(register(&server, &body).await.json(), json!({ "user_id": "@bob:example.org" }));
}

#[tokio::test]
async fn closed_registration_is_forbidden_to_all_but_the_guests_that_are_allowed() {
    let server = server(Registration::Closed).await;
    let body = json!({ "username": "bob", "password": "correct horse", "auth": { "type": "m.login.dummy" } });
    assert_eq!(register(&server, &body).await.error(), (403, "M_FORBIDDEN".to_owned()));
    let guest = server.call(Method::POST, "/_matrix/client/v3/register?kind=guest", body.to_string()).await;
    let token = guest.json()["access_token"].as_str().unwrap().to_owned();
    let who = server.call_as(&token, Method::GET, "/_matrix/client/v3/account/whoami", "").await;
    assert_eq!(who.json()["is_guest"], true);
    let refused = server.call_as(&token, Method::POST, "/_matrix/client/v3/account/password", "{}").await;
    assert_eq!(refused.error(), (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned()));
    let odd = server.call(Method::POST, "/_matrix/client/v3/register?kind=odd", "{}").await;
    assert_eq!(odd.error(), (400, "M_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn a_registration_token_opens_the_door_as_often_as_it_says() {
    let server = server(Registration::Token).await;
    let limits = allod_server::registration_tokens::Limits { uses_allowed: Some(1), expires_ms: None };
    let actor = allod_server::audit::Actor::Operator;
    server.app.registration_tokens.create(actor, Some("friends".to_owned()), limits).await.unwrap();
    let path = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
    for (token, valid) in [("friends", true), ("enemies", false), ("", false)] {
        let answer = server.call(Method::GET, &format!("{path}{token}"), "").await;
        assert_eq!(answer.json(), json!({ "valid": valid }));
    }
    let wanted =
        |name: &str, auth: Value| json!({ "username": name, "password": "correct horse", "auth": auth });
    let shown = |token: &str| json!({ "type": "m.login.registration_token", "token": token });
    let answer = register(&server, &wanted("bob", shown("enemies"))).await;
    assert_eq!(answer.error(), (401, "M_FORBIDDEN".to_owned()));
    let skipped = register(&server, &wanted("bob", json!({ "type": "m.login.dummy" }))).await;
    assert_eq!(skipped.error(), (401, "M_FORBIDDEN".to_owned()));
    let answer = register(&server, &wanted("bob", shown("friends"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = register(&server, &wanted("alice", shown("friends"))).await;
    assert_eq!(answer.error(), (401, "M_FORBIDDEN".to_owned()));
}

/// CVE-2020-26891: what the page is given is not run.
#[tokio::test]
async fn cve_2020_26891_fallback_pages_complete_a_stage_and_echo_nothing() {
    let server = server(Registration::Open).await;
    let session = register(&server, &json!({})).await.json()["session"].as_str().unwrap().to_owned();
    let page = "/_matrix/client/v3/auth/m.login.dummy/fallback/web";
    let forged = server.call(Method::GET, &format!("{page}?session=%22%3E%3Cscript%3E"), "").await;
    assert_eq!(forged.status, 404);
    assert!(!forged.text.contains("<script>"));
    let shown = server.call(Method::GET, &format!("{page}?session={session}"), "").await;
    assert_eq!(shown.headers["x-frame-options"], "DENY");
    assert!(shown.text.contains(&session));
    let ack = json!({ "username": "bob", "password": "correct horse", "auth": { "session": session } });
    assert_eq!(register(&server, &ack).await.status, 401);
    let done = server.call(Method::POST, page, format!("session={session}")).await;
    assert!(done.text.contains("onAuthDone"), "{}", done.text);
    assert_eq!(register(&server, &ack).await.json()["user_id"], "@bob:example.org");
}
