//! Tests of dehydrated devices.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    CanonicalJsonObject,
    signatures::{Ed25519KeyPair, sign_json},
    to_device::DeviceIdOrAllDevices,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    accounts::testing::{Fixture, id},
    database::Range,
    keys::{CrossSigningUpload, Queried},
    numbers::DeviceNumber,
    tables::{Lifetime, all},
    to_device::{Sender, ToDeviceError},
};

struct World {
    fixture: Fixture,
    keys: Keys,
    to_device: ToDevice,
    dehydrated: DehydratedDevices,
    bob: UserNumber,
    phone: DeviceNumber,
}

async fn world() -> World {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let phone = fixture.sign_in(bob, Some("PHONE"), false).await.device;
    let (database, users, devices) =
        (fixture.database.clone(), fixture.users.clone(), fixture.devices.clone());
    let keys = Keys::new(database.clone(), users.clone(), devices.clone());
    let to_device = ToDevice::new(database.clone(), users.clone(), devices.clone(), fixture.clock.clone());
    let dehydrated = DehydratedDevices::new(database, users, devices, keys.clone(), to_device.clone());
    World { fixture, keys, to_device, dehydrated, bob, phone }
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, bytes)
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn pair(name: &str) -> Ed25519KeyPair {
    Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), name.to_owned()).unwrap()
}

fn sign(pair: &Ed25519KeyPair, object: Value) -> Value {
    let mut object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
    sign_json("@bob:example.org", pair, &mut object).unwrap();
    serde_json::to_value(object).unwrap()
}

/// Device keys, signed by the device.
fn device_keys(device_id: &str, pair: &Ed25519KeyPair) -> Value {
    let keys = json!({ format!("ed25519:{device_id}"): base64(&pair.public_key()) });
    let object = json!({
        "user_id": "@bob:example.org", "device_id": device_id, "algorithms": [], "dehydrated": true, "keys": keys,
    });
    sign(pair, object)
}

/// A dehydrated device with one one-time key.
fn new(device_id: &str, device_keys: &Value, pair: &Ed25519KeyPair) -> NewDehydrated {
    let one_time = sign(pair, json!({ "key": base64(&[7; 32]) }));
    NewDehydrated {
        device: WantedDevice { id: Some(device_id.into()), display_name: Some("asleep".to_owned()) },
        data: raw(&json!({ "algorithm": "org.matrix.msc3814.v2", "device_pickle": device_id })),
        keys: Upload {
            device_keys: Some(raw(device_keys)),
            one_time_keys: BTreeMap::from([("signed_curve25519:a".to_owned(), raw(&one_time))]),
            fallback_keys: BTreeMap::new(),
        },
    }
}

fn simple(device_id: &str) -> NewDehydrated {
    let pair = pair(device_id);
    new(device_id, &device_keys(device_id, &pair), &pair)
}

impl World {
    async fn put(&self, new: &NewDehydrated) -> Result<OwnedDeviceId, DehydratedError> {
        self.dehydrated.put(self.bob, &id("bob"), new).await
    }

    async fn send(&self, txn_id: &str, target: &str) -> Result<(), ToDeviceError> {
        let sender = Sender { user_id: &id("bob"), device: self.phone };
        let target = DeviceIdOrAllDevices::DeviceId(target.into());
        let content = raw(&json!({ "n": txn_id }));
        let messages = [(id("bob"), [(target, content)].into())].into();
        self.to_device.send(sender, "m.test", txn_id, &messages).await
    }

    async fn claim(&self, device_id: &str) -> usize {
        let wanted = [(device_id.into(), "signed_curve25519".to_owned())].into();
        let claimed = self.keys.claim(&[(id("bob"), wanted)].into()).await.unwrap();
        claimed.values().flat_map(BTreeMap::values).count()
    }

    async fn query(&self) -> Queried {
        self.keys.query(Some(self.bob), &[(id("bob"), Vec::new())].into()).await.unwrap()
    }

    async fn ids(&self) -> Vec<String> {
        let devices = self.fixture.devices.list(self.bob).await.unwrap();
        devices.iter().map(|device| device.id.to_string()).collect()
    }
}

#[tokio::test]
async fn a_dehydrated_device_is_a_device_and_there_is_one() {
    let world = world().await;
    assert!(matches!(world.dehydrated.get(world.bob).await, Err(DehydratedError::NotFound)));
    let first = simple("FIRST");
    world.put(&first).await.unwrap();
    assert_eq!(world.ids().await, ["PHONE", "FIRST"]);
    let (device_id, data) = world.dehydrated.get(world.bob).await.unwrap();
    assert_eq!((device_id.as_str(), data.as_str()), ("FIRST", first.data.get()));
    let shown = world.query().await.device_keys.remove(&id("bob")).unwrap();
    assert!(shown[&device_id].get().contains(r#""dehydrated":true"#), "clients tell it apart");
    // The same again, as a client sends it that lost the answer: no key is given out a second time.
    assert_eq!(world.claim("FIRST").await, 1);
    let head = world.fixture.store.head();
    world.put(&first).await.unwrap();
    assert_eq!(world.fixture.store.head(), head);
    assert_eq!(world.claim("FIRST").await, 0);
    // Another one takes its place, and nothing of the first is left.
    let number = world.fixture.devices.find(world.bob, "FIRST".into()).await.unwrap().unwrap().number;
    world.send("1", "FIRST").await.unwrap();
    world.put(&simple("SECOND")).await.unwrap();
    assert_eq!(world.ids().await, ["PHONE", "SECOND"]);
    assert_eq!((world.claim("FIRST").await, world.claim("SECOND").await), (0, 1));
    assert!(matches!(
        world.dehydrated.messages(world.bob, "FIRST".into(), None).await,
        Err(DehydratedError::Another)
    ));
    let left = world.fixture.database.scan_all(Range::<Table>::prefix(&(world.bob, number))).await.unwrap();
    assert!(left.is_empty());
    assert_eq!(world.dehydrated.delete(world.bob).await.unwrap(), "SECOND");
    assert_eq!(world.ids().await, ["PHONE"]);
    assert!(matches!(world.dehydrated.delete(world.bob).await, Err(DehydratedError::NotFound)));
    let goes = all().find(|table| table.name == "DehydratedDevice").unwrap().lifetime;
    assert_eq!(goes, Lifetime::Device, "with its user, as all devices");
}

#[tokio::test]
async fn what_is_refused_leaves_the_old_one_as_it_was() {
    let world = world().await;
    world.put(&simple("FIRST")).await.unwrap();
    world.send("1", "FIRST").await.unwrap();
    let (pair_of_device, stranger) = (pair("SECOND"), pair("SECOND"));
    let keys = device_keys("SECOND", &pair_of_device);
    let mut unsigned = keys.clone();
    unsigned["signatures"] = json!({});
    let mut missing = new("SECOND", &keys, &pair_of_device);
    missing.keys.device_keys = None;
    for refused in [
        new("SECOND", &sign(&stranger, unsigned.clone()), &stranger),
        new("SECOND", &keys, &stranger),
        new("SECOND", &unsigned, &pair_of_device),
        missing,
    ] {
        let error = world.put(&refused).await.unwrap_err();
        assert!(matches!(error, DehydratedError::Keys(KeyError::Signature(_))), "{error:?}");
    }
    let mut long = new("SECOND", &keys, &pair_of_device);
    long.data = raw(&json!("x".repeat(DATA_BYTES_MAX)));
    assert!(matches!(world.put(&long).await, Err(DehydratedError::TooLarge)));
    let taken = world.put(&simple("PHONE")).await;
    assert!(matches!(taken, Err(DehydratedError::Device(DeviceError::InUse))), "somebody is signed in to it");
    assert_eq!(world.ids().await, ["PHONE", "FIRST"]);
    let collected = world.dehydrated.messages(world.bob, "FIRST".into(), None).await.unwrap();
    assert_eq!(collected.events.len(), 1);
}

#[tokio::test]
async fn its_messages_are_read_in_pages_and_stay() {
    let world = world().await;
    world.put(&simple("ASLEEP")).await.unwrap();
    for n in 0..250 {
        world.send(&n.to_string(), "ASLEEP").await.unwrap();
    }
    let mut next = None;
    // Who was cut off begins anew.
    for _ in 0..2 {
        let (mut read, mut pages) = (Vec::new(), Vec::new());
        next = None;
        loop {
            let page = world.dehydrated.messages(world.bob, "ASLEEP".into(), next.as_deref()).await.unwrap();
            next = Some(page.next);
            pages.push(page.events.len());
            if page.events.is_empty() {
                break;
            }
            read.extend(page.events);
        }
        assert_eq!(pages, [100, 100, 50, 0]);
        for (n, event) in read.iter().enumerate() {
            assert!(event.get().contains(&format!(r#"{{"n":"{n}"}}"#)));
        }
    }
    world.send("later", "ASLEEP").await.unwrap();
    let page = world.dehydrated.messages(world.bob, "ASLEEP".into(), next.as_deref()).await.unwrap();
    assert_eq!(page.events.len(), 1);
    world.put(&simple("ASLEEP")).await.unwrap();
    let fresh = world.dehydrated.messages(world.bob, "ASLEEP".into(), None).await.unwrap();
    assert!(fresh.events.is_empty(), "a new device under an old id has no messages of the old one");
    for token in ["x", "d", "d1", "d1_", "d1_x", "s1_2"] {
        let answer = world.dehydrated.messages(world.bob, "ASLEEP".into(), Some(token)).await;
        assert!(matches!(answer, Err(DehydratedError::BadToken)), "{token}");
    }
}

#[tokio::test]
async fn messages_wait_for_a_dehydrated_device_for_longer_than_for_others() {
    let world = world().await;
    world.put(&simple("ASLEEP")).await.unwrap();
    for target in ["ASLEEP", "PHONE"] {
        world.send(target, target).await.unwrap();
    }
    world.fixture.clock.advance(Duration::from_secs(200 * 86_400));
    world.send("late", "ASLEEP").await.unwrap();
    assert!(matches!(world.send("later", "PHONE").await, Err(ToDeviceError::Full)));
    let collected = world.dehydrated.messages(world.bob, "ASLEEP".into(), None).await.unwrap();
    assert_eq!(collected.events.len(), 2);
}

#[tokio::test]
async fn the_signature_of_the_self_signing_key_comes_with_it_and_goes_with_it() {
    let world = world().await;
    let [master, own] = ["master", "own"].map(pair);
    let key = |pair: &Ed25519KeyPair, usage: &str| {
        let public = base64(&pair.public_key());
        json!({ "user_id": "@bob:example.org", "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
    };
    let signed_by = |pair: &Ed25519KeyPair, mut object: Value| {
        // The id of a cross-signing key is its public part.
        let id = format!("ed25519:{}", base64(&pair.public_key()));
        let before = object["signatures"].take();
        object.as_object_mut().unwrap().remove("signatures");
        let signature = sign(pair, object.clone())["signatures"]["@bob:example.org"]
            .as_object()
            .and_then(|signatures| signatures.values().next())
            .cloned();
        let mut signatures = before["@bob:example.org"].as_object().cloned().unwrap_or_default();
        signatures.extend(signature.map(|signature| (id, signature)));
        object["signatures"] = json!({ "@bob:example.org": signatures });
        object
    };
    let upload = CrossSigningUpload {
        master: Some(raw(&key(&master, "master"))),
        self_signing: Some(raw(&signed_by(&master, key(&own, "self_signing")))),
        user_signing: None,
    };
    world.keys.set_cross_signing(world.bob, &id("bob"), &upload).await.unwrap();
    let of_device = pair("ASLEEP");
    let signed = signed_by(&own, device_keys("ASLEEP", &of_device));
    let own_id = format!("ed25519:{}", base64(&own.public_key()));
    let mut forged = signed.clone();
    forged["signatures"]["@bob:example.org"][&own_id] = json!(base64(&[3; 64]));
    let refused = world.put(&new("ASLEEP", &forged, &of_device)).await;
    assert!(matches!(refused, Err(DehydratedError::Keys(KeyError::Signature(_)))));
    world.put(&new("ASLEEP", &signed, &of_device)).await.unwrap();
    let shown = |queried: Queried| -> Value {
        serde_json::from_str(queried.device_keys[&id("bob")][&OwnedDeviceId::from("ASLEEP")].get()).unwrap()
    };
    let mut expected = signed;
    expected["unsigned"] = json!({ "device_display_name": "asleep" });
    assert_eq!(shown(world.query().await), expected);
    // Another device under the same id does not get what was signed of the first.
    world.put(&simple("ASLEEP")).await.unwrap();
    let signatures = shown(world.query().await)["signatures"]["@bob:example.org"].clone();
    assert_eq!(signatures.as_object().unwrap().keys().collect::<Vec<_>>(), ["ed25519:ASLEEP"]);
}
