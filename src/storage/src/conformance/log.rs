//! The log, the audit trail, subscriptions, and the end of a store.

use super::{POINT, RANGE, batch, entry, key, put, value};
use crate::{AuditEntry, Batch, CommitError, Error, Hint, LogRecord, Mode, Position, Scan, Store};

fn logged(entries: &[&[u8]]) -> Batch {
    Batch { log: entries.iter().map(entry).collect(), ..Batch::default() }
}

async fn positions(store: &Store, after: u64, limit: usize) -> Vec<u64> {
    let records = store.read_log(Position::new(after), limit).await.unwrap();
    records.iter().map(|record| record.position.get()).collect()
}

pub(super) async fn records(store: &Store) {
    assert_eq!(store.log_start().await.unwrap().get(), 1);
    store.commit(logged(&[b"one", b"", b"two"])).await.unwrap();
    store.commit(batch([put(POINT, [1], [1])])).await.unwrap();
    store.commit(logged(&[b"three"])).await.unwrap();
    let records = store.read_log(Position::ZERO, 1000).await.unwrap();
    let expected = [
        LogRecord { position: Position::new(1), entries: [entry(b"one"), entry(b""), entry(b"two")].into() },
        LogRecord { position: Position::new(2), entries: [].into() },
        LogRecord { position: Position::new(3), entries: [entry(b"three")].into() },
    ];
    assert_eq!(records, expected);
    assert_eq!(positions(store, 0, 2).await, [1, 2]);
    assert_eq!(positions(store, 1, 0).await, [0; 0]);
    assert_eq!(positions(store, 1, 5).await, [2, 3]);
    assert_eq!(positions(store, 3, 5).await, [0; 0]);
    assert_eq!(positions(store, u64::MAX, 5).await, [0; 0]);
    assert_eq!(store.log_start().await.unwrap().get(), 1);
}

pub(super) async fn trimming(store: &Store) {
    for number in 0..20 {
        store.commit(logged(&[&[number]])).await.unwrap();
    }
    store.trim_log(Position::ZERO).await.unwrap();
    assert_eq!(positions(store, 0, 2).await, [1, 2]);
    store.trim_log(Position::new(11)).await.unwrap();
    store.trim_log(Position::new(5)).await.unwrap();
    assert_eq!(store.log_start().await.unwrap().get(), 11);
    assert_eq!(positions(store, 0, 2).await, [11, 12]);
    assert_eq!(positions(store, 12, 2).await, [13, 14]);
    // Beyond the head there is nothing to trim, and what comes later is not lost.
    store.trim_log(Position::new(1000)).await.unwrap();
    assert_eq!(positions(store, 0, 1000).await, [0; 0]);
    assert_eq!(store.log_start().await.unwrap().get(), 21);
    assert_eq!(store.commit(logged(&[b"next"])).await.unwrap().get(), 21);
    assert_eq!(positions(store, 0, 1000).await, [21]);
    assert_eq!(store.log_start().await.unwrap().get(), 21);
}

pub(super) async fn audit(store: &Store) {
    for number in 0..5_u8 {
        let audit = (0..number).map(|index| AuditEntry(value([number, index]))).collect();
        store.commit(Batch { audit, ..Batch::default() }).await.unwrap();
    }
    let all = store.read_audit((Position::ZERO, 0), 1000).await.unwrap();
    let expected: Vec<(u64, u16)> =
        vec![(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 2), (5, 3)];
    let found: Vec<(u64, u16)> = all.iter().map(|record| (record.position.get(), record.index)).collect();
    assert_eq!(found, expected);
    assert_eq!(all[4].entry, AuditEntry(value([3, 1])));
    // The trail is not the log.
    store.trim_log(Position::new(100)).await.unwrap();
    for (index, record) in all.iter().enumerate() {
        let rest = store.read_audit((record.position, record.index), 3).await.unwrap();
        assert_eq!(rest, all[index + 1..all.len().min(index + 4)]);
    }
}

pub(super) async fn subscriptions(store: &Store) {
    let mut head = store.watch_head();
    assert_eq!(*head.borrow_and_update(), Position::ZERO);
    store.commit(logged(&[b"before"])).await.unwrap();
    let mut subscription = store.subscribe();
    assert_eq!(subscription.try_recv(), None);
    for number in 0..100 {
        drop(store.submit(logged(&[&[number]])));
    }
    for number in 0..100_u8 {
        let hint = subscription.recv().await;
        let position = Position::new(u64::from(number) + 2);
        let Some(Hint::Record(record)) = hint else { panic!("{hint:?} instead of {position}") };
        assert_eq!(record, LogRecord { position, entries: [entry([number])].into() });
        assert!(store.head() >= position);
        assert_eq!(store.read_log(Position::new(u64::from(number) + 1), 1).await.unwrap(), [record]);
    }
    head.changed().await.unwrap();
    assert_eq!(*head.borrow_and_update(), Position::new(101));
    // Whoever sleeps through many hints is told so, and then hears the newest.
    for _ in 0..6000 {
        drop(store.submit(logged(&[])));
    }
    store.commit(logged(&[b"last"])).await.unwrap();
    assert_eq!(subscription.recv().await, Some(Hint::Lagged));
    let mut newest = Position::ZERO;
    while newest < store.head() {
        let hint = subscription.recv().await;
        let Some(Hint::Record(record)) = hint else { panic!("{hint:?} after {newest}") };
        assert!(record.position > newest);
        newest = record.position;
    }
}

pub(super) async fn closing(store: &Store) {
    let mut subscription = store.subscribe();
    let late = store.submit(batch([put(POINT, [1], [1])]));
    assert_eq!(store.mode(), Mode::ReadWrite);
    store.try_recover().await.unwrap();
    store.close().await;
    assert_eq!(late.await.unwrap().get(), 1);
    assert!(matches!(subscription.recv().await, Some(Hint::Record(_))));
    assert_eq!(subscription.recv().await, None);
    assert_eq!(store.subscribe().recv().await, None);
    assert_eq!(store.head().get(), 1);
    assert!(matches!(store.get(&key(POINT, [1])).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.multi_get(&[key(POINT, [1])]).await, Err(Error::Unavailable(_))));
    let scan =
        Scan { space: RANGE, low: Vec::new(), high: Vec::new(), reverse: false, limit: 1, keys_only: false };
    assert!(matches!(store.scan(&scan).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.read_log(Position::ZERO, 1).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.commit(Batch::default()).await, Err(CommitError::Unavailable)));
    store.close().await;
}
