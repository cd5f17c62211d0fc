//! Single rows: order within a batch, positions in keys and values, reads of many keys.

use super::{POINT, QUEUE, RANGE, batch, get, key, put, value};
use crate::{Batch, Op, Position, PositionAt, Store};

pub(super) async fn order_within_a_batch(store: &Store) {
    let range = |low: &[u8], high: &[u8]| Op::DeleteRange { low: key(POINT, low), high: high.to_vec() };
    let ops = [
        put(POINT, b"a", b"1"),
        put(POINT, b"a", b"2"),
        put(POINT, b"b", b"1"),
        Op::Delete(key(POINT, b"b")),
        Op::Delete(key(POINT, b"c")),
        put(POINT, b"c", b"1"),
        put(POINT, b"d", b"1"),
        range(b"d", b"f"),
        put(POINT, b"e", b"1"),
    ];
    assert_eq!(store.commit(batch(ops)).await.unwrap(), Position::new(1));
    assert_eq!(get(store, POINT, b"a").await.as_deref(), Some(b"2".as_slice()));
    assert_eq!(get(store, POINT, b"b").await, None);
    assert_eq!(get(store, POINT, b"c").await.as_deref(), Some(b"1".as_slice()));
    assert_eq!(get(store, POINT, b"d").await, None);
    assert_eq!(get(store, POINT, b"e").await.as_deref(), Some(b"1".as_slice()));
    // The same key in another space is another row.
    assert_eq!(get(store, RANGE, b"a").await, None);
    store.commit(batch([Op::Delete(key(POINT, b"a")), Op::Delete(key(POINT, b"nothing"))])).await.unwrap();
    assert_eq!(get(store, POINT, b"a").await, None);
}

pub(super) async fn positions(store: &Store) {
    let template = |name: &[u8]| [name, &[0xff; 8], b"-"].concat();
    let placed = |name: &[u8], position: u64| [name, &position.to_be_bytes(), b"-"].concat();
    let op = |name: &[u8], at| Op::PutPosition {
        key: key(RANGE, template(name)),
        value: value(template(name)),
        at,
    };
    // Even an empty batch takes a position.
    assert_eq!(store.commit(Batch::default()).await.unwrap().get(), 1);
    let ops = [
        op(b"k", PositionAt::InKey(1)),
        op(b"v", PositionAt::InValue(1)),
        op(b"both", PositionAt::InBoth(4, 4)),
    ];
    for position in 2..=3 {
        assert_eq!(store.commit(batch(ops.clone())).await.unwrap().get(), position);
        assert_eq!(store.head().get(), position);
    }
    assert_eq!(get(store, RANGE, placed(b"k", 2)).await, Some(template(b"k")));
    assert_eq!(get(store, RANGE, placed(b"k", 3)).await, Some(template(b"k")));
    assert_eq!(get(store, RANGE, template(b"v")).await, Some(placed(b"v", 3)));
    assert_eq!(get(store, RANGE, placed(b"both", 2)).await, Some(placed(b"both", 2)));
    assert_eq!(get(store, RANGE, template(b"k")).await, None);
    // A later operation on the key that the position makes.
    let key_now = key(RANGE, placed(b"k", 4));
    store.commit(batch([op(b"k", PositionAt::InKey(1)), Op::Delete(key_now)])).await.unwrap();
    assert_eq!(get(store, RANGE, placed(b"k", 4)).await, None);
}

pub(super) async fn multi_get(store: &Store) {
    assert!(store.multi_get(&[]).await.unwrap().is_empty());
    let ops = (0..100_u8)
        .flat_map(|number| [put(POINT, [number], [number]), put(QUEUE, [number, 1], [number; 100])]);
    store.commit(batch(ops.collect::<Vec<_>>())).await.unwrap();
    // Of one space and of several; out of order, twice, and missing ones.
    let keys = [key(POINT, [3]), key(POINT, [200]), key(POINT, [1]), key(POINT, [3])];
    let values = store.multi_get(&keys).await.unwrap();
    assert_eq!(values, [Some(value([3])), None, Some(value([1])), Some(value([3]))]);
    let keys = [key(QUEUE, [3, 1]), key(POINT, [5]), key(RANGE, [5]), key(QUEUE, [3])];
    let values = store.multi_get(&keys).await.unwrap();
    assert_eq!(values, [Some(value([3; 100])), Some(value([5])), None, None]);
}
