//! Killed at random moments under load: what was acknowledged is there, in its order, once.
//!
//! `ALLOD_CRASH_ROUNDS` says how often, `ALLOD_CRASH_SEED` at which moments.

use std::{io::Write, time::Duration};

use allod_server::random::Random;
use axum::http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    http::Http,
    load::{Ledger, Plan},
    running::Running,
};

/// Rounds if nobody says.
const ROUNDS: u64 = 5;
/// The longest that a server lives in a round.
const LIFE_MS_MAX: u64 = 1200;
/// Some are killed before they answer: this long after their start at most.
const START_MS_MAX: u64 = 150;

fn below(random: &Random, limit: u64) -> u64 {
    u64::from_le_bytes(random.bytes()) % limit
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill() {
    let (rounds, seed) = (setting("ALLOD_CRASH_ROUNDS", ROUNDS), setting("ALLOD_CRASH_SEED", 1));
    let random = Random::seeded(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path());
    let mut ledger = Ledger::new(&server.address, 8, 4).await;
    let (mut unanswered, mut stored, mut starts) = (0, 0, 0);
    let mut openings = Vec::new();
    for round in 0..rounds {
        let name = round.to_string();
        let load = ledger.load(&server.address, Plan { name: &name, bytes: 100, messages: usize::MAX });
        sleep(Duration::from_millis(below(&random, LIFE_MS_MAX))).await;
        server.kill();
        let refusals = ledger.collect(load).await;
        assert!(refusals.is_empty(), "seed {seed}, round {round}: {refusals:?}");
        while below(&random, 4) == 0 {
            let mut process = Running::spawn(folder.path());
            sleep(Duration::from_millis(below(&random, START_MS_MAX))).await;
            process.kill().unwrap();
            process.wait().unwrap();
            starts += 1;
        }
        let began = Instant::now();
        server = Running::start(folder.path());
        openings.push(began.elapsed().as_millis());
        ledger.check(&server.address).await;
        let settled = ledger.settle(&server.address, 97).await;
        unanswered += settled.0;
        stored += settled.1;
    }
    server.stop();
    server = Running::start(folder.path());
    ledger.check(&server.address).await;
    server.stop();
    openings.sort_unstable();
    let line = format!(
        "crash: seed {seed}: killed {rounds} times under load and {starts} times while starting; {} messages \
         acknowledged, {unanswered} unanswered when it died, of which {stored} stored; open again in {} ms \
         (median), {} ms (most)\n",
        ledger.acknowledged() - unanswered,
        openings[openings.len() / 2],
        openings[openings.len() - 1],
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Delayed events whose time comes around the moment of a kill: each is in the room once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_event_is_sent_once_over_sigkill() {
    const WAITING: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
    let random = Random::seeded(setting("ALLOD_CRASH_SEED", 1));
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path());
    let mut http = Http::new(&server.address);
    let alice = http.register("alice").await;
    let room = http.send(&alice, Method::POST, "/_matrix/client/v3/createRoom", json!({})).await.ok();
    let room = format!("/_matrix/client/v3/rooms/{}", room["room_id"].as_str().unwrap());
    let mut scheduled = 0_u64;
    for _ in 0..3 {
        for _ in 0..30 {
            let delay = below(&random, 500);
            let path = format!("{room}/send/org.example.test/{scheduled}?org.matrix.msc4140.delay={delay}");
            http.send(&alice, Method::PUT, &path, json!({ "n": scheduled })).await.ok();
            scheduled += 1;
        }
        sleep(Duration::from_millis(below(&random, 300))).await;
        server.kill();
        server = Running::start(folder.path());
        http = Http::new(&server.address);
    }
    while http.send(&alice, Method::GET, WAITING, Value::Null).await.ok()["delayed_events"] != json!([]) {
        sleep(Duration::from_millis(20)).await;
    }
    let path = format!("{room}/messages?dir=b&limit=1000");
    let page = http.send(&alice, Method::GET, &path, Value::Null).await.ok();
    let events = page["chunk"].as_array().unwrap().iter();
    let mut sent: Vec<u64> = events.filter_map(|event| event["content"]["n"].as_u64()).collect();
    sent.sort_unstable();
    assert_eq!(sent, (0..scheduled).collect::<Vec<_>>());
    server.stop();
}
