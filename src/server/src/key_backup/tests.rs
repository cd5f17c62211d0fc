//! Tests of key backups.

use allod_storage::{OpenOptions, Store};
use ruma::{owned_room_id, room_id};
use serde_json::json;

use super::*;
use crate::{
    room_lookup::tests::database,
    tables::{FORMAT, SPACES},
};

const ALICE: UserNumber = UserNumber(1);
const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

async fn service() -> KeyBackup {
    KeyBackup::new(database().await)
}

fn data(verified: bool, first: u64, forwarded: u64) -> Box<RawValue> {
    let value = json!({
        "first_message_index": first, "forwarded_count": forwarded, "is_verified": verified,
        "session_data": { "ciphertext": "x" },
    });
    serde_json::value::to_raw_value(&value).unwrap()
}

fn one(session: &str, data: Box<RawValue>) -> RoomKeys {
    RoomKeys::from([(owned_room_id!("!r:a"), BTreeMap::from([(session.to_owned(), data)]))])
}

#[tokio::test]
async fn only_the_newest_version_is_written() {
    let backup = service().await;
    assert!(matches!(backup.newest(ALICE).await, Err(BackupError::NotFound)));
    let first = backup.create(ALICE, ALGORITHM, "{}").await.unwrap();
    let second = backup.create(ALICE, ALGORITHM, "{}").await.unwrap();
    let refused = backup.put(ALICE, first, &one("s", data(true, 0, 0))).await;
    assert!(matches!(refused, Err(BackupError::WrongVersion { current }) if current == second));
    let unknown = backup.put(ALICE, 99, &one("s", data(true, 0, 0))).await;
    assert!(matches!(unknown, Err(BackupError::NotFound)));
    backup.delete(ALICE, second).await.unwrap();
    backup.delete(ALICE, second).await.unwrap();
    assert_eq!(backup.newest(ALICE).await.unwrap().number, first);
    assert_eq!(backup.create(ALICE, ALGORITHM, "{}").await.unwrap(), second + 1);
    assert!(matches!(backup.version(ALICE, second).await, Err(BackupError::NotFound)));
}

#[tokio::test]
async fn the_better_key_stays() {
    let backup = service().await;
    let version = backup.create(ALICE, ALGORITHM, "{}").await.unwrap();
    let stored = async || {
        let keys = backup.keys(ALICE, version, Which::Session(room_id!("!r:a"), "s")).await.unwrap();
        keys[room_id!("!r:a")]["s"].get().to_owned()
    };
    let order = [(false, 10, 6), (false, 10, 5), (false, 9, 9), (true, 11, 9)];
    for (index, (verified, first, forwarded)) in order.into_iter().enumerate() {
        let better = data(verified, first, forwarded);
        let totals = backup.put(ALICE, version, &one("s", better.clone())).await.unwrap();
        assert_eq!(totals, Totals { etag: u64::try_from(index).unwrap() + 1, count: 1 });
        for (verified, first, forwarded) in order.into_iter().take(index) {
            let after =
                backup.put(ALICE, version, &one("s", data(verified, first, forwarded))).await.unwrap();
            assert_eq!(after, totals);
        }
        assert_eq!(stored().await, better.get());
    }
}

#[tokio::test]
async fn many_keys_are_counted_and_deleted() {
    let backup = service().await;
    let version = backup.create(ALICE, ALGORITHM, "{}").await.unwrap();
    let sessions = (0..1_200).map(|n| (format!("s{n}"), data(true, n, 0))).collect();
    let keys =
        RoomKeys::from([(owned_room_id!("!r:a"), sessions), (owned_room_id!("!q:a"), BTreeMap::new())]);
    assert_eq!(backup.put(ALICE, version, &keys).await.unwrap().count, 1_200);
    backup
        .put(
            ALICE,
            version,
            &RoomKeys::from([(owned_room_id!("!q:a"), BTreeMap::from([("s".to_owned(), data(true, 0, 0))]))]),
        )
        .await
        .unwrap();
    let all = backup.keys(ALICE, version, Which::All).await.unwrap();
    assert_eq!(all.values().map(BTreeMap::len).sum::<usize>(), 1_201);
    let left = backup.delete_keys(ALICE, version, Which::Session(room_id!("!r:a"), "s7")).await.unwrap();
    assert_eq!(left.count, 1_200);
    assert_eq!(
        backup.delete_keys(ALICE, version, Which::Session(room_id!("!r:a"), "s7")).await.unwrap(),
        left
    );
    assert_eq!(backup.delete_keys(ALICE, version, Which::Room(room_id!("!r:a"))).await.unwrap().count, 1);
    assert_eq!(backup.delete_keys(ALICE, version, Which::All).await.unwrap().count, 0);
    assert!(backup.keys(ALICE, version, Which::All).await.unwrap().is_empty());
}

#[tokio::test]
async fn auth_data_may_change_and_the_algorithm_may_not() {
    let backup = service().await;
    let version = backup.create(ALICE, ALGORITHM, "{}").await.unwrap();
    backup.update(ALICE, version, ALGORITHM, r#"{"a":1}"#).await.unwrap();
    assert_eq!(backup.version(ALICE, version).await.unwrap().row.auth_data, r#"{"a":1}"#);
    assert!(matches!(backup.update(ALICE, version, "other", "{}").await, Err(BackupError::OtherAlgorithm)));
    let bad = serde_json::value::to_raw_value(&json!({ "is_verified": true })).unwrap();
    assert!(matches!(backup.put(ALICE, version, &one("s", bad)).await, Err(BackupError::Malformed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_write_at_once_is_all_there_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = OpenOptions::new(folder.path().join("database"), SPACES, FORMAT, "example.org");
    let store = Store::open(options).unwrap();
    let database = Database::open(store, &crate::random::Random::seeded(1)).await.unwrap();
    let backup = KeyBackup::new(database);
    let version = backup.create(ALICE, ALGORITHM, "{}").await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..64_u64 {
        let backup = backup.clone();
        writers.spawn(async move {
            // Half of them write what another writes too, from a later message on.
            let session = format!("s{}", number / 2);
            backup.put(ALICE, version, &one(&session, data(true, number, 0))).await.unwrap();
        });
    }
    writers.join_all().await;
    let keys = backup.keys(ALICE, version, Which::All).await.unwrap();
    let sessions = &keys[room_id!("!r:a")];
    assert_eq!(sessions.len(), 32);
    for (session, key) in sessions {
        let number: u64 = session[1..].parse().unwrap();
        assert!(
            key.get().contains(&format!(r#""first_message_index":{}"#, number * 2)),
            "the better one stays"
        );
    }
    let totals = backup.newest(ALICE).await.unwrap().row;
    assert_eq!(totals.count, 32);
    assert!((32..=64).contains(&totals.etag), "{}", totals.etag);
}
