//! What clients could not verify is refused, and changes nothing.

use super::*;
use crate::random::Random;

/// Whether a refusal is of this kind.
type Refusal = fn(&KeyError) -> bool;

const MALFORMED: Refusal = |error| matches!(error, KeyError::Malformed(_));
const INVALID: Refusal = |error| matches!(error, KeyError::Invalid(_));
const SIGNATURE: Refusal = |error| matches!(error, KeyError::Signature(_));

/// An upload of everything, as JSON that a test changes.
fn whole(client: &Client) -> Value {
    let object = |key: Value, kind: &str| json!({ format!("signed_curve25519:{kind}"): key });
    let fallback = json!({ "key": base64(&[5; 32]), "fallback": true });
    json!({
        "device_keys": client.device_keys(),
        "one_time_keys": object(client.one_time_key("a"), "a"),
        "fallback_keys": object(sign(fallback, &client.user_id, &client.pair), "f"),
    })
}

fn upload_of(whole: &Value) -> Upload {
    let claimable = |part: &str| -> BTreeMap<String, Box<RawValue>> {
        let keys = whole[part].as_object().into_iter().flatten();
        keys.map(|(id, key)| (id.clone(), raw(key))).collect()
    };
    Upload {
        device_keys: whole.get("device_keys").map(raw),
        one_time_keys: claimable("one_time_keys"),
        fallback_keys: claimable("fallback_keys"),
    }
}

fn without(mut value: Value, pointer: &str, field: &str) -> Value {
    value.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(field);
    value
}

fn with(mut value: Value, pointer: &str, new: Value) -> Value {
    *value.pointer_mut(pointer).unwrap() = new;
    value
}

/// Uploads of device keys in which one thing is wrong.
fn wrong_device_keys(client: &Client, stranger: &Client) -> Vec<(&'static str, Value, Refusal)> {
    let user_id = &client.user_id;
    let signed_by_stranger = |key: Value| sign(key, user_id, &stranger.pair);
    let signed = |keys: Value| sign(keys, user_id, &client.pair);
    let unsigned = client.unsigned_device_keys();
    let device_keys = |keys: Value| json!({ "device_keys": keys });
    let signing = "/keys/ed25519:A";
    // No point of the curve has this y.
    let mut no_point = [0; 32];
    no_point[0] = 2;
    vec![
        ("device keys signed by another", device_keys(signed_by_stranger(unsigned.clone())), SIGNATURE),
        (
            "changed after signing",
            device_keys(with(client.device_keys(), "/algorithms", json!([]))),
            SIGNATURE,
        ),
        (
            "a signature that is none",
            device_keys(with(client.device_keys(), "/signatures/@alice:example.org/ed25519:A", json!("abc"))),
            SIGNATURE,
        ),
        ("no base64", device_keys(signed(with(unsigned.clone(), signing, json!("***")))), INVALID),
        ("31 bytes", device_keys(signed(with(unsigned.clone(), signing, json!(base64(&[1; 31]))))), INVALID),
        (
            "no point of the curve",
            device_keys(signed(with(unsigned.clone(), signing, json!(base64(&no_point))))),
            INVALID,
        ),
        (
            "a short curve25519 key",
            device_keys(signed(with(
                unsigned.clone(),
                "/keys",
                json!({ "ed25519:A": base64(&client.pair.public_key()), "curve25519:A": base64(&[1; 31]) }),
            ))),
            INVALID,
        ),
        (
            "olm without a curve25519 key",
            device_keys(signed(with(unsigned, "/algorithms", json!(["m.olm.v1.curve25519-aes-sha2"])))),
            MALFORMED,
        ),
    ]
}

/// Uploads of one-time keys in which one thing is wrong.
fn wrong_one_time_keys(client: &Client, stranger: &Client) -> Vec<(&'static str, Value, Refusal)> {
    let user_id = &client.user_id;
    let signed_by_stranger = |key: Value| sign(key, user_id, &stranger.pair);
    let signed = |keys: Value| sign(keys, user_id, &client.pair);
    let one_time = |key: Value| json!({ "device_keys": client.device_keys(), "one_time_keys": key });
    let id = "signed_curve25519:a";
    let key = client.one_time_key("a");
    vec![
        (
            "a one-time key of 31 bytes",
            one_time(json!({ id: signed(json!({ "key": base64(&[1; 31]) })) })),
            INVALID,
        ),
        ("a one-time key without a key", one_time(json!({ id: signed(json!({})) })), INVALID),
        ("a one-time key as a string", one_time(json!({ id: base64(&[1; 32]) })), MALFORMED),
        (
            "an unsigned one-time key",
            one_time(json!({ id: without(key.clone(), "", "signatures") })),
            SIGNATURE,
        ),
        (
            "a one-time key signed by another",
            one_time(json!({ id: signed_by_stranger(json!({ "key": base64(&[1; 32]) })) })),
            SIGNATURE,
        ),
        (
            "changed after signing",
            one_time(json!({ id: with(key.clone(), "/key", json!(base64(&[2; 32]))) })),
            SIGNATURE,
        ),
        ("one good and one bad", one_time(json!({ id: key.clone(), "signed_curve25519:b": {} })), INVALID),
        ("an old unsigned key that is none", one_time(json!({ "curve25519:a": "abc" })), INVALID),
        ("a number", one_time(json!({ "other:a": 1 })), MALFORMED),
        ("no identity to verify with", json!({ "one_time_keys": { id: key } }), INVALID),
    ]
}

#[tokio::test]
async fn what_cannot_be_verified_is_refused_and_changes_nothing() {
    let world = world().await;
    let (alice, bob) = (world.client("alice", "A").await, world.client("bob", "B").await);
    let before = world.fixture.store.head();
    let wrong = wrong_device_keys(&alice, &bob).into_iter().chain(wrong_one_time_keys(&alice, &bob));
    for (what, object, refusal) in wrong {
        let error = world.upload(&alice, upload_of(&object)).await.expect_err(what);
        assert!(refusal(&error), "{what}: {error:?}");
        assert_eq!(world.fixture.store.head(), before, "{what}");
    }
    let as_fallback =
        json!({ "device_keys": alice.device_keys(), "fallback_keys": { "signed_curve25519:a": {} } });
    assert!(INVALID(&world.upload(&alice, upload_of(&as_fallback)).await.unwrap_err()));
    world.upload(&alice, upload_of(&whole(&alice))).await.unwrap();
}

/// No client believes them; Complement uploads such, with random bytes for keys.
#[tokio::test]
async fn unsigned_device_keys_are_taken_flagged_and_counted() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    world.upload_device_keys(&alice).await;
    let view = world.keys.view(alice.user, alice.device).await.unwrap();
    assert_eq!((view.device_keys_signed, world.keys.unsigned_uploads()), (Some(true), 0));
    let mut no_point = [0; 32];
    no_point[0] = 2;
    let unsigned = with(alice.unsigned_device_keys(), "/keys/ed25519:A", json!(base64(&no_point)));
    world.upload(&alice, upload_of(&json!({ "device_keys": unsigned }))).await.unwrap();
    let view = world.keys.view(alice.user, alice.device).await.unwrap();
    assert_eq!((view.device_keys_signed, world.keys.unsigned_uploads()), (Some(false), 1));
    let short = with(unsigned, "/keys/ed25519:A", json!("short"));
    assert!(INVALID(&world.upload(&alice, upload_of(&json!({ "device_keys": short }))).await.unwrap_err()));
}

#[tokio::test]
async fn a_refusal_names_the_key_and_says_what_is_wrong() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let mut object = whole(&alice);
    object["one_time_keys"]["signed_curve25519:a"]["key"] = json!(base64(&[2; 32]));
    let said = world.upload(&alice, upload_of(&object)).await.unwrap_err().to_string();
    assert_eq!(
        said,
        "`signed_curve25519:a`: the signature by `ed25519:A` does not fit the object's canonical JSON without \
         `signatures` and `unsigned`"
    );
}

/// Keys of algorithms that nobody here knows are for those who claim them by name.
#[tokio::test]
async fn keys_of_other_algorithms_are_taken_as_they_are() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let keys = json!({ "other:a": "what they are", "other:b": { "x": 1 }, "curve25519:c": base64(&[1; 32]) });
    let left = world.upload(&alice, upload_of(&json!({ "one_time_keys": keys }))).await.unwrap();
    assert_eq!(left.one_time, [("curve25519".to_owned(), 1), ("other".to_owned(), 2)]);
}

/// Whether clients take what they are given: every signature of the device fits.
fn is_verifiable(client: &Client, object: &RawValue) -> bool {
    let mut object: Value = serde_json::from_str(object.get()).unwrap();
    let signature = object["signatures"][client.user_id.as_str()]["ed25519:A"].take();
    let object = object.as_object_mut().unwrap();
    object.remove("signatures");
    object.remove("unsigned");
    let key = vodozemac::Ed25519PublicKey::from_base64(&base64(&client.pair.public_key())).unwrap();
    let signature = vodozemac::Ed25519Signature::from_base64(signature.as_str().unwrap()).unwrap();
    // Without floats and escapes, serde_json's compact form with sorted keys is canonical.
    key.verify(serde_json::to_string(&object).unwrap().as_bytes(), &signature).is_ok()
}

/// Changes one character of one string, key or value, somewhere in an object.
fn damage(random: &Random, object: &Value) -> Option<Value> {
    let mut text = object.to_string().into_bytes();
    let [high, low, letter] = random.bytes::<3>();
    let at = usize::from(u16::from_be_bytes([high, low])) % text.len();
    if !text[at].is_ascii_alphanumeric() {
        return None;
    }
    text[at] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"[usize::from(letter) % 64];
    serde_json::from_slice(&text).ok()
}

/// Whatever is uploaded, others are shown and given only what they can verify.
#[tokio::test]
async fn nothing_is_shown_or_given_out_that_a_client_must_reject() {
    let random = Random::seeded(7);
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let good = whole(&alice);
    let (mut taken, mut refused) = (0, 0);
    while taken + refused < 400 {
        let Some(bad) = damage(&random, &good).filter(|bad| *bad != good) else { continue };
        let before = world.fixture.store.head();
        if world.upload(&alice, upload_of(&bad)).await.is_ok() {
            taken += 1;
        } else {
            refused += 1;
            assert_eq!(world.fixture.store.head(), before, "{bad}");
        }
        let shown = world.query(&alice, &alice).await;
        // Clients pass over what has no signature.
        let signed =
            |object: &RawValue| object.get().contains(r#""signatures":{"@alice:example.org":{"ed25519:A""#);
        for object in shown.device_keys[&alice.user_id].values().filter(|object| signed(object)) {
            assert!(is_verifiable(&alice, object), "{bad}: {object}");
        }
        let wanted = BTreeMap::from([(alice.device_id.clone(), "signed_curve25519".to_owned())]);
        let claimed = world.keys.claim(&Claims::from([(alice.user_id.clone(), wanted)])).await.unwrap();
        for object in claimed.into_values().flatten().flat_map(|(_, keys)| keys).map(|(_, key)| key) {
            assert!(is_verifiable(&alice, &object), "{bad}: {object}");
        }
    }
    assert!(taken > 0 && refused > 300, "{taken} {refused}");
}

#[tokio::test]
async fn a_device_with_another_identity_starts_anew() {
    let world = world().await;
    let (mut alice, bob) = (world.client("alice", "A").await, world.client("bob", "B").await);
    let cross_signing = CrossSigning::new(&alice);
    let mut keys = cross_signing.upload();
    keys.master = Some(raw(&sign(cross_signing.master.1.clone(), &alice.user_id, &alice.pair)));
    world.upload(&alice, upload_of(&whole(&alice))).await.unwrap();
    world.keys.set_cross_signing(alice.user, &alice.user_id, &keys).await.unwrap();
    let master =
        async |alice: &Client| world.query(alice, alice).await.master_keys[&alice.user_id].get().to_owned();
    assert!(master(&alice).await.contains("ed25519:A"));
    // The same id with another key pair, as after its client forgot everything but the token.
    alice.pair = pair(Some("A")).0;
    let left = world.upload_one_time(&alice, &["a", "b"]).await.unwrap();
    assert_eq!((left.one_time, left.unused_fallback.len()), (vec![("signed_curve25519".to_owned(), 2)], 0));
    assert!(!master(&alice).await.contains("ed25519:A"), "the signature is of a key that is gone");
    let shown = world.query(&bob, &alice).await;
    assert!(is_verifiable(&alice, &shown.device_keys[&alice.user_id][&alice.device_id]));
    for _ in 0..2 {
        assert!(world.claim(&alice).await.is_some());
    }
    assert_eq!(world.claim(&alice).await, None, "the fallback key was signed by a key that is gone");
}

#[tokio::test]
async fn cross_signing_keys_that_are_none_are_refused() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let good = CrossSigning::new(&alice);
    let stranger = CrossSigning::new(&alice);
    let short = base64(&[1; 31]);
    let before = world.fixture.store.head();
    let of_another = CrossSigningUpload { self_signing: stranger.upload().self_signing, ..good.upload() };
    let no_key =
        CrossSigningUpload { master: Some(raw(&alice.cross_signing_key("master", &short))), ..good.upload() };
    let cases: [(CrossSigningUpload, Refusal); 2] = [(of_another, SIGNATURE), (no_key, INVALID)];
    for (upload, refusal) in cases {
        let error = world.keys.set_cross_signing(alice.user, &alice.user_id, &upload).await.unwrap_err();
        assert!(refusal(&error), "{error:?}");
        assert_eq!(world.fixture.store.head(), before);
    }
}
