//! Dehydrated devices through the router.

use http::Method;
use ruma::{
    CanonicalJsonObject,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp};

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// What a client uploads; ids of such devices are keys in base64.
fn upload(device_id: &str) -> Value {
    let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), device_id.to_owned()).unwrap();
    let public = Base64::<Standard, _>::new(pair.public_key().to_vec()).encode();
    let mut device_keys: CanonicalJsonObject = serde_json::from_value(json!({
        "user_id": "@alice:example.org", "device_id": device_id, "algorithms": [], "dehydrated": true,
        "keys": { format!("ed25519:{device_id}"): public },
    }))
    .unwrap();
    sign_json("@alice:example.org", &pair, &mut device_keys).unwrap();
    let data = json!({ "algorithm": "org.matrix.msc3814.v2", "device_pickle": "pickle", "nonce": "nonce" });
    json!({
        "device_id": device_id, "initial_device_display_name": "Dehydrated device",
        "device_data": data, "device_keys": device_keys,
    })
}

#[tokio::test]
async fn a_client_leaves_a_device_and_another_wakes_it() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let call = async |token: &str, method: Method, path: &str, body: &Value| -> Answer {
        server.call_as(token, method, path, body.to_string()).await
    };
    let nothing = json!({});
    let not_found = (404, "M_NOT_FOUND".to_owned());
    assert_eq!(call(&alice, Method::GET, PATH, &nothing).await.error(), not_found);
    assert_eq!(call(&alice, Method::DELETE, PATH, &nothing).await.error(), not_found);
    let device_id = "a/b+c";
    let mut without_keys = upload(device_id);
    without_keys.as_object_mut().unwrap().remove("device_keys");
    assert_eq!(call(&alice, Method::PUT, PATH, &without_keys).await.status, 400);
    let mut forged = upload(device_id);
    forged["device_keys"]["algorithms"] = json!(["changed"]);
    let forged = call(&alice, Method::PUT, PATH, &forged).await;
    assert_eq!(forged.error(), (400, "M_INVALID_SIGNATURE".to_owned()));
    let new = upload(device_id);
    let put = call(&alice, Method::PUT, PATH, &new).await;
    assert_eq!((put.status.as_u16(), put.json()), (200, json!({ "device_id": device_id })));
    let got = call(&alice, Method::GET, PATH, &nothing).await.json();
    assert_eq!(got, json!({ "device_id": device_id, "device_data": new["device_data"] }));

    let message = json!({ "messages": { "@alice:example.org": { device_id: { "key": 1 } } } });
    let send = "/_matrix/client/v3/sendToDevice/m.test/1";
    assert_eq!(call(&bob, Method::PUT, send, &message).await.status, 200);
    let events = format!("{PATH}/a%2Fb%2Bc/events");
    let page = call(&alice, Method::POST, &events, &nothing).await.json();
    let expected = json!([{ "type": "m.test", "sender": "@bob:example.org", "content": { "key": 1 } }]);
    assert_eq!(page["events"], expected);
    let next = json!({ "next_batch": page["next_batch"] });
    assert_eq!(call(&alice, Method::POST, &events, &next).await.json()["events"], json!([]));
    let wrong = call(&alice, Method::POST, &events, &json!({ "next_batch": "s1" })).await;
    assert_eq!(wrong.error(), (400, "M_INVALID_PARAM".to_owned()));
    let forbidden = (403, "M_FORBIDDEN".to_owned());
    assert_eq!(call(&bob, Method::POST, &events, &nothing).await.error(), forbidden);
    assert_eq!(
        call(&alice, Method::POST, &format!("{PATH}/OTHER/events"), &nothing).await.error(),
        forbidden
    );

    let devices = call(&alice, Method::GET, "/_matrix/client/v3/devices", &nothing).await.json();
    let ids: Vec<&Value> =
        devices["devices"].as_array().unwrap().iter().map(|row| &row["device_id"]).collect();
    assert!(ids.contains(&&json!(device_id)), "it is listed as any other: {ids:?}");
    let deleted = call(&alice, Method::DELETE, PATH, &nothing).await;
    assert_eq!(deleted.json(), json!({ "device_id": device_id }));
    assert_eq!(call(&alice, Method::GET, PATH, &nothing).await.error(), not_found);
}
