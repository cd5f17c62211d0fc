//! Killed at random moments: everything acknowledged is there, and nothing is torn.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::open;
use crate::conformance::{POINT, RANGE};
use crate::{Batch, Key, LogEntry, Op, Position, PositionAt, Scan, Store};

const DIRECTORY: &str = "ALLOD_STORAGE_CRASH_DIRECTORY";
const ROUNDS: u64 = 8;

/// What writer `writer` commits as its `number`th batch: three traces that belong together.
fn batch(writer: u64, number: u64) -> Batch {
    let name = [writer.to_be_bytes(), number.to_be_bytes()].concat();
    let filled = [name.as_slice(), &[7; 500]].concat();
    Batch {
        ops: vec![
            Op::PutPosition {
                key: Key::new(POINT, name.clone()),
                value: vec![0; 8].into(),
                at: PositionAt::InValue(0),
            },
            Op::PutPosition { key: Key::new(RANGE, [0; 8]), value: filled.into(), at: PositionAt::InKey(0) },
        ],
        log: vec![LogEntry(name.into())],
        ..Batch::default()
    }
}

/// The process that is killed: not a test of its own.
#[test]
#[ignore = "started by the crash test"]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&directory));
        let round = store.head().get();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let store = store.clone();
            writers.spawn(async move {
                for number in 0.. {
                    let number = round * 1_000_000 + number;
                    let position = store.commit(batch(writer, number)).await.unwrap();
                    let line = format!("ack {writer} {number} {position}\n");
                    // One write for one line, so that a line is printed whole or cut at the very end.
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    std::io::stdout().flush().unwrap();
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        std::process::exit(1);
    });
}

#[tokio::test]
async fn acknowledged_commits_survive_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tests::crash::child", "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut lines = Vec::new();
            let mut output = BufReader::new(output);
            let mut line = String::new();
            while output.read_line(&mut line).unwrap_or(0) > 0 {
                if line.ends_with('\n') {
                    lines.push(std::mem::take(&mut line));
                }
            }
            lines
        });
        // Long enough to open, and then a different moment each time, also while it is still opening.
        std::thread::sleep(Duration::from_millis(60 + (round * 389) % 700));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let mut words = line.split_whitespace();
            if words.next() == Some("ack") {
                let mut number = || words.next().unwrap().parse::<u64>().unwrap();
                let (writer, number, position) = (number(), number(), number());
                assert_eq!(
                    acknowledged.insert(position, (writer, number)),
                    None,
                    "a position was given twice"
                );
            }
        }
        let store = open(directory.path());
        assert_intact(&store, &acknowledged).await;
        store.close().await;
    }
    assert!(acknowledged.len() > 100, "only {} commits", acknowledged.len());
}

/// All that was acknowledged is there, and everything else that is there is whole.
async fn assert_intact(store: &Store, acknowledged: &BTreeMap<u64, (u64, u64)>) {
    let head = store.head().get();
    let mut rows = BTreeMap::new();
    let mut next =
        Some(Scan { space: RANGE, low: vec![], high: vec![], reverse: false, limit: 1000, keys_only: false });
    while let Some(scan) = next {
        let page = store.scan(&scan).await.unwrap();
        next = scan.after(&page);
        for row in page.rows {
            rows.insert(u64::from_be_bytes(row.key.as_ref().try_into().unwrap()), row.value.slice(..16));
        }
    }
    let mut after = Position::ZERO;
    loop {
        let records = store.read_log(after, 1000).await.unwrap();
        let Some(last) = records.last() else { break };
        let names: Vec<_> =
            records.iter().map(|record| Key::new(POINT, record.entries[0].0.to_vec())).collect();
        let points = store.multi_get(&names).await.unwrap();
        for (record, point) in records.iter().zip(points) {
            assert_eq!(record.position, after.next());
            after = record.position;
            assert_eq!(point.as_deref(), Some(after.get().to_be_bytes().as_slice()));
            assert_eq!(rows.get(&after.get()), Some(&record.entries[0].0));
        }
        assert_eq!(last.position, after);
    }
    assert_eq!((after.get(), u64::try_from(rows.len()).unwrap()), (head, head));
    for (position, (writer, number)) in acknowledged {
        let name = [writer.to_be_bytes(), number.to_be_bytes()].concat();
        assert_eq!(rows.get(position).map(AsRef::as_ref), Some(name.as_slice()), "lost {position}");
    }
}
