//! Devices, passwords and deactivation through the router, with user-interactive authentication before them.

use allod_server::config::accounts::Registration;
use http::Method;
use serde_json::{Value, json};

use crate::testing::{TestApp, config};

const PASSWORD: &str = "correct horse";

async fn server() -> TestApp {
    let mut config = config();
    config.accounts.registration = Registration::Open;
    TestApp::with(config, crate::router::build).await
}

async fn register(server: &TestApp, name: &str) -> String {
    let body = json!({ "username": name, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    let answer = server.call(Method::POST, "/_matrix/client/v3/register", body.to_string()).await;
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

async fn login(server: &TestApp, name: &str, device: &str) -> String {
    let identifier = json!({ "type": "m.id.user", "user": name });
    let body = json!({
        "type": "m.login.password", "identifier": identifier, "password": PASSWORD, "device_id": device,
    });
    let answer = server.call(Method::POST, "/_matrix/client/v3/login", body.to_string()).await;
    answer.json()["access_token"].as_str().unwrap_or_default().to_owned()
}

fn auth(name: &str, password: &str) -> Value {
    let identifier = json!({ "type": "m.id.user", "user": name });
    json!({ "type": "m.login.password", "identifier": identifier, "password": password })
}

#[tokio::test]
async fn devices_are_listed_named_and_deleted() {
    let server = server().await;
    let (bob, _) = (register(&server, "bob").await, register(&server, "alice").await);
    let phone = login(&server, "bob", "PHONE").await;
    let path = "/_matrix/client/v3/devices/PHONE";
    let missing = "/_matrix/client/v3/devices/TABLET";
    assert_eq!(server.call_as(&bob, Method::GET, missing, "").await.error().0, 404);
    let rename = json!({ "display_name": "my phone" }).to_string();
    assert_eq!(server.call_as(&bob, Method::PUT, missing, rename.clone()).await.error().0, 404);
    assert_eq!(server.call_as(&bob, Method::PUT, path, rename).await.json(), json!({}));
    let device = server.call_as(&bob, Method::GET, path, "").await.json();
    assert_eq!((&device["device_id"], &device["display_name"]), (&json!("PHONE"), &json!("my phone")));
    let list = server.call_as(&bob, Method::GET, "/_matrix/client/v3/devices", "").await.json();
    assert_eq!(list["devices"].as_array().unwrap().len(), 2);
    assert_eq!(list["devices"][0]["last_seen_ip"], "127.0.0.0");

    let delete = |body: String| server.call_as(&bob, Method::DELETE, path, body);
    let asked = delete(String::new()).await;
    assert_eq!(asked.status, 401);
    for key in ["session", "flows", "params"] {
        assert!(asked.json().get(key).is_some(), "{key}");
    }
    let wrong = delete(json!({ "auth": auth("bob", "wrong") }).to_string()).await;
    assert_eq!(wrong.error(), (401, "M_FORBIDDEN".to_owned()));
    assert!(wrong.json().get("session").is_some());
    let other = delete(json!({ "auth": auth("alice", PASSWORD) }).to_string()).await;
    assert_eq!(other.error(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(server.call_as(&bob, Method::GET, path, "").await.status, 200);
    let right = json!({ "auth": auth("bob", PASSWORD) }).to_string();
    assert_eq!(delete(right.clone()).await.json(), json!({}));
    assert_eq!(delete(right).await.status, 200);
    assert_eq!(server.call_as(&bob, Method::GET, path, "").await.status, 404);
    let signed_out = server.call_as(&phone, Method::GET, "/_matrix/client/v3/devices", "").await;
    assert_eq!(signed_out.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
}

#[tokio::test]
async fn many_devices_are_deleted_at_once() {
    let server = server().await;
    let bob = register(&server, "bob").await;
    for device in ["A", "B", "C"] {
        login(&server, "bob", device).await;
    }
    let body = json!({ "devices": ["A", "C", "gone"], "auth": auth("bob", PASSWORD) });
    let path = "/_matrix/client/v3/delete_devices";
    assert_eq!(server.call_as(&bob, Method::POST, path, body.to_string()).await.json(), json!({}));
    let list = server.call_as(&bob, Method::GET, "/_matrix/client/v3/devices", "").await.json();
    assert_eq!(list["devices"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() {
    let server = server().await;
    let bob = register(&server, "bob").await;
    let (phone, tablet) = (login(&server, "bob", "PHONE").await, login(&server, "bob", "TABLET").await);
    let path = "/_matrix/client/v3/account/password";
    let change = |token: String, body: Value| {
        let server = &server;
        async move { server.call_as(&token, Method::POST, path, body.to_string()).await }
    };
    let weak = change(bob.clone(), json!({ "new_password": "weak" })).await;
    assert_eq!(weak.error(), (400, "M_WEAK_PASSWORD".to_owned()));
    let body = json!({ "new_password": "a new password", "auth": auth("bob", "wrong") });
    assert_eq!(change(bob.clone(), body).await.error(), (401, "M_FORBIDDEN".to_owned()));
    let body =
        json!({ "new_password": "a new password", "logout_devices": false, "auth": auth("bob", PASSWORD) });
    assert_eq!(change(bob.clone(), body).await.json(), json!({}));
    let whoami = "/_matrix/client/v3/account/whoami";
    assert_eq!(server.call_as(&phone, Method::GET, whoami, "").await.status, 200);
    let body = json!({ "new_password": PASSWORD, "auth": auth("bob", "a new password") });
    assert_eq!(change(tablet.clone(), body).await.json(), json!({}));
    for (token, status) in [(&tablet, 200), (&phone, 401), (&bob, 401)] {
        assert_eq!(server.call_as(token, Method::GET, whoami, "").await.status, status);
    }
    // Without a token, the password says who it is.
    let body = json!({ "new_password": "a third password", "auth": auth("bob", PASSWORD) });
    assert_eq!(server.call(Method::POST, path, body.to_string()).await.json(), json!({}));
    assert_eq!(server.call_as(&tablet, Method::GET, whoami, "").await.status, 401);
}

#[tokio::test]
async fn sec16_a_deactivated_account_is_closed() {
    let server = server().await;
    let bob = register(&server, "bob").await;
    let path = "/_matrix/client/v3/account/deactivate";
    let asked = server.call_as(&bob, Method::POST, path, "{}").await;
    assert_eq!(asked.json()["flows"], json!([{ "stages": ["m.login.password"] }]));
    let body = json!({ "auth": auth("bob", "wrong") }).to_string();
    assert_eq!(server.call_as(&bob, Method::POST, path, body).await.error(), (401, "M_FORBIDDEN".to_owned()));
    let body = json!({ "auth": auth("bob", PASSWORD), "erase": true }).to_string();
    let done = server.call_as(&bob, Method::POST, path, body).await;
    assert_eq!(done.json(), json!({ "id_server_unbind_result": "no-support" }));
    assert_eq!(login(&server, "bob", "NEW").await, "");
    let whoami = server.call_as(&bob, Method::GET, "/_matrix/client/v3/account/whoami", "").await;
    assert_eq!(whoami.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
}

#[tokio::test]
async fn openid_tokens_are_for_oneself() {
    let server = server().await;
    let bob = register(&server, "bob").await;
    let path = |user: &str| format!("/_matrix/client/v3/user/{user}/openid/request_token");
    let answer = server.call_as(&bob, Method::POST, &path("@bob:example.org"), "{}").await.json();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!((&answer["expires_in"], &answer["matrix_server_name"]), (&json!(3600), &json!("example.org")));
    let other = server.call_as(&bob, Method::POST, &path("@alice:example.org"), "{}").await;
    assert_eq!(other.error(), (403, "M_FORBIDDEN".to_owned()));
}

#[tokio::test]
async fn there_are_no_addresses() {
    let server = server().await;
    let bob = register(&server, "bob").await;
    let list = server.call_as(&bob, Method::GET, "/_matrix/client/v3/account/3pid", "").await;
    assert_eq!(list.json(), json!({ "threepids": [] }));
    let email = json!({ "client_secret": "x", "email": "bob@example.org", "send_attempt": 1 }).to_string();
    for path in ["register/email", "account/password/email", "account/3pid/email"] {
        let path = format!("/_matrix/client/v3/{path}/requestToken");
        let answer = server.call_as(&bob, Method::POST, &path, email.clone()).await;
        assert_eq!(answer.error(), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn settings_of_a_device_go_with_it() {
    let server = server().await;
    let bob = register(&server, "bob").await;
    for kind in ["m", "org.matrix.msc3890"] {
        let phone = login(&server, "bob", "PHONE").await;
        let path = |device: &str| {
            format!(
                "/_matrix/client/v3/user/@bob:example.org/account_data/{kind}.local_notification_settings.{device}"
            )
        };
        for device in ["PHONE", "OTHER"] {
            let content = json!({ "is_silenced": true }).to_string();
            assert_eq!(server.call_as(&bob, Method::PUT, &path(device), content).await.status, 200);
        }
        let logout = "/_matrix/client/v3/logout";
        assert_eq!(server.call_as(&phone, Method::POST, logout, "").await.status, 200);
        let gone = server.call_as(&bob, Method::GET, &path("PHONE"), "").await;
        assert_eq!(gone.error(), (404, "M_NOT_FOUND".to_owned()));
        assert_eq!(server.call_as(&bob, Method::GET, &path("OTHER"), "").await.status, 200);
    }
}
