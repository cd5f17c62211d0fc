//! What is particular to the engine on disk: restarts, stamps, copies, budgets.

use bytes::Bytes;

use super::{open, options};
use crate::conformance::{POINT, QUEUE, RANGE};
use crate::{
    AuditEntry, Batch, Error, Key, KeyRange, LogEntry, Mode, Op, OpenOptions, Position, Profile, Scan, Space,
    Store,
};

fn row(number: u32, size: usize) -> Batch {
    let bytes = number.to_be_bytes();
    Batch {
        ops: vec![
            Op::Put(Key::new(POINT, bytes), vec![1; size].into()),
            Op::Put(Key::new(RANGE, bytes), vec![2; size].into()),
        ],
        log: vec![LogEntry(bytes.to_vec().into())],
        audit: vec![AuditEntry(bytes.to_vec().into())],
        ..Batch::default()
    }
}

fn refusal(options: OpenOptions) -> String {
    match Store::open(options) {
        Err(Error::Foreign(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn restarts_keep_everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut identity = None;
    for round in 0..4_u32 {
        let store = open(directory.path());
        assert_eq!(
            *identity.get_or_insert((store.creation_id(), store.generation())),
            (store.creation_id(), 1)
        );
        let head = u64::from(round) * 10;
        assert_eq!(store.head().get(), head);
        assert_eq!(*store.watch_head().borrow(), store.head());
        for number in 0..10 {
            let position = store.commit(row(round * 10 + number, 10)).await.unwrap();
            assert_eq!(position.get(), head + u64::from(number) + 1);
        }
        if round == 2 {
            store.trim_log(Position::new(15)).await.unwrap();
        }
        let start = if round < 2 { 1 } else { 15 };
        assert_eq!(store.log_start().await.unwrap().get(), start);
        let records = store.read_log(Position::ZERO, 1000).await.unwrap();
        let found: Vec<u64> = records.iter().map(|record| record.position.get()).collect();
        assert_eq!(found, (start..=head + 10).collect::<Vec<_>>());
        let audit = store.read_audit((Position::ZERO, 0), 1000).await.unwrap();
        assert_eq!(audit.last().unwrap().position.get(), head + 10);
        assert_eq!(audit.len(), usize::try_from(head).unwrap() + 10);
        if round % 2 == 0 {
            store.close().await;
            // The directory is free although a handle is left.
            drop(open(directory.path()));
        }
    }
}

const RENAMED: &[(Space, Profile)] = &[(Space { id: 16, name: "other" }, Profile::Point)];

#[tokio::test]
async fn others_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/db");
    drop(open(&path));
    let second = open(&path);
    assert!(matches!(Store::open(options(&path)), Err(Error::Unavailable(_))));
    drop(second);
    let reason = refusal(OpenOptions { server_name: "example.net".to_owned(), ..options(&path) });
    assert!(reason.contains("belongs to the server example.org, not to example.net"), "{reason}");
    let reason = refusal(OpenOptions { format: 0, ..options(&path) });
    assert!(reason.contains("newer allod") && reason.contains("restore the backup"), "{reason}");
    // An older format is taken over; then the older program is refused.
    drop(Store::open(OpenOptions { format: 5, ..options(&path) }).unwrap());
    refusal(options(&path));
    // A space's number that had another name.
    refusal(OpenOptions { format: 5, spaces: RENAMED, ..options(&path) });
    // Directories of others.
    let stranger = directory.path().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    std::fs::write(stranger.join("precious"), "data").unwrap();
    assert!(refusal(options(&stranger)).contains("is not empty"));
    assert_eq!(std::fs::read_dir(&stranger).unwrap().count(), 1);
    let other = directory.path().join("other");
    drop(rocksdb::DB::open_default(&other).unwrap());
    assert!(refusal(options(&other)).contains("another program"));
}

#[test]
fn bad_declarations_are_refused() {
    const OWN: &[(Space, Profile)] = &[(Space { id: 15, name: "x" }, Profile::Point)];
    const TAKEN: &[(Space, Profile)] = &[(Space { id: 16, name: "log" }, Profile::Point)];
    const TWICE: &[(Space, Profile)] =
        &[(Space { id: 16, name: "x" }, Profile::Point), (Space { id: 16, name: "y" }, Profile::Point)];
    const SAME: &[(Space, Profile)] =
        &[(Space { id: 16, name: "x" }, Profile::Point), (Space { id: 17, name: "x" }, Profile::Point)];
    for spaces in [OWN, TAKEN, TWICE, SAME] {
        assert!(matches!(Store::try_memory(spaces), Err(Error::Foreign(_))));
        let directory = tempfile::tempdir().unwrap();
        refusal(OpenOptions { spaces, ..options(directory.path()) });
    }
}

/// Versions declare more spaces, and fewer; what the older ones held is still there.
#[tokio::test]
async fn spaces_come_and_go() {
    const FEWER: &[(Space, Profile)] = &[(POINT, Profile::Point)];
    let directory = tempfile::tempdir().unwrap();
    let fewer = OpenOptions { spaces: FEWER, ..options(directory.path()) };
    drop(Store::open(fewer.clone()).unwrap());
    let store = open(directory.path());
    store.commit(row(1, 10)).await.unwrap();
    drop(store);
    let store = Store::open(fewer).unwrap();
    assert!(matches!(store.get(&Key::new(RANGE, [])).await, Err(Error::TooLarge(_))));
    drop(store);
    assert!(open(directory.path()).get(&Key::new(RANGE, 1_u32.to_be_bytes())).await.unwrap().is_some());
}

#[tokio::test]
async fn a_restored_copy_begins_a_generation() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy");
    let store = open(&directory.path().join("db"));
    store.commit(row(1, 10)).await.unwrap();
    store.checkpoint(&copy).await.unwrap();
    assert!(store.checkpoint(&copy).await.is_err(), "a copy is never overwritten");
    store.commit(row(2, 10)).await.unwrap();
    let restored = open(&copy);
    assert_eq!(restored.head().get(), 1);
    assert_eq!(restored.creation_id(), store.creation_id());
    assert_ne!(restored.generation(), store.generation());
    let generation = restored.generation();
    restored.commit(row(3, 10)).await.unwrap();
    drop(restored);
    let restored = open(&copy);
    assert_eq!((restored.generation(), restored.head().get()), (generation, 2));
    assert_eq!(store.generation(), 1);
}

/// The data is many times the budget: reads go to the disk, and memory stays within it.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let small = OpenOptions { memory_bytes: 8 << 20, ..options(directory.path()) };
    let store = Store::open(small.clone()).unwrap();
    let mut bytes = vec![0; 8000];
    let commits: Vec<_> = (0..4000_u32)
        .map(|number| {
            // Not to be compressed away.
            let mut noise = number;
            bytes.fill_with(|| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                noise.to_be_bytes()[0]
            });
            let mut batch = row(number, 1);
            batch.ops.push(Op::Put(Key::new(QUEUE, number.to_be_bytes()), bytes.clone().into()));
            store.submit(batch)
        })
        .collect();
    for commit in commits {
        commit.await.unwrap();
    }
    for space in [POINT, QUEUE] {
        store.compact(space).await.unwrap();
    }
    for step in [1, 7, 31] {
        for number in (0..4000_u32).step_by(step) {
            let keys = [Key::new(QUEUE, number.to_be_bytes()), Key::new(POINT, number.to_be_bytes())];
            assert!(store.get(&keys[0]).await.unwrap().is_some());
            assert!(store.multi_get(&keys).await.unwrap().iter().all(Option::is_some));
        }
    }
    let scan = Scan { space: QUEUE, low: vec![], high: vec![], reverse: true, limit: 200, keys_only: false };
    let (mut next, mut rows) = (Some(scan), 0);
    while let Some(scan) = next {
        let page = store.scan(&scan).await.unwrap();
        rows += page.rows.len();
        next = scan.after(&page);
    }
    assert_eq!(rows, 4000);
    let statistics = store.statistics();
    assert!(statistics.reads_pooled > 0 && statistics.reads_inline > 0, "{statistics:?}");
    assert!(statistics.cache_bytes <= statistics.cache_bytes_max * 5 / 4, "{statistics:?}");
    assert!(statistics.write_buffer_bytes <= 4 << 20, "{statistics:?}");
    assert_eq!(statistics.commits, 4000);
    assert!(statistics.groups < 2000, "{statistics:?}");
    assert_eq!(store.mode(), Mode::ReadWrite);
}

/// Bytes that no compression makes fewer.
fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut noise = seed;
    let mut next = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

/// Many rows at once, some of them in memory and some not, are what was written.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_are_read_whole_wherever_they_are() {
    const ROWS: u32 = 40_000;
    let directory = tempfile::tempdir().unwrap();
    let small = OpenOptions { memory_bytes: 8 << 20, ..options(directory.path()) };
    let store = Store::open(small).unwrap();
    let value = |number: u32| Bytes::from(noise(number, 400));
    let mut commits = Vec::new();
    for numbers in (0..ROWS).collect::<Vec<_>>().chunks(1000) {
        let put = |number: &u32| Op::Put(Key::new(POINT, number.to_be_bytes()), value(*number));
        commits.push(store.submit(Batch { ops: numbers.iter().map(put).collect(), ..Batch::default() }));
    }
    for commit in commits {
        commit.await.unwrap();
    }
    store.compact(POINT).await.unwrap();
    let mut noise = 1_u32;
    for round in 0..400 {
        let numbers: Vec<u32> = (0..100)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Some of them were never written.
                (noise >> 8) % (ROWS + ROWS / 10)
            })
            .collect();
        let keys: Vec<Key> = numbers.iter().map(|number| Key::new(POINT, number.to_be_bytes())).collect();
        let rows = store.multi_get(&keys).await.unwrap();
        for (number, row) in numbers.into_iter().zip(rows) {
            assert_eq!(row, (number < ROWS).then(|| value(number)), "round {round}, row {number}");
        }
    }
    let statistics = store.statistics();
    assert!(statistics.reads_pooled > 0, "{statistics:?}");
}

#[tokio::test]
async fn the_log_is_bounded_if_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(OpenOptions { log_records_max: 100, ..options(directory.path()) }).unwrap();
    for _ in 0..5000 {
        drop(store.submit(Batch::default()));
    }
    store.commit(Batch::default()).await.unwrap();
    assert!(store.log_start().await.unwrap().get() > 2000);
    let records = store.read_log(Position::new(4950), 1000).await.unwrap();
    assert_eq!(records.first().unwrap().position.get(), 4951);
}

/// After a deletion, or overwriting, and [`Store::compact_ranges`], the bytes are nowhere on the disk, however deep they
/// were buried; what is outside the ranges stays as it was.
#[tokio::test]
async fn compaction_removes_the_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let secret = b"a secret that must be gone";
    let stored = || {
        std::fs::read_dir(directory.path())
            .unwrap()
            .filter_map(|entry| std::fs::read(entry.unwrap().path()).ok())
            .any(|bytes| bytes.windows(secret.len()).any(|window| window == secret))
    };
    let store = Store::open(OpenOptions { compressed: false, ..options(directory.path()) }).unwrap();
    let commit = async |ops: Vec<Op>| store.commit(Batch { ops, ..Batch::default() }).await.unwrap();
    let put = |key: u8, value: &[u8]| Op::Put(Key::new(POINT, [key]), value.to_vec().into());
    commit(vec![put(1, b"first"), put(2, secret), put(3, secret), put(4, b"last")]).await;
    store.compact(RANGE).await.unwrap();
    assert!(stored());
    // In tables of the last level, below newer ones.
    store.compact(POINT).await.unwrap();
    commit(vec![put(1, b"newer")]).await;
    assert!(stored());
    commit(vec![Op::Delete(Key::new(POINT, [2])), put(3, b"overwritten")]).await;
    store.compact_ranges(&[KeyRange { space: POINT, low: vec![2], high: vec![4] }]).await.unwrap();
    // Old files are removed in the background.
    while stored() {
        tokio::task::yield_now().await;
    }
    let keys = [1, 2, 3, 4].map(|key| Key::new(POINT, [key]));
    let rows = store.multi_get(&keys).await.unwrap();
    let rows: Vec<Option<&[u8]>> = rows.iter().map(Option::as_deref).collect();
    assert_eq!(rows, [Some(&b"newer"[..]), None, Some(b"overwritten"), Some(b"last")]);
}
