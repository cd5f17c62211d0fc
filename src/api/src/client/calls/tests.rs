//! Where calls go, over HTTP.

use std::{fs, os::unix::fs::PermissionsExt};

use allod_server::config::SecretFile;
use http::Method;
use serde_json::json;

use crate::{
    router,
    testing::{TestApp, config},
};

const TURN: &str = "/_matrix/client/v3/voip/turnServer";
const TRANSPORTS: &str = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";

#[tokio::test]
async fn without_servers_there_is_nothing_to_tell() {
    let app = TestApp::new().await;
    let token = app.sign_in("@alice:example.org", |_| {}).await;
    assert_eq!(app.call_as(&token, Method::GET, TURN, "").await.json(), json!({}));
    assert_eq!(
        app.call_as(&token, Method::GET, TRANSPORTS, "").await.json(),
        json!({ "rtc_transports": [] })
    );
    assert_eq!(app.call(Method::GET, TURN, "").await.error(), (401, "M_MISSING_TOKEN".to_owned()));
}

#[tokio::test]
async fn clients_are_given_credentials_for_the_turn_servers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "secret").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = config();
    config.calls.turn_uris = vec!["turn:turn.example.org".to_owned()];
    config.calls.turn_secret = Some(SecretFile::new(&file));
    let app = TestApp::with(config, router::build).await;
    let token = app.sign_in("@alice:example.org", |_| {}).await;
    let given = app.call_as(&token, Method::GET, TURN, "").await.json();
    assert_eq!((&given["uris"], &given["ttl"]), (&json!(["turn:turn.example.org"]), &json!(86_400)));
    assert!(given["username"].as_str().unwrap().ends_with(":@alice:example.org"));
    assert_eq!(given["password"].as_str().unwrap().len(), 28);
}

/// As Element Call does it: where is the service, a token that says who one is, and the service asks whose it is.
#[tokio::test]
async fn a_conference_is_found_and_its_service_learns_who_comes() {
    let mut config = config();
    config.server.public_url = Some("https://matrix.example.org".to_owned());
    config.server.federation_address = Some("matrix.example.org:443".to_owned());
    config.calls.livekit_url = Some("https://livekit.example.org/jwt".to_owned());
    let app = TestApp::with(config, router::build).await;
    let token = app.sign_in("@alice:example.org", |_| {}).await;
    let transport = json!({ "type": "livekit", "livekit_service_url": "https://livekit.example.org/jwt" });
    let found = app.call_as(&token, Method::GET, TRANSPORTS, "").await.json();
    assert_eq!(found, json!({ "rtc_transports": [transport] }));
    let document = app.call(Method::GET, "/.well-known/matrix/client", "").await.json();
    assert_eq!(document["org.matrix.msc4143.rtc_foci"], json!([transport]));

    let path = "/_matrix/client/v3/user/@alice:example.org/openid/request_token";
    let given = app.call_as(&token, Method::POST, path, "{}").await.json();
    assert_eq!(
        (&given["matrix_server_name"], &given["token_type"]),
        (&json!("example.org"), &json!("Bearer"))
    );
    // Other servers are spoken to or not.
    let server = app.call(Method::GET, "/.well-known/matrix/server", "").await.json();
    assert_eq!(server, json!({ "m.server": "matrix.example.org:443" }));
    let given = given["access_token"].as_str().unwrap();
    let path = format!("/_matrix/federation/v1/openid/userinfo?access_token={given}");
    assert_eq!(app.call(Method::GET, &path, "").await.json(), json!({ "sub": "@alice:example.org" }));
    let wrong = app.call(Method::GET, "/_matrix/federation/v1/openid/userinfo?access_token=x", "").await;
    assert_eq!(wrong.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
}
