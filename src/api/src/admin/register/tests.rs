//! Registration with the shared secret through the router.

use std::{fs, os::unix::fs::PermissionsExt};

use allod_server::config::SecretFile;
use http::Method;
use serde_json::json;

use crate::testing::{TestApp, config};

const PATH: &str = "/_synapse/admin/v1/register";

#[tokio::test]
async fn there_is_no_such_endpoint_without_a_secret() {
    let server = TestApp::new().await;
    assert_eq!(server.call(Method::GET, PATH, "").await.error(), (404, "M_UNRECOGNIZED".to_owned()));
    assert_eq!(server.call(Method::POST, PATH, "{}").await.error(), (404, "M_UNRECOGNIZED".to_owned()));
}

#[tokio::test]
async fn a_wrong_signature_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "hush").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = config();
    config.accounts.registration_secret = Some(SecretFile::new(&file));
    let server = TestApp::with(config, crate::router::build).await;
    let nonce = server.call(Method::GET, PATH, "").await.json()["nonce"].clone();
    let mut body = json!({
        "nonce": nonce, "username": "bob", "password": "correct horse", "admin": false, "mac": "00",
    });
    let wrong = server.call(Method::POST, PATH, body.to_string()).await;
    assert_eq!(wrong.error(), (403, "M_FORBIDDEN".to_owned()), "{}", wrong.text);
    let used = server.call(Method::POST, PATH, body.to_string()).await;
    assert_eq!(used.error(), (400, "M_UNKNOWN".to_owned()));
    body.as_object_mut().unwrap().remove("mac");
    let missing = server.call(Method::POST, PATH, body.to_string()).await;
    assert_eq!(missing.error(), (400, "M_MISSING_PARAM".to_owned()), "{}", missing.text);
}
