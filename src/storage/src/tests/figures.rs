//! Measurements, run by hand: `cargo test --profile quick -p allod-storage figures -- --ignored --nocapture`.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{open, options};
use crate::conformance::{POINT, RANGE};
use crate::{Batch, Key, LogEntry, Op, OpenOptions, Position, PositionAt, Profile, Scan, Space, Store};

fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "measures")]
fn now() -> Instant {
    Instant::now()
}

/// Ten rows of 400 bytes and a log entry: about one event.
fn event(number: u64) -> Batch {
    let mut ops: Vec<Op> = (0..9_u8)
        .map(|row| {
            let key = [number.to_be_bytes().as_slice(), &[row]].concat();
            let space = if row % 2 == 0 { POINT } else { RANGE };
            Op::Put(Key::new(space, key), vec![row; 400].into())
        })
        .collect();
    ops.push(Op::PutPosition {
        key: Key::new(RANGE, [0xff; 9]),
        value: vec![1; 400].into(),
        at: PositionAt::InKey(1),
    });
    Batch { ops, log: vec![LogEntry(vec![3; 30].into())], ..Batch::default() }
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS ?").to_owned()
}

fn per_second(count: u64, time: Duration) -> u128 {
    u128::from(count) * 1_000_000 / time.as_micros().max(1)
}

fn percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    say(&format!("{name}: p50 {:?} p90 {:?} p99 {:?} max {:?}", at(50), at(90), at(99), at(100)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn figures() {
    opening();
    let directory = tempfile::tempdir().unwrap();
    let start = now();
    let store = open(directory.path());
    say(&format!("first open {:?}, {}", start.elapsed(), resident()));
    let mut times = Vec::new();
    for number in 0..500 {
        let start = now();
        store.commit(event(number)).await.unwrap();
        times.push(start.elapsed());
    }
    percentiles("commit, one writer", times);
    let mut number = 1000;
    for writers in [8, 64, 512] {
        let before = store.statistics();
        let start = now();
        let each = 8000 / writers;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..writers {
            let (store, from) = (store.clone(), number);
            number += each;
            tasks.spawn(async move {
                let mut times = Vec::new();
                for number in from..from + each {
                    let start = now();
                    store.commit(event(number)).await.unwrap();
                    times.push(start.elapsed());
                }
                times
            });
        }
        let mut times = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            times.extend(ended.unwrap());
        }
        let took = start.elapsed();
        let after = store.statistics();
        let rate = per_second(writers * each, took);
        let groups = after.groups - before.groups;
        percentiles(&format!("commit, {writers} writers: {rate}/s, {groups} groups"), times);
    }
    let start = now();
    let commits: Vec<_> = (number..number + 8000).map(|number| store.submit(event(number))).collect();
    for commit in commits {
        commit.await.unwrap();
    }
    say(&format!("pipelined 8000: {}/s", per_second(8000, start.elapsed())));
    reads(&store, number).await;
    say(&format!("{:?}\n{}", store.statistics(), resident()));
    let start = now();
    store.close().await;
    say(&format!("close {:?}", start.elapsed()));
    let start = now();
    let store = open(directory.path());
    say(&format!("open with a log to replay {:?}", start.elapsed()));
    drop(store);
    let start = now();
    let store = Store::open(options(directory.path())).unwrap();
    say(&format!("open again {:?}", start.elapsed()));
    drop(store);
}

/// Start-up with as many spaces as the server declares.
fn opening() {
    const NAMES: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    let spaces: Vec<_> = (20..).zip(NAMES).map(|(id, name)| (Space { id, name }, Profile::Scan)).collect();
    let directory = tempfile::tempdir().unwrap();
    let options = OpenOptions { spaces: spaces.leak(), ..options(directory.path()) };
    for label in ["first", "second", "third"] {
        let start = now();
        let store = Store::open(options.clone()).unwrap();
        say(&format!("{label} open with 16 spaces {:?}, {}", start.elapsed(), resident()));
        let start = now();
        drop(store);
        say(&format!("close {:?}", start.elapsed()));
    }
}

async fn reads(store: &Store, last: u64) {
    const ROUNDS: u32 = 20_000;
    let key = |number: u64, row: u8| Key::new(POINT, [number.to_be_bytes().as_slice(), &[row]].concat());
    for label in ["cold and warm", "warm"] {
        let start = now();
        for number in 0..ROUNDS {
            assert!(store.get(&key(1000 + u64::from(number) % (last - 1000), 2)).await.unwrap().is_some());
        }
        say(&format!("get, {label}: {:?}", start.elapsed() / ROUNDS));
    }
    let start = now();
    for number in 0..ROUNDS / 10 {
        let keys: Vec<Key> = (0..10).map(|step| key(1000 + u64::from(number) + step, 4)).collect();
        assert!(store.multi_get(&keys).await.unwrap().iter().all(Option::is_some));
    }
    say(&format!("multi_get of 10: {:?}", start.elapsed() / (ROUNDS / 10)));
    let start = now();
    for number in 0..ROUNDS / 10 {
        let low = u64::from(1000 + number).to_be_bytes().to_vec();
        let scan = Scan { space: RANGE, low, high: vec![], reverse: false, limit: 50, keys_only: false };
        assert_eq!(store.scan(&scan).await.unwrap().rows.len(), 50);
    }
    say(&format!("scan of 50: {:?}", start.elapsed() / (ROUNDS / 10)));
    let start = now();
    for _ in 0..ROUNDS / 10 {
        let after = Position::new(store.head().get() - 20);
        assert_eq!(store.read_log(after, 100).await.unwrap().len(), 20);
    }
    say(&format!("read_log of 20: {:?}", start.elapsed() / (ROUNDS / 10)));
}
