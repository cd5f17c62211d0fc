//! Which keys are believed, and when.

use allod_storage::Store;
use ruma::{CanonicalJsonObject, server_name, signatures::sign_json};
use serde_json::{Value, json};

use super::*;
use crate::{
    config::{Config, FederationMode},
    egress::Names,
    federation::{Federation, FederationSources, own_keys::OwnKeys},
    identity::Identity,
    random::Random,
    tables::SPACES,
};

const NOW_MS: u64 = 1_700_000_000_000;
const DAY_MS: u64 = 24 * 3600 * 1000;

async fn service(clock: &Clock) -> ServerKeys {
    let mut config = Config::default();
    config.federation.mode = FederationMode::Open;
    let random = Random::seeded(3);
    let sources = FederationSources {
        database: Database::open(Store::memory(SPACES), &random).await.unwrap(),
        config: Live::new(config),
        clock: clock.clone(),
        identity: Identity::ephemeral(server_name!("own.example").to_owned(), &random).unwrap(),
        tasks: Tasks::new(),
        names: Names::table(&[], &[]),
    };
    Federation::open(sources).unwrap().unwrap().keys
}

fn peer(seed: u64) -> Identity {
    Identity::ephemeral(server_name!("peer.example").to_owned(), &Random::seeded(seed)).unwrap()
}

fn key_id(identity: &Identity) -> OwnedServerSigningKeyId {
    format!("ed25519:{}", identity.key().version()).try_into().unwrap()
}

/// A document as its server would sign it, after a change.
fn document(identity: &Identity, clock: &Clock, change: impl FnOnce(&mut Value)) -> String {
    let own = OwnKeys::new(identity.clone(), clock.clone()).document().unwrap();
    let mut value: Value = serde_json::from_str(own.get()).unwrap();
    value.as_object_mut().unwrap().remove("signatures");
    change(&mut value);
    let mut object: CanonicalJsonObject = serde_json::from_value(value).unwrap();
    sign_json(identity.server_name().as_str(), identity.key(), &mut object).unwrap();
    serde_json::to_string(&object).unwrap()
}

#[tokio::test]
async fn a_key_is_used_for_as_long_as_it_is_valid() {
    let clock = Clock::manual(NOW_MS);
    let (keys, peer) = (service(&clock).await, peer(1));
    let server = peer.server_name();
    keys.learn(server, &document(&peer, &clock, |_| {})).await.unwrap();
    let key = keys.for_request(server, &key_id(&peer)).await.unwrap();
    assert_eq!(key.as_bytes(), peer.key().public_key());
    // Nobody answers at that name: what is not known stays unknown.
    clock.advance(Duration::from_millis(DAY_MS + 1));
    assert!(keys.for_request(server, &key_id(&peer)).await.is_err());
    // Events of its time are verified for ever; later ones only in rooms that do not look at the time.
    for (at_ms, enforce, found) in [
        (NOW_MS, true, true),
        (NOW_MS + DAY_MS, true, true),
        (NOW_MS + DAY_MS + 1, true, false),
        (NOW_MS + DAY_MS + 1, false, true),
    ] {
        let key = keys.for_event(server, &key_id(&peer), at_ms, enforce).await;
        assert_eq!(key.is_ok(), found, "{at_ms} {enforce}");
    }
}

#[tokio::test]
async fn a_retired_key_verifies_old_events_and_no_requests() {
    let clock = Clock::manual(NOW_MS);
    let (keys, (old, new)) = (service(&clock).await, (peer(1), peer(2)));
    let server = new.server_name();
    keys.learn(server, &document(&old, &clock, |_| {})).await.unwrap();
    let with_old = document(&new, &clock, |value| {
        let key = ruma::serde::Base64::<ruma::serde::base64::Standard>::new(old.key().public_key().to_vec());
        value["old_verify_keys"][key_id(&old).as_str()] =
            json!({ "key": key.encode(), "expired_ts": NOW_MS - 10 });
    });
    keys.learn(server, &with_old).await.unwrap();
    assert!(keys.for_request(server, &key_id(&old)).await.is_err());
    assert!(keys.for_request(server, &key_id(&new)).await.is_ok());
    assert!(keys.for_event(server, &key_id(&old), NOW_MS - 10, true).await.is_ok());
    assert!(keys.for_event(server, &key_id(&old), NOW_MS - 9, true).await.is_err());
    // A notary that shows the document of before changes nothing.
    clock.advance(Duration::from_secs(1));
    let before = document(&old, &Clock::manual(NOW_MS - 1000), |_| {});
    keys.store(server, &before, Source::Notary).await.unwrap();
    assert!(keys.for_request(server, &key_id(&old)).await.is_err());
}

#[tokio::test]
async fn documents_are_believed_only_with_the_servers_signature() {
    let clock = Clock::manual(NOW_MS);
    let (keys, (peer, other)) = (service(&clock).await, (peer(1), peer(2)));
    let server = peer.server_name();
    let good = document(&peer, &clock, |_| {});
    let refused = async |json: &str| match keys.learn(server, json).await {
        Err(KeyError::Document(error)) => error,
        outcome => panic!("{outcome:?}"),
    };
    let elsewhere = document(&peer, &clock, |value| value["server_name"] = "else.example".into());
    assert_eq!(refused(&elsewhere).await, DocumentError::OtherServer);
    let mut forged: Value = serde_json::from_str(&good).unwrap();
    forged["valid_until_ts"] = (NOW_MS + 2 * DAY_MS).into();
    assert_eq!(refused(&forged.to_string()).await, DocumentError::Signature);
    forged.as_object_mut().unwrap().remove("signatures");
    assert!(matches!(
        refused(&forged.to_string()).await,
        DocumentError::Malformed | DocumentError::Signature
    ));
    // Signed by a key that it does not list.
    let foreign = document(&other, &clock, |value| {
        let listed: Value = serde_json::from_str(&good).unwrap();
        value["verify_keys"] = listed["verify_keys"].clone();
    });
    assert_eq!(refused(&foreign).await, DocumentError::Signature);
    assert_eq!(refused("{}").await, DocumentError::Malformed);
    assert_eq!(refused(r#"{"a":1.5}"#).await, DocumentError::Malformed);
    keys.learn(server, &good).await.unwrap();
}

/// CVE-2026-24044: a server that signs with a key which everyone can work out speaks for nobody.
#[tokio::test]
async fn cve_2026_24044_known_keys_are_refused() {
    let clock = Clock::manual(NOW_MS);
    let keys = service(&clock).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("signing.key");
    for seed in ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcHrlw8Md7kMW+3XA0"]
    {
        std::fs::write(&path, format!("ed25519 1 {seed}\n")).unwrap();
        let peer =
            Identity::open(server_name!("peer.example").to_owned(), &path, &Random::seeded(1)).unwrap();
        let learned = keys.learn(peer.server_name(), &document(&peer, &clock, |_| {})).await;
        assert!(matches!(learned, Err(KeyError::Document(DocumentError::Signature))), "{learned:?}");
        assert!(keys.for_request(peer.server_name(), &key_id(&peer)).await.is_err());
    }
}

#[tokio::test]
async fn a_server_that_is_not_reached_is_left_alone_for_a_while() {
    let clock = Clock::manual(NOW_MS);
    let (keys, peer) = (service(&clock).await, peer(1));
    let key = key_id(&peer);
    let first = keys.for_request(peer.server_name(), &key).await;
    assert!(matches!(first, Err(KeyError::Client(_))), "{first:?}");
    assert!(matches!(keys.for_request(peer.server_name(), &key).await, Err(KeyError::BackingOff)));
    clock.advance(Duration::from_secs(11));
    assert!(matches!(keys.for_request(peer.server_name(), &key).await, Err(KeyError::Client(_))));
    clock.advance(Duration::from_secs(11));
    assert!(matches!(keys.for_request(peer.server_name(), &key).await, Err(KeyError::BackingOff)));
}
