//! A full disk: read-only, nothing torn, and writing again once there is room, all in one process.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::open;
use rand::{RngCore, SeedableRng, rngs::StdRng};

use crate::conformance::{POINT, RANGE};
use crate::{Batch, CommitError, Hint, Key, LogEntry, Mode, Op, Position, Store, Subscription};

/// A small file system in memory, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(directory.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(directory)),
            other => {
                let reason = format!("SKIPPED: no small disk can be mounted here (needs root): {other:?}\n");
                std::io::stderr().write_all(reason.as_bytes()).unwrap();
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn batch(number: u64) -> Batch {
    let name = number.to_be_bytes();
    // Nothing that compression could make small, or the disk would not get full.
    let mut noise = vec![0; 8000];
    StdRng::seed_from_u64(number).fill_bytes(&mut noise);
    Batch {
        ops: vec![
            Op::Put(Key::new(POINT, name), noise.into()),
            Op::Put(Key::new(RANGE, name), vec![1].into()),
        ],
        log: vec![LogEntry(name.to_vec().into())],
        ..Batch::default()
    }
}

/// Whether a batch is there: as a whole or not at all.
async fn there(store: &Store, number: u64) -> bool {
    let name = number.to_be_bytes();
    let rows = store.multi_get(&[Key::new(POINT, name), Key::new(RANGE, name)]).await.unwrap();
    assert_eq!(rows[0].is_some(), rows[1].is_some(), "batch {number} is torn");
    rows[0].is_some()
}

/// Writes until nothing more is taken; returns the number of the batch whose outcome is unknown.
async fn fill(store: &Store, from: u64) -> u64 {
    for number in from.. {
        match store.commit(batch(number)).await {
            Ok(_) => {}
            Err(CommitError::Unknown) => return number,
            Err(error) => panic!("{error}"),
        }
        assert!(number < from + 20_000, "the disk does not get full");
    }
    unreachable!()
}

/// Every commit was told of, or that something was missed.
fn assert_told(hints: &mut Subscription, head: Position) {
    let mut seen = Position::ZERO;
    while let Some(hint) = hints.try_recv() {
        match hint {
            Hint::Record(record) => {
                assert!(record.position > seen);
                seen = record.position;
            }
            Hint::Lagged => {}
        }
    }
    assert_eq!(seen, head);
}

/// Takes all room there is, and what the engine lets go of in the background, until it lets go of nothing more.
async fn take_all(file: &mut std::fs::File) {
    let mut quiet = 0;
    while quiet < 30 {
        quiet += 1;
        while file.write_all(&[0x5a; 4096]).is_ok() {
            quiet = 0;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_then_room_again() {
    let Some(disk) = SmallDisk::mount() else { return };
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![0x5a; 24 << 20]).unwrap();
    let path = disk.path().join("db");
    let store = open(&path);
    let mut hints = store.subscribe();
    let unknown = fill(&store, 0).await;
    assert!(unknown > 100, "{unknown}");
    let Mode::ReadOnly { reason, .. } = store.mode() else { panic!("{:?}", store.mode()) };
    assert!(reason.contains("No space left"), "{reason}");
    assert!(matches!(store.commit(batch(unknown)).await, Err(CommitError::ReadOnly(_))));
    assert!(store.trim_log(Position::new(2)).await.is_err());
    // Still full: recovery fails, and whatever was acknowledged is still readable.
    let mut more = std::fs::File::create(disk.path().join("more")).unwrap();
    for _ in 0..2 {
        take_all(&mut more).await;
        assert!(store.try_recover().await.is_err());
        for number in 0..unknown {
            assert!(there(&store, number).await, "{number} of {unknown}");
        }
    }
    assert!(matches!(store.mode(), Mode::ReadOnly { .. }));
    assert_eq!(store.head().get(), unknown);
    // Room again: it recovers by itself.
    std::fs::remove_file(filler).unwrap();
    for _ in 0..200 {
        if store.mode() == Mode::ReadWrite {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(store.mode(), Mode::ReadWrite);
    let landed = there(&store, unknown).await;
    let head = store.head().get();
    assert_eq!(head, unknown + u64::from(landed));
    assert_eq!(store.commit(batch(unknown + 1)).await.unwrap().get(), head + 1);
    assert_told(&mut hints, store.head());
    let statistics = store.statistics();
    assert_eq!((statistics.write_failures, statistics.recoveries), (1, 1));
    drop(store);
    let store = open(&path);
    assert_eq!(store.head().get(), head + 1);
    for number in (0..unknown).chain([unknown + 1]) {
        assert!(there(&store, number).await);
    }
    let mut after = Position::ZERO;
    while after < store.head() {
        for record in store.read_log(after, 1000).await.unwrap() {
            assert_eq!(record.position, after.next());
            after = record.position;
        }
    }
}
