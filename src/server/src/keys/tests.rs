//! Tests of keys.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{CanonicalJsonObject, OwnedDeviceId, OwnedUserId, signatures::Ed25519KeyPair};
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::accounts::testing::{Fixture, id};

mod verified;

struct World {
    fixture: Fixture,
    keys: Keys,
}

/// A user's device with its key pair.
struct Client {
    user_id: OwnedUserId,
    user: UserNumber,
    device_id: OwnedDeviceId,
    device: DeviceNumber,
    pair: Ed25519KeyPair,
}

/// A key pair whose id ends in `name`, or in its public part.
fn pair(name: Option<&str>) -> (Ed25519KeyPair, String) {
    let document = Ed25519KeyPair::generate();
    let public = base64(&Ed25519KeyPair::from_der(&document, "x".to_owned()).unwrap().public_key());
    (Ed25519KeyPair::from_der(&document, name.unwrap_or(&public).to_owned()).unwrap(), public)
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, bytes)
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

/// The object, signed by a user's key.
fn sign(mut object: Value, user_id: &OwnedUserId, pair: &Ed25519KeyPair) -> Value {
    let mut canonical: CanonicalJsonObject = serde_json::from_value(object.take()).unwrap();
    ruma::signatures::sign_json(user_id.as_str(), pair, &mut canonical).unwrap();
    serde_json::to_value(canonical).unwrap()
}

async fn world() -> World {
    let fixture = Fixture::new().await;
    let keys = Keys::new(fixture.database.clone(), fixture.users.clone(), fixture.devices.clone());
    World { fixture, keys }
}

impl World {
    async fn client(&self, name: &str, device: &str) -> Client {
        let user_id = id(name);
        let user = match self.fixture.users.number(&user_id).await.unwrap() {
            Some(user) => user,
            None => self.fixture.account(name).await,
        };
        let device_number = self.fixture.sign_in(user, Some(device), false).await.device;
        let pair = pair(Some(device)).0;
        Client { user_id, user, device_id: device.into(), device: device_number, pair }
    }

    async fn upload(&self, client: &Client, upload: Upload) -> Result<Counts, KeyError> {
        self.keys.upload(client.owner(), &upload).await
    }

    async fn upload_device_keys(&self, client: &Client) {
        let device_keys = Some(raw(&client.device_keys()));
        self.upload(client, Upload { device_keys, ..Upload::default() }).await.unwrap();
    }

    async fn upload_one_time(&self, client: &Client, ids: &[&str]) -> Result<Counts, KeyError> {
        self.upload(client, Upload { one_time_keys: client.one_time(ids), ..client.upload() }).await
    }

    async fn query(&self, asking: &Client, of: &Client) -> Queried {
        self.keys.query(Some(asking.user), &BTreeMap::from([(of.user_id.clone(), vec![])])).await.unwrap()
    }

    async fn claim(&self, client: &Client) -> Option<String> {
        let devices = BTreeMap::from([(client.device_id.clone(), "signed_curve25519".to_owned())]);
        let claimed = self.keys.claim(&Claims::from([(client.user_id.clone(), devices)])).await.unwrap();
        claimed.into_values().next()?.into_values().next()?.into_keys().next()
    }

    async fn changed(&self, asking: &Client, of: &Client, since: Position) -> Vec<UserNumber> {
        let users = RoaringBitmap::from([of.user.0]);
        self.keys.changed(asking.user, &users, since, self.fixture.store.head()).await.unwrap()
    }
}

impl Client {
    fn owner(&self) -> Owner<'_> {
        Owner { user_id: &self.user_id, user: self.user, device_id: &self.device_id, device: self.device }
    }

    fn unsigned_device_keys(&self) -> Value {
        json!({
            "user_id": self.user_id, "device_id": self.device_id, "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": { format!("ed25519:{}", self.device_id): base64(&self.pair.public_key()) },
            "signatures": {},
        })
    }

    fn device_keys(&self) -> Value {
        sign(self.unsigned_device_keys(), &self.user_id, &self.pair)
    }

    /// Its device keys and nothing else.
    fn upload(&self) -> Upload {
        Upload { device_keys: Some(raw(&self.device_keys())), ..Upload::default() }
    }

    /// A one-time key that says `content` in its place.
    fn one_time_key(&self, content: &str) -> Value {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(content.bytes()).for_each(|(byte, letter)| *byte = letter);
        sign(json!({ "key": base64(&bytes) }), &self.user_id, &self.pair)
    }

    fn one_time(&self, ids: &[&str]) -> BTreeMap<String, Box<RawValue>> {
        ids.iter().map(|id| (format!("signed_curve25519:{id}"), raw(&self.one_time_key(id)))).collect()
    }

    fn cross_signing_key(&self, usage: &str, public: &str) -> Value {
        json!({ "user_id": self.user_id, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
    }
}

/// A user's three keys and their upload.
struct CrossSigning {
    master: (Ed25519KeyPair, Value),
    self_signing: (Ed25519KeyPair, Value),
    user_signing: (Ed25519KeyPair, Value),
}

impl CrossSigning {
    fn new(client: &Client) -> Self {
        let (master, master_public) = pair(None);
        let signed = |usage: &str| {
            let (pair, public) = pair(None);
            (pair, sign(client.cross_signing_key(usage, &public), &client.user_id, &master))
        };
        Self {
            self_signing: signed("self_signing"),
            user_signing: signed("user_signing"),
            master: (master, client.cross_signing_key("master", &master_public)),
        }
    }

    fn upload(&self) -> CrossSigningUpload {
        CrossSigningUpload {
            master: Some(raw(&self.master.1)),
            self_signing: Some(raw(&self.self_signing.1)),
            user_signing: Some(raw(&self.user_signing.1)),
        }
    }
}

#[tokio::test]
async fn device_keys_are_stored_shown_and_told() {
    let world = world().await;
    let (alice, bob) = (world.client("alice", "A").await, world.client("bob", "B").await);
    let since = world.fixture.store.head();
    assert!(world.query(&bob, &alice).await.device_keys[&alice.user_id].is_empty());
    world.upload_device_keys(&alice).await;
    assert_eq!(world.changed(&bob, &alice, since).await, [alice.user]);
    assert!(world.changed(&bob, &bob, since).await.is_empty());
    let queried = world.query(&bob, &alice).await;
    let shown: Value =
        serde_json::from_str(queried.device_keys[&alice.user_id][&alice.device_id].get()).unwrap();
    assert_eq!(shown, alice.device_keys());
    // The same keys again are no change.
    let since = world.fixture.store.head();
    world.upload_device_keys(&alice).await;
    assert_eq!(world.fixture.store.head(), since);
}

#[tokio::test]
async fn cve_2025_61672_device_keys_of_others_malformed_ones_and_forged_ones_are_refused() {
    let world = world().await;
    let (alice, bob) = (world.client("alice", "A").await, world.client("bob", "B").await);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut keys = bob.device_keys();
        change(&mut keys);
        Upload { device_keys: Some(raw(&keys)), ..Upload::default() }
    };
    let alices = Upload { device_keys: Some(raw(&alice.device_keys())), ..Upload::default() };
    assert!(matches!(world.upload(&bob, alices).await, Err(KeyError::NotYours)));
    for field in ["algorithms", "keys", "signatures"] {
        let without = with(&|keys| {
            keys.as_object_mut().unwrap().remove(field);
        });
        assert!(matches!(world.upload(&bob, without).await, Err(KeyError::Malformed(_))), "{field}");
    }
    let forged = with(&|keys| keys["algorithms"] = json!([]));
    assert!(matches!(world.upload(&bob, forged).await, Err(KeyError::Signature(_))));
    let foreign = with(&|keys| keys["keys"]["ed25519:OTHER"] = json!(base64(&[7; 32])));
    assert!(matches!(world.upload(&bob, foreign).await, Err(KeyError::Malformed(_))));
    let huge = with(&|keys| keys["x"] = json!("x".repeat(20_000)));
    assert!(matches!(world.upload(&bob, huge).await, Err(KeyError::TooLarge)));
}

#[tokio::test]
async fn one_time_keys_are_handed_out_once_in_the_order_of_upload() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    world.upload_one_time(&alice, &["z"]).await.unwrap();
    let left = world.upload_one_time(&alice, &["a", "z"]).await.unwrap();
    assert_eq!(left.one_time, [("signed_curve25519".to_owned(), 2)]);
    assert_eq!(world.claim(&alice).await.as_deref(), Some("signed_curve25519:z"));
    assert_eq!(world.claim(&alice).await.as_deref(), Some("signed_curve25519:a"));
    assert_eq!(world.claim(&alice).await, None);
    assert!(world.keys.counts(alice.user, alice.device).await.unwrap().one_time.is_empty());
}

#[tokio::test]
async fn no_two_claims_at_once_are_given_the_same_key() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let ids: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    world.upload_one_time(&alice, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    let fallback = Upload { fallback_keys: alice.one_time(&["fallback"]), ..alice.upload() };
    world.upload(&alice, fallback).await.unwrap();
    let claim_two = async || [world.claim(&alice).await.unwrap(), world.claim(&alice).await.unwrap()];
    let claims = futures_util::future::join_all((0..64).map(|_| claim_two())).await;
    let (given, fallback): (Vec<_>, Vec<_>) =
        claims.into_iter().flatten().partition(|key| key != "signed_curve25519:fallback");
    let different: BTreeSet<_> = given.iter().collect();
    assert_eq!((given.len(), different.len(), fallback.len()), (100, 100, 28));
}

#[tokio::test]
async fn another_key_under_the_same_id_is_refused() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    world.upload_one_time(&alice, &["a"]).await.unwrap();
    let mut one_time_keys = alice.one_time(&["b"]);
    one_time_keys.insert("signed_curve25519:a".to_owned(), raw(&alice.one_time_key("other")));
    let refused = world.upload(&alice, Upload { one_time_keys, ..Upload::default() }).await.unwrap_err();
    assert_eq!(refused.to_string(), "One time key signed_curve25519:a already exists.");
    let left = world.keys.counts(alice.user, alice.device).await.unwrap();
    assert_eq!(left.one_time, [("signed_curve25519".to_owned(), 1)]);
}

#[tokio::test]
async fn a_fallback_key_is_given_out_again_and_is_unused_once() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let fallback = |id| Upload { fallback_keys: alice.one_time(&[id]), ..alice.upload() };
    let left = world.upload(&alice, fallback("f")).await.unwrap();
    assert_eq!(left.unused_fallback, ["signed_curve25519"]);
    for _ in 0..2 {
        assert_eq!(world.claim(&alice).await.as_deref(), Some("signed_curve25519:f"));
        assert!(world.keys.counts(alice.user, alice.device).await.unwrap().unused_fallback.is_empty());
    }
    assert!(world.upload(&alice, fallback("f")).await.unwrap().unused_fallback.is_empty());
    assert_eq!(world.upload(&alice, fallback("g")).await.unwrap().unused_fallback, ["signed_curve25519"]);
    assert_eq!(world.claim(&alice).await.as_deref(), Some("signed_curve25519:g"));
}

#[tokio::test]
async fn a_soft_logout_and_the_next_sign_in_keep_keys() {
    let fixture = Fixture::with(|config| {
        config.lasting_access_token = Some(crate::config::Interval::seconds(1000));
    })
    .await;
    let keys = Keys::new(fixture.database.clone(), fixture.users.clone(), fixture.devices.clone());
    let world = World { fixture, keys };
    let alice = world.client("alice", "A").await;
    world.upload_one_time(&alice, &["a", "b"]).await.unwrap();
    let shown = world.query(&alice, &alice).await.device_keys;
    world.fixture.clock.advance(std::time::Duration::from_secs(2000));
    let again = world.fixture.sign_in(alice.user, Some("A"), false).await;
    assert_eq!(again.device, alice.device);
    let after = world.query(&alice, &alice).await.device_keys;
    assert_eq!(format!("{after:?}"), format!("{shown:?}"));
    let left = world.keys.counts(alice.user, alice.device).await.unwrap();
    assert_eq!(left.one_time, [("signed_curve25519".to_owned(), 2)]);
    assert_eq!(world.claim(&alice).await.as_deref(), Some("signed_curve25519:a"));
}

#[tokio::test]
async fn keys_of_many_are_queried_and_claimed_at_once() {
    let world = world().await;
    let mut clients = Vec::new();
    for number in 0..30 {
        let client = world.client(&format!("user{number}"), "A").await;
        world.upload_one_time(&client, &["a"]).await.unwrap();
        clients.push(client);
    }
    // One has more devices than are read together, and one has no keys.
    for number in 0..40 {
        world.client("user3", &format!("D{number}")).await;
    }
    let bare = world.client("bare", "A").await;
    let everybody = clients.iter().chain([&bare]);
    let wanted = everybody.clone().map(|client| (client.user_id.clone(), Vec::new())).collect();
    let queried = world.keys.query(Some(bare.user), &wanted).await.unwrap();
    for client in &clients {
        let keys = &queried.device_keys[&client.user_id];
        assert_eq!(keys.len(), 1);
        let shown: Value = serde_json::from_str(keys[&client.device_id].get()).unwrap();
        assert_eq!(shown["keys"], client.device_keys()["keys"], "each their own");
    }
    assert!(queried.device_keys[&bare.user_id].is_empty());
    let claims = everybody.map(|client| {
        let devices = BTreeMap::from([(client.device_id.clone(), "signed_curve25519".to_owned())]);
        (client.user_id.clone(), devices)
    });
    let claims: Claims = claims.collect();
    let claimed = world.keys.claim(&claims).await.unwrap();
    assert_eq!(claimed.len(), clients.len());
    for client in &clients {
        let key = &claimed[&client.user_id][&client.device_id]["signed_curve25519:a"];
        let signed: Value = serde_json::from_str(key.get()).unwrap();
        assert_eq!(signed, client.one_time_key("a"));
    }
    assert!(world.keys.claim(&claims).await.unwrap().is_empty());
}

#[tokio::test]
async fn keys_go_with_their_device() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    world.upload_device_keys(&alice).await;
    world.upload_one_time(&alice, &["a"]).await.unwrap();
    let since = world.fixture.store.head();
    world
        .fixture
        .devices
        .delete(crate::audit::Actor::User(alice.user), alice.user, &[alice.device])
        .await
        .unwrap();
    assert_eq!(world.changed(&alice, &alice, since).await, [alice.user]);
    assert_eq!(world.claim(&alice).await, None);
    assert!(world.query(&alice, &alice).await.device_keys[&alice.user_id].is_empty());
    assert!(matches!(world.upload_one_time(&alice, &["b"]).await, Err(KeyError::NoDevice)));
}

#[tokio::test]
async fn the_first_cross_signing_keys_need_no_confirmation_and_others_do() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let first = CrossSigning::new(&alice);
    let check = async |upload: &CrossSigningUpload| {
        world.keys.check_cross_signing(alice.user, &alice.user_id, upload).await
    };
    let alone =
        CrossSigningUpload { self_signing: first.upload().self_signing, ..CrossSigningUpload::default() };
    assert!(matches!(check(&alone).await, Err(KeyError::NoMasterKey)));
    assert_eq!(check(&first.upload()).await.unwrap(), Confirmation::NotNeeded);
    world.keys.set_cross_signing(alice.user, &alice.user_id, &first.upload()).await.unwrap();
    assert_eq!(check(&first.upload()).await.unwrap(), Confirmation::NotNeeded);
    let second = CrossSigning::new(&alice);
    assert_eq!(check(&second.upload()).await.unwrap(), Confirmation::Needed);
    let mixed =
        CrossSigningUpload { self_signing: second.upload().self_signing, ..CrossSigningUpload::default() };
    assert!(matches!(check(&mixed).await, Err(KeyError::Signature(_))));
    let only_master = CrossSigningUpload { master: second.upload().master, ..CrossSigningUpload::default() };
    world.keys.set_cross_signing(alice.user, &alice.user_id, &only_master).await.unwrap();
    let queried = world.query(&alice, &alice).await;
    assert_eq!((queried.master_keys.len(), queried.self_signing_keys.len()), (1, 0));
}

#[tokio::test]
async fn user_signing_keys_are_shown_to_their_user_only() {
    let world = world().await;
    let (alice, bob) = (world.client("alice", "A").await, world.client("bob", "B").await);
    world
        .keys
        .set_cross_signing(alice.user, &alice.user_id, &CrossSigning::new(&alice).upload())
        .await
        .unwrap();
    let queried = world.query(&bob, &alice).await;
    assert_eq!((queried.self_signing_keys.len(), queried.user_signing_keys.len()), (1, 0));
    assert_eq!(world.query(&alice, &alice).await.user_signing_keys.len(), 1);
}

#[tokio::test]
async fn signatures_that_fit_are_stored_and_forged_ones_are_not() {
    let world = world().await;
    let (alice, bob) = (world.client("alice", "A").await, world.client("bob", "B").await);
    let (of_alice, of_bob) = (CrossSigning::new(&alice), CrossSigning::new(&bob));
    world.upload_device_keys(&alice).await;
    for (client, keys) in [(&alice, &of_alice), (&bob, &of_bob)] {
        world.keys.set_cross_signing(client.user, &client.user_id, &keys.upload()).await.unwrap();
    }
    let add = async |user_id: &OwnedUserId, id: &str, object: &Value| {
        let objects = BTreeMap::from([(id.to_owned(), raw(object))]);
        let objects = SignedObjects::from([(user_id.clone(), objects)]);
        let failures =
            world.keys.add_signatures(alice.owner(), &objects, &RemoteMasters::new()).await.unwrap();
        failures.into_values().next().and_then(|failures| failures.into_values().next())
    };
    let own = sign(alice.device_keys(), &alice.user_id, &of_alice.self_signing.0);
    assert_eq!(add(&alice.user_id, "A", &own).await, None);
    let wrong_key = sign(alice.device_keys(), &alice.user_id, &of_alice.user_signing.0);
    assert_eq!(add(&alice.user_id, "A", &wrong_key).await, Some(SignatureFailure::Invalid));
    let mut forged = own.clone();
    forged["algorithms"] = json!([]);
    assert_eq!(add(&alice.user_id, "A", &forged).await, Some(SignatureFailure::Differs));
    assert_eq!(add(&alice.user_id, "Z", &own).await, Some(SignatureFailure::NotFound));
    // Bob's master key, by Alice's user-signing key: seen by Alice, and not by Bob.
    let bobs_master = of_bob.master.1["keys"].as_object().unwrap().values().next().unwrap().as_str().unwrap();
    let since = world.fixture.store.head();
    let verified = sign(of_bob.master.1.clone(), &alice.user_id, &of_alice.user_signing.0);
    assert_eq!(add(&bob.user_id, bobs_master, &verified).await, None);
    assert_eq!(world.changed(&alice, &alice, since).await, [bob.user]);
    assert!(world.changed(&bob, &bob, since).await.is_empty());
    let shown = |queried: &Queried| queried.master_keys[&bob.user_id].get().contains("@alice:");
    assert!(shown(&world.query(&alice, &bob).await) && !shown(&world.query(&bob, &bob).await));
    let device =
        world.query(&bob, &alice).await.device_keys[&alice.user_id][&alice.device_id].get().to_owned();
    let device: Value = serde_json::from_str(&device).unwrap();
    assert_eq!(device["signatures"][alice.user_id.as_str()].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn master_keys_of_other_servers_users_are_signed_for_the_signer_alone() {
    let world = world().await;
    let (alice, bob) = (world.client("alice", "A").await, world.client("bob", "B").await);
    let of_alice = CrossSigning::new(&alice);
    world.keys.set_cross_signing(alice.user, &alice.user_id, &of_alice.upload()).await.unwrap();
    let far: OwnedUserId = "@far:elsewhere".try_into().unwrap();
    let number = world.fixture.users.number_or_new(&far).await.unwrap();
    let public = pair(None).1;
    let master =
        json!({ "user_id": far, "usage": ["master"], "keys": { format!("ed25519:{public}"): public } });
    let masters = RemoteMasters::from([(far.clone(), raw(&master))]);
    let add = async |id: &str, object: &Value| {
        let objects = SignedObjects::from([(far.clone(), BTreeMap::from([(id.to_owned(), raw(object))]))]);
        let failures = world.keys.add_signatures(alice.owner(), &objects, &masters).await.unwrap();
        failures.into_values().next().and_then(|failures| failures.into_values().next())
    };
    let signed = sign(master.clone(), &alice.user_id, &of_alice.user_signing.0);
    let by_another = sign(master.clone(), &alice.user_id, &of_alice.self_signing.0);
    assert_eq!(add(&public, &by_another).await, Some(SignatureFailure::Invalid));
    assert_eq!(add("else", &signed).await, Some(SignatureFailure::NotFound));
    let mut differs = signed.clone();
    differs["usage"] = json!(["master", "self_signing"]);
    assert_eq!(add(&public, &differs).await, Some(SignatureFailure::Differs));
    let since = world.fixture.store.head();
    assert_eq!(add(&public, &signed).await, None);
    assert_eq!(world.changed(&alice, &alice, since).await, [number], "the other devices are told");
    let shown = async |asking: &Client| {
        let master_keys = masters.iter().map(|(id, key)| (id.clone(), key.clone())).collect();
        let mut queried = Queried { master_keys, ..Queried::default() };
        world.keys.add_own_signatures(asking.user, &mut queried).await.unwrap();
        serde_json::from_str::<Value>(queried.master_keys[&far].get()).unwrap()
    };
    assert_eq!(shown(&alice).await, signed);
    assert_eq!(shown(&bob).await["signatures"], Value::Null);
}

#[tokio::test]
async fn many_changes_are_looked_up_by_user() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let since = world.fixture.store.head();
    let mut write = crate::database::Write::new();
    for user in 1_000..1_000 + u32::try_from(LISTED_CHANGES_MAX).unwrap() {
        crate::devices::list_changed(&mut write, UserNumber(user));
    }
    world.fixture.database.commit(write).await.unwrap();
    world.upload_device_keys(&alice).await;
    assert_eq!(world.changed(&alice, &alice, since).await, [alice.user]);
}

#[tokio::test]
async fn forgotten_changes_are_still_told() {
    let world = world().await;
    let alice = world.client("alice", "A").await;
    let since = world.fixture.store.head();
    world.upload_device_keys(&alice).await;
    let mut write = crate::database::Write::new();
    write.delete_prefix::<DeviceListChange>(&());
    world.fixture.database.commit(write).await.unwrap();
    assert_eq!(world.changed(&alice, &alice, since).await, [alice.user]);
    assert!(world.changed(&alice, &alice, world.fixture.store.head()).await.is_empty());
}
