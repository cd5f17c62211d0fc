//! Limits: the same everywhere, and nothing of what passes one is written.

use super::{POINT, QUEUE, RANGE, assert_empty, batch, entry, get, key, put, value};
use crate::{
    AuditEntry, BATCH_BYTES_MAX, BATCH_ITEM_BYTES, Batch, Check, CommitError, Error, KEY_BYTES_MAX, Key,
    MULTI_GET_KEYS_MAX, Op, PositionAt, SCAN_ROWS_MAX, Scan, Store, VALUE_BYTES_MAX,
};

pub(super) async fn keys_and_values(store: &Store) {
    let longest = vec![0xff; KEY_BYTES_MAX];
    let largest = vec![7; VALUE_BYTES_MAX];
    store.commit(batch([put(POINT, &longest, &largest), put(RANGE, [], [])])).await.unwrap();
    assert_eq!(get(store, POINT, &longest).await, Some(largest));
    assert_eq!(get(store, RANGE, []).await, Some(Vec::new()));
    assert_eq!(get(store, RANGE, [0]).await, None);
}

pub(super) async fn batches(store: &Store) {
    // Ten rows, and one that fills the batch to the last byte.
    let row = VALUE_BYTES_MAX + 1 + BATCH_ITEM_BYTES;
    let rest = BATCH_BYTES_MAX - 10 * row - 1 - BATCH_ITEM_BYTES;
    let mut ops: Vec<Op> =
        (0..10).map(|number| put(RANGE, [number], vec![number; VALUE_BYTES_MAX])).collect();
    ops.push(put(RANGE, [10], vec![10; rest]));
    store.commit(batch(ops.clone())).await.unwrap();
    ops.push(Op::Delete(key(RANGE, [])));
    assert_too_large(store, batch(ops)).await;
    let items = BATCH_BYTES_MAX / BATCH_ITEM_BYTES;
    let many = |items: usize| Batch { audit: vec![AuditEntry(value([])); items], ..Batch::default() };
    store.commit(many(items)).await.unwrap();
    assert_too_large(store, many(items + 1)).await;
    assert_eq!(store.head().get(), 2);
}

pub(super) async fn reads(store: &Store) {
    let long = key(POINT, vec![0; KEY_BYTES_MAX + 1]);
    let foreign = Key { space: 99, bytes: Vec::new() };
    let own = Key { space: 1, bytes: Vec::new() };
    for bad in [long, foreign, own] {
        assert!(matches!(store.get(&bad).await, Err(Error::TooLarge(_))));
        assert!(matches!(store.multi_get(&[key(POINT, []), bad]).await, Err(Error::TooLarge(_))));
    }
    let mut keys = vec![key(POINT, []); MULTI_GET_KEYS_MAX];
    assert_eq!(store.multi_get(&keys).await.unwrap().len(), MULTI_GET_KEYS_MAX);
    keys.push(key(RANGE, []));
    assert!(matches!(store.multi_get(&keys).await, Err(Error::TooLarge(_))));
    let scan = Scan {
        space: RANGE,
        low: vec![0; KEY_BYTES_MAX + 1],
        high: Vec::new(),
        reverse: false,
        limit: SCAN_ROWS_MAX,
        keys_only: false,
    };
    assert!(store.scan(&scan).await.is_ok());
    assert!(matches!(
        store.scan(&Scan { limit: SCAN_ROWS_MAX + 1, ..scan.clone() }).await,
        Err(Error::TooLarge(_))
    ));
    let foreign = crate::Space { id: 99, name: "foreign" };
    assert!(matches!(store.scan(&Scan { space: foreign, ..scan }).await, Err(Error::TooLarge(_))));
}

pub(super) async fn refused_batches_leave_no_trace(store: &Store) {
    let long = key(RANGE, vec![0; KEY_BYTES_MAX + 1]);
    let foreign = Key { space: 99, bytes: Vec::new() };
    let own = Key { space: 1, bytes: Vec::new() };
    for bad in [long, foreign, own] {
        assert_too_large(store, batch([put(POINT, [1], [1]), Op::Put(bad.clone(), value([]))])).await;
        assert_too_large(store, batch([put(POINT, [1], [1]), Op::Delete(bad.clone())])).await;
        let range = Op::DeleteRange { low: bad.clone(), high: Vec::new() };
        assert_too_large(store, batch([put(POINT, [1], [1]), range])).await;
        for check in [Check::Absent(bad.clone()), Check::Exists(bad.clone()), Check::Equals(bad, value([]))] {
            let batch = Batch { checks: vec![check], ..batch([put(POINT, [1], [1])]) };
            assert_too_large(store, batch).await;
        }
    }
    let large = value(vec![0; VALUE_BYTES_MAX + 1]);
    assert_too_large(store, batch([Op::Put(key(QUEUE, [1]), large.clone())])).await;
    assert_too_large(store, Batch { log: vec![entry(&large)], ..batch([put(POINT, [1], [1])]) }).await;
    assert_too_large(store, Batch { audit: vec![AuditEntry(large)], ..batch([put(POINT, [1], [1])]) }).await;
    for at in [
        PositionAt::InKey(1),
        PositionAt::InValue(1),
        PositionAt::InBoth(0, 1),
        PositionAt::InBoth(1, 0),
        PositionAt::InKey(usize::MAX),
    ] {
        let op = Op::PutPosition { key: key(POINT, [0; 8]), value: value([0; 8]), at };
        assert_too_large(store, batch([put(POINT, [1], [1]), op])).await;
    }
    assert_empty(store).await;
}

async fn assert_too_large(store: &Store, batch: Batch) {
    let outcome = store.commit(batch).await;
    assert!(matches!(outcome, Err(CommitError::TooLarge(_))), "{outcome:?}");
}
