//! Building against ruma's own hashing and signing, the specification's vectors, and the limits.

use std::collections::BTreeMap;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use proptest::prelude::*;
use ruma::{
    CanonicalJsonValue, RoomVersionId, owned_event_id, owned_room_id, owned_user_id, server_name,
    signatures::{Ed25519KeyPair, PublicKeyMap, Verified, hash_and_sign_event, reference_hash, verify_event},
    uint,
};
use serde_json::json;

use super::*;

mod versions;

/// The key of the specification's appendix (§Cryptographic Test Vectors), `ed25519:1`.
fn key() -> Ed25519KeyPair {
    // As in the specification, whose last character has stray bits that strict decoders refuse.
    let engine = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let seed = engine.decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(seed);
    Ed25519KeyPair::from_der(&der, "1".to_owned()).unwrap()
}

fn rules(version: &str) -> RoomVersionRules {
    RoomVersionId::try_from(version).unwrap().rules().unwrap()
}

fn draft(kind: &str, content: &serde_json::Value) -> Draft {
    Draft {
        kind: kind.to_owned(),
        state_key: None,
        content: RawValue::from_string(content.to_string()).unwrap(),
        sender: owned_user_id!("@a:domain"),
        redacts: None,
        unsigned: None,
        origin_server_ts: MilliSecondsSinceUnixEpoch(uint!(1_000_000)),
    }
}

fn place() -> Place {
    Place {
        room_id: Some(owned_room_id!("!x:domain")),
        prev_events: vec![owned_event_id!("$p")],
        auth_events: vec![owned_event_id!("$a"), owned_event_id!("$b")],
        depth: 3,
    }
}

fn object(json: &[u8]) -> CanonicalJsonObject {
    serde_json::from_slice(json).unwrap()
}

/// Hashing and signing what we built with ruma must change nothing.
fn assert_agrees(signed: &Signed, rules: &RoomVersionRules) {
    let ours = object(&signed.json);
    let mut theirs = ours.clone();
    theirs.remove("hashes");
    theirs.remove("signatures");
    hash_and_sign_event("domain", &key(), &mut theirs, &rules.redaction).unwrap();
    assert_eq!(String::from_utf8(signed.json.clone()).unwrap(), serde_json::to_string(&theirs).unwrap());
    let id = format!("${}", reference_hash(&ours, rules).unwrap());
    assert_eq!(signed.pdu.event_id, id);
    let parsed = Pdu::parse(&signed.json, signed.pdu.event_id.clone(), &signed.pdu.room_id, rules).unwrap();
    assert_eq!(format!("{parsed:?}"), format!("{:?}", signed.pdu));
}

const KINDS: [(&str, Option<&str>); 6] = [
    ("m.room.message", None),
    ("m.room.member", Some("@a:domain")),
    ("m.room.power_levels", Some("")),
    ("m.room.redaction", None),
    ("m.room.join_rules", Some("")),
    ("quote\"\n", Some("\u{7}")),
];

#[test]
fn agrees_with_ruma_in_every_version() {
    let content = json!({
        "z": [1, {"b": null, "a": "x\u{8}"}], "membership": "join", "users": {"@a:b": 3},
        "invite": 2, "join_rule": "public", "allow": [], "body": "é\"\\", "reason": "r",
        "third_party_invite": {"signed": {"token": "t"}, "display_name": "d"},
        "join_authorised_via_users_server": "@a:domain",
    });
    for version in ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        for (kind, state_key) in KINDS {
            let mut draft = draft(kind, &content);
            draft.state_key = state_key.map(str::to_owned);
            draft.redacts = (kind == "m.room.redaction").then(|| owned_event_id!("$target"));
            let rules = rules(version);
            let signed = build(draft, place(), &rules, &key()).unwrap();
            assert_agrees(&signed, &rules);
        }
    }
}

#[test]
fn v12_create_names_its_room() {
    let mut draft = draft("m.room.create", &json!({"room_version": "12"}));
    draft.state_key = Some(String::new());
    let place = Place { room_id: None, prev_events: vec![], auth_events: vec![], depth: 1 };
    assert!(matches!(build(draft.clone(), place.clone(), &rules("11"), &key()), Err(BuildError::RoomId)));
    let signed = build(draft.clone(), place.clone(), &rules("12"), &key()).unwrap();
    assert!(!object(&signed.json).contains_key("room_id"));
    assert_eq!(signed.pdu.room_id.strip_sigil(), &signed.pdu.event_id.as_str()[1..]);
    assert_agrees(&signed, &rules("12"));
    let with_room = Place { room_id: Some(owned_room_id!("!x")), ..place };
    assert!(matches!(build(draft, with_room, &rules("12"), &key()), Err(BuildError::RoomId)));
}

#[test]
fn signature_verifies_and_tampering_shows() {
    let signed = build(draft("m.room.message", &json!({"body": "x"})), place(), &rules("10"), &key());
    let mut event = object(&signed.unwrap().json);
    let mut keys = PublicKeyMap::new();
    let public = ruma::serde::Base64::new(key().public_key().to_vec());
    keys.insert("domain".to_owned(), BTreeMap::from([("ed25519:1".to_owned(), public)]));
    assert!(matches!(verify_event(&keys, &event, &rules("10")), Ok(Verified::All)));
    event.insert("content".to_owned(), CanonicalJsonValue::Object(BTreeMap::default()));
    assert!(matches!(verify_event(&keys, &event, &rules("10")), Ok(Verified::Signatures)));
    event.insert("depth".to_owned(), CanonicalJsonValue::Integer(9.into()));
    assert!(verify_event(&keys, &event, &rules("10")).is_err());
}

/// §Cryptographic Test Vectors, JSON signing.
#[test]
fn specification_vectors_for_json() {
    for (json, signature) in [
        ("{}", "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
        (
            r#"{"one":1,"two":"Two"}"#,
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ] {
        let mut object = object(json.as_bytes());
        ruma::signatures::sign_json("domain", &key(), &mut object).unwrap();
        let signed = serde_json::to_value(&object).unwrap();
        assert_eq!(signed["signatures"]["domain"]["ed25519:1"], signature);
    }
}

/// §Cryptographic Test Vectors, event signing.
#[test]
fn specification_vectors() {
    let mut minimal = object(
        br#"{"room_id":"!x:domain","sender":"@a:domain","origin":"domain",
        "origin_server_ts":1000000,"signatures":{},"hashes":{},"type":"X","content":{},
        "prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}"#,
    );
    ruma::signatures::add_content_hash_to_event(&mut minimal).unwrap();
    let json = countersign(&mut minimal, server_name!("domain"), &rules("1"), &key()).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["hashes"]["sha256"], "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos");
    assert_eq!(
        json["signatures"]["domain"]["ed25519:1"],
        "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"
    );
    let mut message = object(
        br#"{"content":{"body":"Here is the message content"},"event_id":"$0:domain",
        "origin":"domain","origin_server_ts":1000000,"type":"m.room.message",
        "room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}"#,
    );
    ruma::signatures::add_content_hash_to_event(&mut message).unwrap();
    let json = countersign(&mut message, server_name!("domain"), &rules("1"), &key()).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["hashes"]["sha256"], "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g");
    assert_eq!(
        json["signatures"]["domain"]["ed25519:1"],
        "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"
    );
}

#[test]
fn redaction_target_moves_to_where_the_version_wants_it() {
    let content = json!({"redacts": "$inner", "reason": "r"});
    for (version, top, inner) in [("10", true, false), ("11", false, true)] {
        let signed = build(draft("m.room.redaction", &content), place(), &rules(version), &key()).unwrap();
        assert_eq!(signed.pdu.redacts, Some(owned_event_id!("$inner")));
        let json: serde_json::Value = serde_json::from_slice(&signed.json).unwrap();
        assert_eq!(json.get("redacts").is_some(), top);
        assert_eq!(json["content"].get("redacts").is_some(), inner);
    }
}

#[test]
fn limits() {
    let build_body = |length: usize| {
        build(draft("m.room.message", &json!({"body": "x".repeat(length)})), place(), &rules("10"), &key())
    };
    let overhead = build_body(0).unwrap().json.len();
    let largest = build_body(EVENT_BYTES_MAX - overhead).unwrap();
    assert_eq!(largest.json.len(), EVENT_BYTES_MAX);
    assert!(matches!(
        build_body(EVENT_BYTES_MAX - overhead + 1),
        Err(BuildError::TooLarge(size)) if size == EVENT_BYTES_MAX + 1
    ));
    let empty = json!({});
    for length in [FIELD_BYTES_MAX, FIELD_BYTES_MAX + 1] {
        let ok = length == FIELD_BYTES_MAX;
        let kind = build(draft(&"t".repeat(length), &empty), place(), &rules("10"), &key());
        assert_eq!(kind.is_ok(), ok);
        let mut long_key = draft("t", &empty);
        long_key.state_key = Some("k".repeat(length));
        assert_eq!(build(long_key, place(), &rules("10"), &key()).is_ok(), ok);
    }
    let mut many = place();
    many.prev_events = vec![owned_event_id!("$p"); PREV_EVENTS_MAX + 1];
    assert!(build(draft("t", &empty), many, &rules("10"), &key()).is_err());
}

#[test]
fn refusals() {
    for content in [json!({"a": 1.5}), json!({"a": 1_u64 << 53}), json!({"a": [{"b": 1e100}]})] {
        let built = build(draft("t", &content), place(), &rules("10"), &key());
        assert!(matches!(built, Err(BuildError::NotCanonical(_))), "{content}");
    }
    for content in [json!([]), json!("x"), json!(null)] {
        let built = build(draft("t", &content), place(), &rules("10"), &key());
        assert!(matches!(built, Err(BuildError::NotAnObject)), "{content}");
    }
    let old = build(draft("t", &json!({})), place(), &rules("2"), &key());
    assert!(matches!(old, Err(BuildError::UnsupportedVersion)));
}

#[test]
fn depth_is_clamped() {
    let deep = Place { depth: u64::MAX, ..place() };
    let signed = build(draft("t", &json!({})), deep, &rules("10"), &key()).unwrap();
    assert_eq!(signed.pdu.depth, DEPTH_MAX);
    assert_agrees(&signed, &rules("10"));
}

proptest! {
    #[test]
    fn content_of_any_shape_agrees(
        text in ".{0,40}", number in -9_007_199_254_740_991_i64..=9_007_199_254_740_991, key in ".{0,8}",
    ) {
        let content = json!({key: {"t": text, "n": [number]}, "body": text});
        let rules = rules("11");
        let signed = build(draft("m.room.message", &content), place(), &rules, &super::tests::key()).unwrap();
        assert_agrees(&signed, &rules);
    }
}

/// Prints the cost of building and signing; run with `--release --ignored --nocapture`.
#[test]
#[ignore = "measures, asserts nothing"]
#[expect(clippy::print_stderr, clippy::disallowed_methods, reason = "a measurement")]
fn measure() {
    let content = json!({"msgtype": "m.text", "body": "a message of ordinary length, as people send them"});
    let (draft, place, rules, key) = (draft("m.room.message", &content), place(), rules("11"), key());
    let rounds = 5_000_u32;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(build(draft.clone(), place.clone(), &rules, &key).unwrap());
    }
    let ours = start.elapsed() / rounds;
    let json = build(draft, place, &rules, &key).unwrap().json;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        let mut event = object(&json);
        hash_and_sign_event("domain", &key, &mut event, &rules.redaction).unwrap();
        std::hint::black_box(reference_hash(&event, &rules).unwrap());
    }
    let theirs = start.elapsed() / rounds;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(key.sign(&json));
    }
    eprintln!("build+sign {ours:?}, ruma {theirs:?}, ed25519 alone {:?}", start.elapsed() / rounds);
}
