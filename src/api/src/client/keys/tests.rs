//! Keys, backups and messages to devices through the router.

use http::Method;
use ruma::{
    CanonicalJsonObject,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp};

struct World {
    server: TestApp,
    alice: String,
    device: String,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let devices = server.call_as(&alice, Method::GET, "/_matrix/client/v3/devices", "").await.json();
    let device = devices["devices"][0]["device_id"].as_str().unwrap().to_owned();
    World { server, alice, device }
}

impl World {
    async fn call(&self, method: Method, path: &str, body: &Value) -> Answer {
        let path = format!("/_matrix/client/v3/{path}");
        self.server.call_as(&self.alice, method, &path, body.to_string()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, body).await
    }
}

/// The object, signed by Alice's device.
fn sign(pair: &Ed25519KeyPair, object: Value) -> Value {
    let mut object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
    sign_json("@alice:example.org", pair, &mut object).unwrap();
    serde_json::to_value(object).unwrap()
}

#[tokio::test]
async fn keys_are_uploaded_queried_and_claimed() {
    let world = world().await;
    let device = &world.device;
    let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), device.clone()).unwrap();
    let public = Base64::<Standard, _>::new(pair.public_key().to_vec()).encode();
    let device_keys = json!({
        "user_id": "@alice:example.org", "device_id": device, "algorithms": [],
        "keys": { format!("ed25519:{device}"): public },
    });
    let device_keys = sign(&pair, device_keys);
    let one_time_key = sign(&pair, json!({ "key": "A".repeat(43) }));
    let mut forged = one_time_key.clone();
    forged["key"] = json!(format!("B{}", "A".repeat(42)));
    let upload =
        |key: &Value| json!({ "device_keys": device_keys, "one_time_keys": { "signed_curve25519:a": key } });
    let refused = world.post("keys/upload", &upload(&forged)).await;
    assert_eq!(refused.error(), (400, "M_INVALID_SIGNATURE".to_owned()));
    let refused = world.post("keys/upload", &upload(&sign(&pair, json!({ "key": "x" })))).await;
    assert_eq!(refused.error(), (400, "M_INVALID_PARAM".to_owned()));
    let uploaded = world.post("keys/upload", &upload(&one_time_key)).await;
    assert_eq!(uploaded.text, r#"{"one_time_key_counts":{"signed_curve25519":1}}"#);
    let query =
        json!({ "device_keys": { "@alice:example.org": [], "@far:elsewhere": [], "@none:example.org": [] } });
    let queried = world.post("keys/query", &query).await.json();
    assert_eq!(queried["device_keys"], json!({ "@alice:example.org": { device: device_keys } }));
    assert_eq!(queried["failures"], json!({ "elsewhere": {} }));
    let claim = json!({ "one_time_keys": { "@alice:example.org": { device: "signed_curve25519" } } });
    let claimed = world.post("keys/claim", &claim).await.json();
    let key = json!({ "signed_curve25519:a": one_time_key });
    assert_eq!(claimed["one_time_keys"], json!({ "@alice:example.org": { device: key } }));
    assert_eq!(world.post("keys/claim", &claim).await.json()["one_time_keys"], json!({}));
    let uploaded = world.post("keys/upload", &json!({})).await;
    assert_eq!(uploaded.text, r#"{"one_time_key_counts":{"signed_curve25519":0}}"#);
    let malformed = json!({ "device_keys": { "user_id": "@alice:example.org", "device_id": device } });
    assert_eq!(world.post("keys/upload", &malformed).await.error(), (400, "M_BAD_JSON".to_owned()));
}

#[tokio::test]
async fn cross_signing_keys_are_replaced_only_after_authentication() {
    let world = world().await;
    let upload = |public: &str| {
        json!({ "master_key": {
            "user_id": "@alice:example.org", "usage": ["master"], "keys": { format!("ed25519:{public}"): public },
        } })
    };
    let (first, second) = ("A".repeat(43), format!("B{}", "A".repeat(42)));
    for _ in 0..2 {
        assert_eq!(world.post("keys/device_signing/upload", &upload(&first)).await.text, "{}");
    }
    let refused = world.post("keys/device_signing/upload", &upload(&second)).await;
    assert_eq!(refused.status, 401);
    assert!(refused.json()["flows"].is_array());
    let unsigned = json!({ "self_signing_key": {
        "user_id": "@alice:example.org", "usage": ["self_signing"], "keys": { format!("ed25519:{second}"): second },
    } });
    let refused = world.post("keys/device_signing/upload", &unsigned).await;
    assert_eq!(refused.error(), (400, "M_INVALID_SIGNATURE".to_owned()));
    let forged = json!({ "@alice:example.org": { &world.device: { "user_id": "@alice:example.org" } } });
    let answer = world.post("keys/signatures/upload", &forged).await.json();
    assert_eq!(answer["failures"]["@alice:example.org"][&world.device]["errcode"], "M_NOT_FOUND");
}

#[tokio::test]
async fn backups_are_made_filled_and_deleted() {
    let world = world().await;
    let none = world.call(Method::GET, "room_keys/version", &json!({})).await;
    assert_eq!(none.error(), (404, "M_NOT_FOUND".to_owned()));
    let body = json!({ "algorithm": "m.megolm_backup.v1", "auth_data": { "foo": "bar" } });
    for version in ["1", "2"] {
        assert_eq!(world.post("room_keys/version", &body).await.json(), json!({ "version": version }));
    }
    let key = json!({
        "first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": { "a": "b" },
    });
    let stored = world.call(Method::PUT, "room_keys/keys/!foo:hs1/s?version=2", &key).await;
    assert_eq!(stored.json(), json!({ "count": 1, "etag": "1" }));
    let old = world.call(Method::PUT, "room_keys/keys/!foo:hs1/s?version=1", &key).await;
    assert_eq!(old.error(), (403, "M_WRONG_ROOM_KEYS_VERSION".to_owned()));
    assert_eq!(old.json()["current_version"], "2");
    let info = world.call(Method::GET, "room_keys/version", &json!({})).await.json();
    assert_eq!(
        info,
        json!({
            "algorithm": "m.megolm_backup.v1", "auth_data": { "foo": "bar" }, "count": 1, "etag": "1", "version": "2",
        })
    );
    let get = async |path: &str| world.call(Method::GET, path, &json!({})).await;
    assert_eq!(get("room_keys/keys/!foo:hs1/s?version=2").await.json(), key);
    assert_eq!(get("room_keys/keys/!foo:hs1/t?version=2").await.error(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(get("room_keys/keys/!bar:hs1?version=2").await.text, r#"{"sessions":{}}"#);
    assert_eq!(get("room_keys/keys?version=1").await.text, r#"{"rooms":{}}"#);
    let all = get("room_keys/keys?version=2").await.json();
    assert_eq!(all, json!({ "rooms": { "!foo:hs1": { "sessions": { "s": key } } } }));
    let deleted = world.call(Method::DELETE, "room_keys/keys?version=2", &json!({})).await;
    assert_eq!(deleted.json(), json!({ "count": 0, "etag": "2" }));
    for _ in 0..2 {
        assert_eq!(world.call(Method::DELETE, "room_keys/version/2", &json!({})).await.text, "{}");
    }
    assert_eq!(get("room_keys/version").await.json()["version"], "1");
    let other = json!({ "algorithm": "other", "auth_data": {} });
    let refused = world.call(Method::PUT, "room_keys/version/1", &other).await;
    assert_eq!(refused.error(), (400, "M_INVALID_PARAM".to_owned()));
}

#[tokio::test]
async fn messages_to_devices_are_taken() {
    let world = world().await;
    let messages = json!({ "messages": { "@alice:example.org": { "*": { "n": 1 } } } });
    let sent = world.call(Method::PUT, "sendToDevice/m.test/1", &messages).await;
    assert_eq!(sent.text, "{}");
    let long = json!({ "messages": { "@alice:example.org": { "*": { "x": "x".repeat(100_000) } } } });
    let refused = world.call(Method::PUT, "sendToDevice/m.test/2", &long).await;
    assert_eq!(refused.error(), (413, "M_TOO_LARGE".to_owned()));
}
