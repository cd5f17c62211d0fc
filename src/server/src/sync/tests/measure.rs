//! Measurements, to be run by hand: `cargo test --profile quick -p allod-server --lib sync::tests::measure -- --ignored
//! --nocapture --test-threads 1`.

use std::time::Duration;

use allod_storage::{OpenOptions, Store};
use serde_json::json;

use super::{
    sliding::list,
    world::{World, inline, token},
};
use crate::{
    sync::sliding::{ExtensionRooms, SlidingRequest},
    tables::SPACES,
};

const ROOMS: usize = 200;

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn open(path: &std::path::Path) -> Store {
    Store::open(OpenOptions::new(path, SPACES, 1, "example.org")).unwrap()
}

#[expect(clippy::print_stdout, reason = "it measures")]
fn report(what: &str, spent: &mut [Duration], bytes: usize) {
    spent.sort_unstable();
    let mean = spent.iter().sum::<Duration>() / u32::try_from(spent.len()).unwrap();
    println!(
        "{what}: least {:?}, median {:?}, mean {mean:?}, {bytes} bytes",
        spent[0],
        spent[spent.len() / 2]
    );
}

async fn timed(world: &World, request: crate::sync::v3::SyncRequest) -> (Duration, Vec<u8>) {
    let started = now();
    let body = world.sync.v3(request).await.unwrap().whole().await.unwrap();
    (started.elapsed(), body)
}

#[tokio::test]
#[ignore = "a measurement"]
async fn two_hundred_rooms() {
    let directory = tempfile::tempdir().unwrap();
    let mut rooms = Vec::new();
    {
        let store = open(directory.path());
        let world = World::over(store.clone(), &["alice", "bob"]).await;
        for number in 0..ROOMS {
            let room = world.room_with("alice", &["bob"]).await;
            world.set("alice", &room, "m.room.name", "", &json!({ "name": format!("Room {number}") })).await;
            world.say("alice", &room, "hello").await;
            rooms.push(room);
        }
        let (first, body) = timed(&world, world.request("bob", None)).await;
        report("first sync, the events in memory", &mut [first], body.len());
        drop(world);
        store.close().await;
    }
    let world = World::over(open(directory.path()), &["alice", "bob"]).await;
    let (first, body) = timed(&world, world.request("bob", None)).await;
    report("first sync after a restart", &mut [first], body.len());
    let mut again = Vec::new();
    for _ in 0..100 {
        again.push(timed(&world, world.request("bob", None)).await.0);
    }
    report("first sync again", &mut again, body.len());
    let mut lazy = world.request("bob", None);
    lazy.filter =
        inline(json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } } }));
    let (spent, short) = timed(&world, lazy).await;
    report("lazy first sync, one event a room", &mut [spent], short.len());

    let mut since = token(&serde_json::from_slice(&body).unwrap()).to_owned();
    let (mut changed, mut idle, mut bytes) = (Vec::new(), Vec::new(), 0);
    for room in rooms.iter().cycle().take(400) {
        world.say("alice", room, "hello").await;
        let (spent, body) = timed(&world, world.request("bob", Some(&since))).await;
        changed.push(spent);
        bytes = body.len();
        since = token(&serde_json::from_slice(&body).unwrap()).to_owned();
        let (spent, _) = timed(&world, world.request("bob", Some(&since))).await;
        idle.push(spent);
    }
    report("next sync, one room changed", &mut changed, bytes);
    report("next sync, nothing changed", &mut idle, 0);
}

/// An account in many rooms: a sliding sync of all of them, and the next one when one has changed.
#[tokio::test]
#[ignore = "a measurement"]
async fn five_thousand_rooms() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::over(open(directory.path()), &["alice", "bob"]).await;
    let mut rooms = Vec::new();
    for _ in 0..5_000 {
        rooms.push(world.room_with("alice", &["bob"]).await);
    }
    let mut all = world.sliding("bob", None, list(&[(0, 9_999)], 1));
    all.extensions.account_data = Some(ExtensionRooms::default());
    all.extensions.receipts = Some(ExtensionRooms::default());
    all.extensions.typing = Some(ExtensionRooms::default());
    let slide = async |pos: Option<String>| {
        let started = now();
        let body = world.sync.sliding(SlidingRequest { pos, ..all.clone() }).await.unwrap();
        let spent = started.elapsed();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        (spent, answer["pos"].as_str().map(str::to_owned), body.len())
    };
    let (first, mut pos, bytes) = slide(None).await;
    report("first sliding sync", &mut [first], bytes);
    let (mut changed, mut idle, mut bytes) = (Vec::new(), Vec::new(), (0, 0));
    for room in rooms.iter().step_by(10) {
        world.say("alice", room, "hello").await;
        let answer = slide(pos).await;
        changed.push(answer.0);
        bytes.0 = answer.2;
        let answer = slide(answer.1).await;
        idle.push(answer.0);
        bytes.1 = answer.2;
        pos = answer.1;
    }
    report("next sliding sync, one room changed", &mut changed, bytes.0);
    report("next sliding sync, nothing changed", &mut idle, bytes.1);
    let mut since = token(&world.sync("bob", None).await).to_owned();
    let mut v3 = Vec::new();
    for room in rooms.iter().step_by(10) {
        world.say("alice", room, "hello").await;
        let (spent, body) = timed(&world, world.request("bob", Some(&since))).await;
        v3.push(spent);
        since = token(&serde_json::from_slice(&body).unwrap()).to_owned();
    }
    report("next sync, one room changed", &mut v3, 0);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_hundred_readers() {
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..100).map(|number| format!("user{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::over(open(directory.path()), &names).await;
    let room = world.room_with(names[0], &names[1..]).await;
    let mut tokens = Vec::new();
    for name in &names {
        tokens.push(token(&world.sync(name, None).await).to_owned());
    }
    let mut spent = Vec::new();
    for _ in 0..20 {
        world.say(names[0], &room, "hello").await;
        for (name, since) in names.iter().zip(&mut tokens) {
            let (one, body) = timed(&world, world.request(name, Some(since))).await;
            spent.push(one);
            *since = token(&serde_json::from_slice(&body).unwrap()).to_owned();
        }
    }
    report("a delivery to one of a hundred", &mut spent, 0);
}
