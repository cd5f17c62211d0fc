//! Many at once: snapshots, visibility up to a position, checks as locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{POINT, QUEUE, RANGE, batch, checked, entry, get, key, put, value};
use crate::{Batch, Check, CommitError, Op, Position, PositionAt, SCAN_ROWS_MAX, Scan, Store};

/// Runs tasks of the runtime at once and waits for all.
async fn all<F>(tasks: impl IntoIterator<Item = F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut set = tokio::task::JoinSet::new();
    for task in tasks {
        set.spawn(task);
    }
    while let Some(ended) = set.join_next().await {
        ended.unwrap();
    }
}

/// A batch rewrites rows of all spaces; whoever reads them in one call finds them equal.
pub(super) async fn snapshots(store: &Store) {
    const ROWS: u8 = 40;
    let rewrite = |number: u32| {
        let spaces = [POINT, RANGE, QUEUE];
        let ops =
            spaces.iter().flat_map(|space| (0..ROWS).map(|row| put(*space, [row], number.to_be_bytes())));
        batch(ops.collect::<Vec<_>>())
    };
    store.commit(rewrite(0)).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..4 {
        let (store, done) = (store.clone(), Arc::clone(&done));
        readers.spawn(async move {
            let spaces = if reader % 2 == 0 { vec![POINT] } else { vec![POINT, QUEUE, RANGE] };
            let keys: Vec<_> =
                spaces.iter().flat_map(|space| (0..ROWS).map(|row| key(*space, [row]))).collect();
            let scan = Scan {
                space: RANGE,
                low: Vec::new(),
                high: Vec::new(),
                reverse: reader % 2 == 0,
                limit: 1000,
                keys_only: false,
            };
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads < 20 {
                let values = store.multi_get(&keys).await.unwrap();
                assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "a multi_get is no snapshot");
                let page = store.scan(&scan).await.unwrap();
                assert_eq!(page.rows.len(), usize::from(ROWS));
                assert!(
                    page.rows.windows(2).all(|pair| pair[0].value == pair[1].value),
                    "a page is no snapshot"
                );
                reads += 1;
                tokio::task::yield_now().await;
            }
        });
    }
    for number in 1..200 {
        store.commit(rewrite(number)).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = readers.join_next().await {
        ended.unwrap();
    }
}

/// A commit that nobody waits for is done all the same, and in its turn.
pub(super) async fn dropped_commits(store: &Store) {
    for number in 0..100_u8 {
        drop(store.submit(batch([put(POINT, b"last", [number]), put(RANGE, [number], [])])));
    }
    store.commit(Batch::default()).await.unwrap();
    assert_eq!(store.head().get(), 101);
    assert_eq!(get(store, POINT, b"last").await, Some(vec![99]));
    assert_eq!(super::ranges::all(store, RANGE).await.len(), 100);
}

/// Tasks count up one row under `Equals`; no count is lost, however many collide.
pub(super) async fn counters(store: &Store) {
    store.commit(batch([put(POINT, b"count", 0_u64.to_be_bytes())])).await.unwrap();
    all((0..8).map(|_| {
        let store = store.clone();
        async move {
            for _ in 0..25 {
                loop {
                    let bytes = store.get(&key(POINT, b"count")).await.unwrap().unwrap();
                    let count = u64::from_be_bytes(bytes.as_ref().try_into().unwrap());
                    let unchanged = [Check::Equals(key(POINT, b"count"), bytes)];
                    match store
                        .commit(checked(unchanged, [put(POINT, b"count", (count + 1).to_be_bytes())]))
                        .await
                    {
                        Ok(_) => break,
                        Err(CommitError::Conflict(0)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }))
    .await;
    assert_eq!(get(store, POINT, b"count").await, Some(200_u64.to_be_bytes().to_vec()));
    assert_eq!(store.head().get(), 201);
}

/// See [`super::visibility`].
pub(super) async fn visibility(store: &Store, writers: u64, readers: u64, commits: u64) {
    let total = writers * commits;
    let write = (0..writers).map(|writer| {
        let store = store.clone();
        async move {
            for number in 0..commits {
                let row = [writer.to_be_bytes(), number.to_be_bytes()].concat();
                let by_position =
                    Op::PutPosition { key: key(RANGE, [0; 8]), value: value(&row), at: PositionAt::InKey(0) };
                let mut batch = batch([by_position, put(POINT, &row, [])]);
                batch.log = vec![entry(&row)];
                let position = store.commit(batch).await.unwrap();
                assert!(store.head() >= position, "the head is behind an answer");
                // Own writes are read.
                assert!(get(&store, POINT, &row).await.is_some());
                let stored = get(&store, RANGE, position.get().to_be_bytes()).await;
                assert_eq!(stored.as_deref(), Some(row.as_slice()));
            }
        }
    });
    let read = (0..readers).map(|reader| {
        let store = store.clone();
        async move {
            let mut hints = store.subscribe();
            let mut seen = Position::ZERO;
            while seen.get() < total {
                let head = store.head();
                assert!(head >= seen, "the head went back");
                if head == seen {
                    let mut watch = store.watch_head();
                    watch.wait_for(|now| *now > seen).await.unwrap();
                    continue;
                }
                if reader % 2 == 0 {
                    assert_rows(&store, seen, head).await;
                } else {
                    assert_records(&store, seen, head).await;
                }
                seen = head;
                while hints.try_recv().is_some() {}
            }
        }
    });
    let write = async { all(write).await };
    let read = async { all(read).await };
    tokio::join!(write, read);
    assert_eq!(store.head().get(), total);
}

/// Rows keyed by position: all of `after + 1 ..= head` are there.
async fn assert_rows(store: &Store, after: Position, head: Position) {
    let mut next = after.next();
    while next <= head {
        let scan = Scan {
            space: RANGE,
            low: next.get().to_be_bytes().to_vec(),
            high: head.next().get().to_be_bytes().to_vec(),
            reverse: false,
            limit: SCAN_ROWS_MAX,
            keys_only: true,
        };
        let page = store.scan(&scan).await.unwrap();
        assert!(!page.rows.is_empty(), "a reader at {head} misses {next}");
        for row in page.rows {
            assert_eq!(row.key.as_ref(), next.get().to_be_bytes(), "a reader at {head} misses {next}");
            next = next.next();
        }
    }
}

/// Records of the log, likewise, and the row that each tells of.
async fn assert_records(store: &Store, after: Position, head: Position) {
    let mut after = after;
    while after < head {
        let records = store.read_log(after, SCAN_ROWS_MAX).await.unwrap();
        assert!(!records.is_empty(), "a reader at {head} has no log after {after}");
        let keys: Vec<_> = records.iter().map(|record| key(POINT, &record.entries[0].0)).collect();
        for record in &records {
            assert_eq!(record.position, after.next(), "the log has a gap");
            after = record.position;
        }
        let rows = store.multi_get(&keys).await.unwrap();
        assert!(rows.iter().all(Option::is_some), "the log tells of a row that is not there");
    }
}
