//! Signatures, on every way by which events come in.

use allod_matrix::auth::References;
use ruma::{CanonicalJsonObject, OwnedEventId, signatures::sign_event};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::world::{World, server};
use crate::{
    identity::Identity, inbound::membership::ThroughError, random::Random, tables::rooms::Membership,
};

/// Ways in which an event's signature does not hold.
fn spoilt(world: &World, event: &OwnedEventId) -> Vec<(&'static str, Box<RawValue>)> {
    let good: Value = serde_json::from_str(world.json(event).get()).unwrap();
    let sign = |name: &str, identity: &Identity| {
        let mut unsigned = good.clone();
        unsigned["signatures"] = json!({});
        let mut object: CanonicalJsonObject = serde_json::from_value(unsigned).unwrap();
        sign_event(name, identity.key(), &mut object, &world.remote.rules.redaction).unwrap();
        to_raw_value(&object).unwrap()
    };
    let other_key = Identity::ephemeral(server("remote.test"), &Random::seeded(99)).unwrap();
    let mut none = good.clone();
    none["signatures"] = json!({});
    let mut moved = good.clone();
    moved["origin_server_ts"] = json!(77);
    let mut late = good.clone();
    late["signatures"] = json!({});
    // A month on: the key is not known to be valid then.
    late["origin_server_ts"] = json!(1_700_000_000_000_u64 + 30 * 86_400_000);
    let mut object: CanonicalJsonObject = serde_json::from_value(late).unwrap();
    let own = &world.remote.keys[&server("remote.test")];
    ruma::signatures::hash_and_sign_event(
        "remote.test",
        own.key(),
        &mut object,
        &world.remote.rules.redaction,
    )
    .unwrap();
    vec![
        ("no signature", to_raw_value(&none).unwrap()),
        ("a key that is not the server's", sign("remote.test", &other_key)),
        ("signed by another server", sign("other.test", &world.remote.keys[&server("other.test")])),
        ("changed after it was signed", to_raw_value(&moved).unwrap()),
        ("a key that was not valid then", to_raw_value(&object).unwrap()),
    ]
}

/// CVE-2019-18835: signatures were not checked on some ways in.
#[tokio::test]
async fn cve_2019_18835_signatures_are_checked_on_every_way_in() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    for (number, (what, event)) in spoilt(&world, &hello).into_iter().enumerate() {
        // As one of a transaction.
        let answer = world.send("remote.test", &number.to_string(), vec![event.clone()], &[]).await;
        // Whether there is such a key is not known while its server cannot be asked: the event waits, and comes in nowhere.
        let waits = what.starts_with("a key");
        assert!(answer.values().all(|answer| answer.is_ok() == waits), "{what}: {answer:?}");
        // As one that was fetched: of a gap, as state, as history.
        let fetched = world.inbound.0.gaps.verified(&world.room, &[event], References::Unlimited).await;
        assert!(fetched.unwrap().is_empty(), "{what}");
    }
    assert_eq!(world.inbound.0.unverified.look().await.unwrap(), 2);
    world.inbound.idle().await;
    assert_eq!(world.server.history(&world.room).await.first(), Some(&join));
    // Through the endpoints for joins, leaves and knocks.
    for membership in [Membership::Join, Membership::Leave, Membership::Knock] {
        let member =
            world.remote.member("@dan:remote.test", &[&join], "@dan:remote.test", membership.as_str());
        for (what, event) in spoilt(&world, &member) {
            let id = crate::federation::verify::Verifier::event_id(&event, &world.room.rules).unwrap();
            let (origin, room_id) = (server("remote.test"), &world.room.room_id);
            let refused = match membership {
                Membership::Join => {
                    let joined = world.inbound.join_through(&origin, room_id, &id, &event, false).await;
                    joined.map(drop).unwrap_err()
                }
                Membership::Leave => {
                    world.inbound.leave_through(&origin, room_id, &id, &event).await.unwrap_err()
                }
                _ => world.inbound.knock_through(&origin, room_id, &id, &event).await.map(drop).unwrap_err(),
            };
            assert!(matches!(refused, ThroughError::Invalid(_)), "{what}: {refused}");
            assert!(!world.is_here(&id).await, "{what}");
        }
    }
}

/// CVE-2022-39200: events that were fetched for a gap were believed unchecked.
#[tokio::test]
async fn cve_2022_39200_what_fills_a_gap_is_checked() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    let last = world.remote.message("@bob:remote.test", &[&hello], "last");
    world.publish();
    for (number, (what, event)) in spoilt(&world, &hello).into_iter().enumerate() {
        world.others.0.lock().unwrap().events.get_mut(&hello).unwrap().0 = event;
        world.send("remote.test", &number.to_string(), vec![world.json(&last)], &[]).await;
        world.inbound.0.staging.repairs().attempt(world.room.number, 0).await.unwrap();
        assert!(!world.is_here(&hello).await, "{what}");
        assert!(!world.is_here(&last).await, "{what}");
    }
    // With the genuine one there is no gap.
    world.publish();
    world.send("remote.test", "genuine", vec![world.json(&last)], &[]).await;
    assert!(world.is_here(&hello).await && world.is_here(&last).await);
}

/// CVE-2020-26257: events of another room than the path names. And of other users, or of another kind.
#[tokio::test]
async fn cve_2020_26257_members_come_in_only_as_themselves() {
    let mut world = World::new().await;
    let (join, room_id) = (world.join.clone(), world.room.room_id.clone());
    let dan = "@dan:remote.test";
    let mut cases = vec![
        ("a message", world.remote.message("@bob:remote.test", &[&join], "hello")),
        (
            "power",
            world.remote.event("@bob:remote.test", &[&join], "m.room.power_levels", Some(""), &json!({})),
        ),
        ("another membership", world.remote.member(dan, &[&join], dan, "leave")),
        ("somebody else", world.remote.member("@bob:remote.test", &[&join], dan, "join")),
        ("another server's", world.remote.member("@eve:other.test", &[&join], "@eve:other.test", "join")),
    ];
    let (mut elsewhere, _) = crate::rooms::testing::Remote::new(world.remote.version.clone());
    elsewhere.room_id = "!elsewhere:remote.test".try_into().unwrap();
    let create = elsewhere.event(dan, &[], "m.room.create", Some(""), &json!({ "room_version": "11" }));
    let foreign = elsewhere.member(dan, &[&create], dan, "join");
    world.remote.nodes.insert(foreign.clone(), elsewhere.nodes[&foreign].clone());
    cases.push(("another room", foreign));
    for (what, event_id) in cases {
        let event = world.json(&event_id);
        let origin = server("remote.test");
        let inbound = &world.inbound;
        let joins = inbound.join_through(&origin, &room_id, &event_id, &event, false).await.map(drop);
        let knocks = inbound.knock_through(&origin, &room_id, &event_id, &event).await.map(drop);
        let mut ways = vec![("join", joins), ("knock", knocks)];
        if what != "another membership" {
            ways.push(("leave", inbound.leave_through(&origin, &room_id, &event_id, &event).await));
        }
        for (way, refused) in ways {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, ThroughError::Invalid(_)), "{what}, as a {way}: {refused}");
        }
        assert!(!world.is_here(&event_id).await, "{what}");
    }
    let good = world.remote.member(dan, &[&join], dan, "join");
    let event = world.json(&good);
    let named_else = world.inbound.join_through(&server("remote.test"), &room_id, &join, &event, false).await;
    assert!(matches!(named_else.map(drop).unwrap_err(), ThroughError::Invalid(_)));
    let joined = world.inbound.join_through(&server("remote.test"), &room_id, &good, &event, false).await;
    let joined = joined.unwrap();
    assert!(joined.state.iter().any(|event| event.record.kind == "m.room.create"));
    assert_eq!(joined.event.get(), event.get());
    assert!(world.is_here(&good).await);
}

/// A content that does not fit its hash is dropped, the event is not.
#[tokio::test]
async fn a_content_without_its_hash_is_redacted() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    let mut changed: Value = serde_json::from_str(world.json(&hello).get()).unwrap();
    changed["content"]["body"] = json!("something else");
    changed["unsigned"] = json!({ "age": 1, "redacted_because": {} });
    let answer = world.send("remote.test", "1", vec![to_raw_value(&changed).unwrap()], &[]).await;
    assert_eq!(answer[&hello], Ok(()));
    let stored = world.server.stored(&world.room, &hello).await;
    let json: Value = serde_json::from_slice(&stored.json).unwrap();
    assert_eq!(json["content"], json!({}));
    assert_eq!(json.get("unsigned"), None);
}

/// CVE-2026-24471: what this server signs, it has built or checked field by field.
#[tokio::test]
async fn cve_2026_24471_templates_are_not_signed() {
    let world = World::new().await;
    let (origin, room_id) = (server("remote.test"), &world.room.room_id);
    let dan: ruma::OwnedUserId = "@dan:remote.test".try_into().unwrap();
    let versions = [world.room.version.clone()];
    let template =
        world.inbound.template(&origin, room_id, &dan, Membership::Join, Some(&versions)).await.unwrap();
    assert_eq!(template.event.get("signatures"), None);
    assert_eq!(template.event["content"], json!({ "membership": "join" }));
    let other: ruma::OwnedUserId = "@dan:other.test".try_into().unwrap();
    let refused = world.inbound.template(&origin, room_id, &other, Membership::Join, None).await;
    assert!(matches!(refused, Err(ThroughError::OtherServersUser)));
    let versions = [ruma::RoomVersionId::V1];
    let refused = world.inbound.template(&origin, room_id, &dan, Membership::Join, Some(&versions)).await;
    assert!(matches!(refused, Err(ThroughError::Version(version)) if version == world.room.version));
    let refused = world.inbound.template(&origin, room_id, &dan, Membership::Knock, None).await;
    assert!(matches!(refused, Err(ThroughError::Template(_))), "nobody knocks at an open door");
}
