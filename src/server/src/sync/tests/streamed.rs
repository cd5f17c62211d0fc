//! First syncs of accounts in many rooms, which are sent while they are made.

use std::collections::BTreeSet;

use serde_json::Value;

use super::world::{World, token};
use crate::sync::v3::SyncBody;

const ROOMS: usize = 200;

async fn many_rooms() -> (World, BTreeSet<String>) {
    let world = World::new(&["alice"]).await;
    let mut rooms = BTreeSet::new();
    for _ in 0..ROOMS {
        rooms.insert(world.room("alice").await.to_string());
    }
    (world, rooms)
}

#[tokio::test]
async fn parts_of_a_first_sync_are_one_answer() {
    let (world, rooms) = many_rooms().await;
    let body = world.sync.v3(world.request("alice", None)).await.unwrap();
    let SyncBody::Parts(mut parts) = body else { panic!("it is made in one piece") };
    let (mut text, mut count) = (Vec::new(), 0);
    while let Some(part) = parts.next().await {
        text.extend_from_slice(&part.unwrap());
        count += 1;
    }
    assert!(count > 2, "{count} parts");
    assert!(parts.next().await.is_none());
    let answer: Value = serde_json::from_slice(&text).unwrap();
    let shown: BTreeSet<String> = answer["rooms"]["join"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(shown, rooms);
    let next = world.sync.v3(world.request("alice", Some(token(&answer)))).await.unwrap();
    assert!(matches!(next, SyncBody::Whole(_)));
    let next: Value = serde_json::from_slice(&next.whole().await.unwrap()).unwrap();
    assert!(next.get("rooms").is_none(), "{next}");
}

#[tokio::test]
async fn an_answer_that_is_not_finished_is_no_answer() {
    let (world, _) = many_rooms().await;
    let body = world.sync.v3(world.request("alice", None)).await.unwrap();
    let SyncBody::Parts(mut parts) = body else { panic!("it is made in one piece") };
    parts.next().await.unwrap().unwrap();
    world.tasks.stopping().cancel();
    let rest = async {
        while let Some(part) = parts.next().await {
            if part.is_err() {
                return true;
            }
        }
        false
    };
    assert!(rest.await, "it ends as if it were whole");
}

#[tokio::test]
async fn who_goes_away_is_not_answered_further() {
    let (world, _) = many_rooms().await;
    let body = world.sync.v3(world.request("alice", None)).await.unwrap();
    let SyncBody::Parts(mut parts) = body else { panic!("it is made in one piece") };
    parts.next().await.unwrap().unwrap();
    drop(parts);
    let running = || world.tasks.running().iter().any(|(name, count)| *name == "streamed sync" && *count > 0);
    while running() {
        tokio::task::yield_now().await;
    }
}
