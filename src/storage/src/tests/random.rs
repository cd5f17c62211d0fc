//! Random batches on each engine, against a simple model; and the order of encoded keys.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::open;
use crate::codec::{KeyCodec, KeyWriter, prefix_end};
use crate::conformance::{POINT, QUEUE, RANGE, SPACES};
use crate::faults::{Faults, FaultyStore};
use crate::{
    AuditEntry, Batch, Check, Commit, CommitError, Key, LogEntry, LogRecord, Op, Position, PositionAt, Scan,
    Space, Store,
};

/// What a store should hold, said as simply as possible.
#[derive(Default)]
struct Model {
    rows: BTreeMap<(u8, Vec<u8>), Bytes>,
    log: Vec<LogRecord>,
    audit: Vec<AuditEntry>,
}

impl Model {
    fn commit(&mut self, batch: &Batch) -> Result<u64, usize> {
        for (index, check) in batch.checks.iter().enumerate() {
            let holds = match check {
                Check::Absent(key) => self.get(key).is_none(),
                Check::Exists(key) => self.get(key).is_some(),
                Check::Equals(key, value) => self.get(key) == Some(value),
            };
            if !holds {
                return Err(index);
            }
        }
        let position = self.head().next();
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => self.put(key.bytes.clone(), key, value.to_vec()),
                Op::PutPosition { key, value, at } => {
                    let (mut bytes, mut value) = (key.bytes.clone(), value.to_vec());
                    let place = |bytes: &mut Vec<u8>, at: usize| {
                        bytes.splice(at..at + 8, position.get().to_be_bytes());
                    };
                    match *at {
                        PositionAt::InKey(at) => place(&mut bytes, at),
                        PositionAt::InValue(at) => place(&mut value, at),
                        PositionAt::InBoth(in_key, in_value) => {
                            place(&mut bytes, in_key);
                            place(&mut value, in_value);
                        }
                    }
                    self.put(bytes, key, value);
                }
                Op::Delete(key) => {
                    self.rows.remove(&(key.space, key.bytes.clone()));
                }
                Op::DeleteRange { low, high } => self.rows.retain(|(space, bytes), _| {
                    *space != low.space || *bytes < low.bytes || (!high.is_empty() && *bytes >= *high)
                }),
            }
        }
        self.log.push(LogRecord { position, entries: batch.log.clone().into() });
        self.audit.extend(batch.audit.iter().cloned());
        Ok(position.get())
    }

    fn head(&self) -> Position {
        self.log.last().map_or(Position::ZERO, |record| record.position)
    }

    fn get(&self, key: &Key) -> Option<&Bytes> {
        self.rows.get(&(key.space, key.bytes.clone()))
    }

    fn put(&mut self, bytes: Vec<u8>, key: &Key, value: Vec<u8>) {
        self.rows.insert((key.space, bytes), value.into());
    }
}

fn space() -> impl Strategy<Value = Space> {
    prop_oneof![Just(POINT), Just(RANGE), Just(QUEUE)]
}

/// Few different keys, so that batches meet.
fn key_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0_u8), Just(1), Just(255)], 0..4)
}

fn key() -> impl Strategy<Value = Key> {
    (space(), key_bytes()).prop_map(|(space, bytes)| Key::new(space, bytes))
}

fn value() -> impl Strategy<Value = Bytes> {
    vec(0..3_u8, 0..3).prop_map(Bytes::from)
}

fn check() -> impl Strategy<Value = Check> {
    prop_oneof![
        key().prop_map(Check::Absent),
        key().prop_map(Check::Exists),
        (key(), value()).prop_map(|(key, value)| Check::Equals(key, value)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let position = (key(), value(), 0..3_u8).prop_map(|(key, value, at)| {
        let (in_key, in_value) = (key.bytes.len(), value.len());
        let key = Key { space: key.space, bytes: [key.bytes.as_slice(), &[9; 10]].concat() };
        let value = Bytes::from([value.as_ref(), &[9; 10]].concat());
        let at = match at {
            0 => PositionAt::InKey(in_key),
            1 => PositionAt::InValue(in_value),
            _ => PositionAt::InBoth(in_key, in_value),
        };
        Op::PutPosition { key, value, at }
    });
    prop_oneof![
        6 => (key(), value()).prop_map(|(key, value)| Op::Put(key, value)),
        2 => position,
        2 => key().prop_map(Op::Delete),
        1 => (key(), key_bytes()).prop_map(|(low, high)| Op::DeleteRange { low, high }),
    ]
}

fn batch() -> impl Strategy<Value = Batch> {
    let checks = prop_oneof![3 => vec(check(), 0..1), 2 => vec(check(), 1..3)];
    let log = vec(value().prop_map(LogEntry), 0..3);
    let audit = vec(value().prop_map(AuditEntry), 0..2);
    (checks, vec(op(), 0..6), log, audit).prop_map(|(checks, ops, log, audit)| Batch {
        checks,
        ops,
        log,
        audit,
    })
}

/// Submits all batches at once, so that they meet in groups, and compares outcomes and contents.
async fn compare(store: &Store, batches: &[Batch]) -> Model {
    let mut model = Model::default();
    let commits: Vec<Commit> = batches.iter().map(|batch| store.submit(batch.clone())).collect();
    for (commit, batch) in commits.into_iter().zip(batches) {
        let outcome = match commit.await {
            Ok(position) => Ok(position.get()),
            Err(CommitError::Conflict(index)) => Err(index),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(outcome, model.commit(batch), "{batch:?}");
    }
    assert_holds(store, &model).await;
    model
}

async fn assert_holds(store: &Store, model: &Model) {
    assert_eq!(store.head(), model.head());
    assert_eq!(store.read_log(Position::ZERO, 1000).await.unwrap(), model.log);
    let audit = store.read_audit((Position::ZERO, 0), 1000).await.unwrap();
    assert_eq!(audit.into_iter().map(|record| record.entry).collect::<Vec<_>>(), model.audit);
    for space in [POINT, RANGE, QUEUE] {
        for reverse in [false, true] {
            let mut expected: Vec<_> = model
                .rows
                .iter()
                .filter(|((id, _), _)| *id == space.id)
                .map(|((_, bytes), value)| (Bytes::from(bytes.clone()), value.clone()))
                .collect();
            if reverse {
                expected.reverse();
            }
            let mut found = Vec::new();
            let mut next =
                Some(Scan { space, low: vec![], high: vec![], reverse, limit: 3, keys_only: false });
            while let Some(scan) = next {
                let page = store.scan(&scan).await.unwrap();
                next = scan.after(&page);
                found.extend(page.rows.into_iter().map(|row| (row.key, row.value)));
            }
            assert_eq!(found, expected);
        }
    }
    let keys: Vec<Key> = model
        .rows
        .keys()
        .take(1000)
        .map(|(space, bytes)| Key { space: *space, bytes: bytes.clone() })
        .collect();
    let values = store.multi_get(&keys).await.unwrap();
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.as_ref(), model.get(key));
        assert_eq!(store.get(key).await.unwrap(), value);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn memory(batches in vec(batch(), 1..60)) {
        runtime().block_on(compare(&Store::memory(SPACES), &batches));
    }

    #[test]
    fn faulty_with_delays(batches in vec(batch(), 1..60), seed: u64) {
        let delay_max = std::time::Duration::from_millis(50);
        let faults = Faults { commit_delay: 200, read_delay: 100, delay_max, ..Faults::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            compare(&FaultyStore::new(Store::memory(SPACES), seed, faults).store(), &batches).await;
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn rocks(batches in vec(batch(), 1..80)) {
        let directory = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let store = open(directory.path());
            let model = compare(&store, &batches).await;
            // The same from tables on disk, and from the write-ahead log after a restart.
            for space in [POINT, RANGE, QUEUE] {
                store.compact(space).await.unwrap();
            }
            assert_holds(&store, &model).await;
            drop(store);
            assert_holds(&open(directory.path()), &model).await;
        });
    }
}

fn encode(value: &impl KeyCodec) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    value.encode(&mut writer);
    writer.finish().0
}

fn round_trips<T: KeyCodec + PartialEq + std::fmt::Debug>(value: &T) {
    let bytes = encode(value);
    let mut rest = bytes.as_slice();
    assert_eq!(T::decode(&mut rest).as_ref(), Some(value));
    assert!(rest.is_empty());
    if let Some((_, short)) = bytes.split_last() {
        assert_eq!(T::decode(&mut &*short), None);
    }
}

type Values = (u8, u16, u32, (u64, u128), [u8; 3]);

proptest! {
    #[test]
    fn encoded_order_is_the_order_of_values(one: Values, other: Values, same: bool) {
        // Half of the pairs differ only late.
        let other = if same { (one.0, one.1, one.2, other.3, other.4) } else { other };
        assert_eq!(encode(&one).cmp(&encode(&other)), one.cmp(&other));
        round_trips(&one);
    }

    #[test]
    fn positions_are_encoded_in_order(one: u64, other: u64) {
        let (one, other) = (Position::new(one), Position::new(other));
        assert_eq!(encode(&one).cmp(&encode(&other)), one.cmp(&other));
        round_trips(&one);
    }

    #[test]
    fn a_prefix_ends_where_its_keys_end(prefix in vec(any::<u8>(), 0..4), key in vec(any::<u8>(), 0..6)) {
        let end = prefix_end(&prefix);
        let inside = key >= prefix && (end.is_empty() || key < end);
        assert_eq!(inside, key.starts_with(&prefix));
    }
}

#[test]
fn a_pending_position_is_remembered() {
    let mut writer = KeyWriter::new();
    (7_u16, Position::PENDING, 1_u8).encode(&mut writer);
    let (bytes, pending) = writer.finish();
    assert_eq!((bytes.len(), pending), (11, Some(2)));
    assert_eq!(encode(&()), []);
    round_trips(&(1_u8,));
    round_trips(&(1_u8, 2_u64, 3_u32, [4_u8; 16], Position::new(5)));
}
