//! Accounts: made, signed in to, kept.

use axum::http::Method;
use serde_json::{Value, json};

use crate::server::TestServer;

#[tokio::test]
async fn a_session_lasts_until_it_is_ended() {
    let server = TestServer::new().await;
    let anna = server.register("anna").await;
    let whoami = "/_matrix/client/v3/account/whoami";
    let expected = json!({ "user_id": anna.user_id, "device_id": anna.device_id });
    assert_eq!(server.get(&anna, whoami).await.ok(), expected);

    let server = server.restart().await;
    assert_eq!(server.get(&anna, whoami).await.ok(), expected);

    let again = server.log_in("anna").await;
    server.post(&again, "/_matrix/client/v3/logout", json!({})).await.ok();
    assert_eq!(server.get(&again, whoami).await.refusal(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(server.get(&anna, whoami).await.ok(), expected);
}

#[tokio::test]
async fn registration_is_closed_unless_opened() {
    let mut config = crate::server::config();
    config.accounts.registration = allod_server::config::Registration::Closed;
    let server = TestServer::with(config).await;
    let body = json!({ "username": "anna", "password": "long enough", "auth": { "type": "m.login.dummy" } });
    let answer = server.anonymously(Method::POST, "/_matrix/client/v3/register", body).await;
    assert_eq!(answer.refusal(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let server = TestServer::new().await;
    let unknown = server.anonymously(Method::GET, "/_matrix/client/v3/nothing", Value::Null).await;
    assert_eq!(unknown.refusal(), (404, "M_UNRECOGNIZED"));
    let wrong_method = server.anonymously(Method::PATCH, "/_matrix/client/v3/login", Value::Null).await;
    assert_eq!(wrong_method.refusal(), (405, "M_UNRECOGNIZED"));
}
