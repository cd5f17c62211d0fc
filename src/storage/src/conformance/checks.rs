//! Checks, alone and against earlier batches that are still on their way.

use super::{POINT, QUEUE, RANGE, assert_empty, batch, checked, entry, get, key, put, value};
use crate::{AuditEntry, Batch, Check, CommitError, Op, Store};

pub(super) async fn each_kind(store: &Store) {
    store.commit(batch([put(POINT, b"k", b"v"), put(POINT, b"empty", b"")])).await.unwrap();
    let absent = |name: &[u8]| Check::Absent(key(POINT, name));
    let exists = |name: &[u8]| Check::Exists(key(POINT, name));
    let equals = |name: &[u8], stored: &[u8]| Check::Equals(key(POINT, name), value(stored));
    let good = [absent(b"x"), exists(b"k"), equals(b"k", b"v"), equals(b"empty", b""), exists(b"empty")];
    store.commit(checked(good.clone(), [])).await.unwrap();
    let bad = [
        absent(b"k"),
        absent(b"empty"),
        exists(b"x"),
        equals(b"k", b"w"),
        equals(b"k", b""),
        equals(b"x", b""),
        equals(b"empty", b"v"),
        Check::Exists(key(RANGE, b"k")),
    ];
    for check in bad {
        let mut checks = good.to_vec();
        checks.push(check);
        checks.push(absent(b"k"));
        assert!(matches!(store.commit(checked(checks, [])).await, Err(CommitError::Conflict(5))));
    }
    // Checks look at what was before the batch, not at what it does.
    store.commit(checked([absent(b"new")], [put(POINT, b"new", b"1")])).await.unwrap();
    let again = store.commit(checked([absent(b"new")], [Op::Delete(key(POINT, b"new"))])).await;
    assert!(matches!(again, Err(CommitError::Conflict(0))));
    assert_eq!(store.head().get(), 3);
}

pub(super) async fn failed_checks_leave_no_trace(store: &Store) {
    let refused = Batch {
        checks: vec![Check::Exists(key(QUEUE, b"nothing"))],
        ops: vec![put(POINT, b"k", b"v"), Op::DeleteRange { low: key(RANGE, []), high: Vec::new() }],
        log: vec![entry(b"log")],
        audit: vec![AuditEntry(value(b"audit"))],
    };
    assert!(matches!(store.commit(refused).await, Err(CommitError::Conflict(0))));
    assert_empty(store).await;
}

/// A chain of batches, each checking what the one before it wrote, with refused ones in between.
pub(super) async fn pipelined(store: &Store) {
    let mut commits = vec![store.submit(batch([put(POINT, b"n", [0])]))];
    for number in 1..200_u8 {
        let follows = [Check::Equals(key(POINT, b"n"), value([number - 1]))];
        commits.push(
            store.submit(checked(follows.clone(), [put(POINT, b"n", [number]), put(RANGE, [number], [])])),
        );
        // Too late now: the row holds `number` already. Its effects must not be seen by what follows.
        commits
            .push(store.submit(checked(follows, [Op::Delete(key(POINT, b"n")), put(QUEUE, [number], [])])));
        let absent = [Check::Absent(key(QUEUE, [number])), Check::Exists(key(RANGE, [number]))];
        commits.push(store.submit(checked(absent, [])));
    }
    let mut position = 0;
    for (index, commit) in commits.into_iter().enumerate() {
        let outcome = commit.await;
        if index > 0 && (index - 1) % 3 == 1 {
            assert!(matches!(outcome, Err(CommitError::Conflict(0))), "{index}: {outcome:?}");
        } else {
            position += 1;
            assert_eq!(outcome.unwrap().get(), position, "{index}");
        }
    }
    assert_eq!(get(store, POINT, b"n").await, Some(vec![199]));
    assert_eq!(store.head().get(), position);
    assert!(super::ranges::all(store, QUEUE).await.is_empty());
}

/// Deleted ranges and positions, seen by the checks of batches behind them.
pub(super) async fn pipelined_ranges(store: &Store) {
    let exists = |bytes: &[u8]| Check::Exists(key(RANGE, bytes));
    let absent = |bytes: &[u8]| Check::Absent(key(RANGE, bytes));
    let range = |low: &[u8], high: &[u8]| Op::DeleteRange { low: key(RANGE, low), high: high.to_vec() };
    store.commit(batch([put(RANGE, b"a", []), put(RANGE, b"b", []), put(RANGE, b"c", [])])).await.unwrap();
    for _ in 0..50 {
        let commits = [
            store.submit(checked([exists(b"a"), exists(b"b"), exists(b"c")], [put(RANGE, b"bb", [])])),
            store.submit(checked([exists(b"bb")], [range(b"b", b"c")])),
            store.submit(checked([absent(b"b"), absent(b"bb"), exists(b"a"), exists(b"c")], [])),
            store.submit(checked([exists(b"b")], [])),
            store.submit(batch([put(RANGE, b"b", []), range(b"c", [].as_slice()), put(QUEUE, b"c", [])])),
            store.submit(checked([exists(b"b"), absent(b"c"), Check::Exists(key(QUEUE, b"c"))], [])),
            store.submit(batch([range(b"z", b"a"), range(b"b", b"b"), put(RANGE, b"c", [])])),
            store.submit(checked([exists(b"a"), exists(b"b"), exists(b"c")], [])),
        ];
        for (index, commit) in commits.into_iter().enumerate() {
            let outcome = commit.await;
            assert_eq!(outcome.is_err(), index == 3, "{index}: {outcome:?}");
        }
    }
}
