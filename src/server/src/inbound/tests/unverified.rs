//! Events whose keys are not to be had when they come.

use allod_storage::Position;
use serde_json::json;

use super::world::{World, raw, server};
use crate::{database::Range, log::Happened, tables::inbound::UnverifiedEvent};

/// Nobody answers there, and nobody is asked: the address is no public one.
const AWAY: &str = "10.0.0.1:1";

async fn waiting(world: &World) -> usize {
    world.server.fixture.database.scan_all(Range::<UnverifiedEvent>::whole()).await.unwrap().len()
}

/// An event that somebody of a server sent which cannot be asked for its key comes through another, and is not lost.
#[tokio::test]
async fn an_event_waits_for_the_key_to_verify_it_with() {
    let mut world = World::new().await;
    let (join, dan) = (world.join.clone(), format!("@dan:{AWAY}"));
    let joins = world.remote.member(&dan, &[&join], &dan, "join");
    let hello = world.remote.message("@bob:remote.test", &[&join], "hello");
    let pdus = vec![world.json(&joins), world.json(&hello)];
    let answer = world.send("remote.test", "1", pdus, &[]).await;
    assert_eq!((&answer[&joins], &answer[&hello]), (&Ok(()), &Ok(())));
    assert!(!world.is_here(&joins).await);
    assert!(world.is_here(&hello).await, "it holds up nothing");
    assert_eq!(waiting(&world).await, 1);

    world.reopen().await;
    assert_eq!(world.inbound.0.unverified.look().await.unwrap(), 1, "its key is still not to be had");
    world.learn_keys().await;
    assert_eq!(world.inbound.0.unverified.look().await.unwrap(), 0);
    world.inbound.idle().await;
    assert!(world.is_here(&joins).await);
    assert_eq!(waiting(&world).await, 0);
}

/// Only what is genuine comes in by that way.
#[tokio::test]
async fn what_waited_is_verified_like_everything_else() {
    let mut world = World::new().await;
    let (join, dan) = (world.join.clone(), format!("@dan:{AWAY}"));
    let joins = world.remote.member(&dan, &[&join], &dan, "join");
    let mut forged: serde_json::Value = serde_json::from_str(world.json(&joins).get()).unwrap();
    forged["origin_server_ts"] = json!(77);
    let forged = raw(forged.to_string().as_bytes());
    let id = crate::federation::verify::Verifier::event_id(&forged, &world.room.rules).unwrap();
    // And a copy with the genuine one's id, which must not push it out.
    let mut copy: serde_json::Value = serde_json::from_str(world.json(&joins).get()).unwrap();
    let signature = copy["signatures"][AWAY].as_object_mut().unwrap().values_mut().next().unwrap();
    *signature = json!("A".repeat(86));
    let copy = raw(copy.to_string().as_bytes());
    for (number, event) in [world.json(&joins), forged.clone(), copy].into_iter().enumerate() {
        let answer = world.send("remote.test", &number.to_string(), vec![event], &[]).await;
        assert!(answer.values().all(Result::is_ok), "{answer:?}");
    }
    assert_eq!(waiting(&world).await, 3);
    world.learn_keys().await;
    assert_eq!(world.inbound.0.unverified.look().await.unwrap(), 0);
    world.inbound.idle().await;
    assert!(!world.is_here(&id).await);
    assert!(world.is_here(&joins).await);
    assert_eq!(waiting(&world).await, 0);
    // Who is not in the room has nothing wait for it, and none wait without end.
    let answer = world.send("stranger.test", "1", vec![forged], &[]).await;
    assert!(answer[&id].is_err());
}

#[tokio::test]
async fn no_more_than_some_wait() {
    let mut world = World::new().await;
    let (join, dan) = (world.join.clone(), format!("@dan:{AWAY}"));
    let mut refused = 0;
    for number in 0..5 {
        let events: Vec<_> =
            (0..50).map(|index| world.remote.message(&dan, &[&join], &format!("{number} {index}"))).collect();
        let pdus = events.iter().map(|event| world.json(event)).collect();
        let answer = world.send("remote.test", &number.to_string(), pdus, &[]).await;
        refused += answer.values().filter(|answer| answer.is_err()).count();
    }
    assert_eq!((waiting(&world).await, refused), (200, 50));
}

/// A crash between the two would leave the other servers without the join.
#[tokio::test]
async fn a_join_through_this_server_and_its_relay_are_one_commit() {
    let mut world = World::new().await;
    let (join, dan) = (world.join.clone(), "@dan:remote.test");
    let joins = world.remote.member(dan, &[&join], dan, "join");
    let event = world.json(&joins);
    let origin = server("remote.test");
    for _ in 0..2 {
        // The second time it is here already, and handed on already.
        world.inbound.join_through(&origin, &world.room.room_id, &joins, &event, false).await.unwrap();
    }
    let number = world.server.stored(&world.room, &joins).await.number;
    let log = world.server.fixture.database.store().read_log(Position::ZERO, 1_000).await.unwrap();
    let told: Vec<Vec<Happened>> =
        log.iter().map(|record| record.entries.iter().filter_map(Happened::decode).collect()).collect();
    let room = world.room.number;
    let relays = Happened::Relay { room, event: number };
    let with: Vec<_> = told.iter().filter(|entries| entries.contains(&relays)).collect();
    assert_eq!(with.len(), 1);
    assert!(with[0].contains(&Happened::Event { room, event: number }));
}
