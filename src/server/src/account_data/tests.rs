//! Tests of account data.

use super::*;
use crate::room_lookup::tests::database;

const ALICE: UserNumber = UserNumber(1);
const BOB: UserNumber = UserNumber(2);
const ROOM: RoomNumber = RoomNumber(7);

async fn service() -> AccountData {
    AccountData::new(database().await)
}

impl AccountData {
    fn head(&self) -> Position {
        self.database.store().head()
    }

    async fn types(&self, since: Option<Position>, upto: Position) -> Vec<String> {
        let changes = self.changes(ALICE, since, upto).await.unwrap();
        changes.into_iter().map(|datum| datum.event_type).collect()
    }
}

#[tokio::test]
async fn data_is_by_user_room_and_type() {
    let data = service().await;
    data.set(ALICE, None, "a", r#"{"n":1}"#).await.unwrap();
    data.set(ALICE, Some(ROOM), "a", r#"{"n":2}"#).await.unwrap();
    let content = async |user, room, kind: &'static str| {
        data.get(user, room, kind).await.unwrap().map(|datum| datum.content.get().to_owned())
    };
    assert_eq!(content(ALICE, None, "a").await.as_deref(), Some(r#"{"n":1}"#));
    assert_eq!(content(ALICE, Some(ROOM), "a").await.as_deref(), Some(r#"{"n":2}"#));
    assert_eq!(content(BOB, None, "a").await, None);
    assert_eq!(content(ALICE, Some(ROOM), "b").await, None);
}

#[tokio::test]
async fn a_sync_sees_each_change_once_and_only_the_last_value() {
    let data = service().await;
    let start = data.head();
    data.set(ALICE, None, "a", r#"{"x":1}"#).await.unwrap();
    data.set(ALICE, None, "b", r#"{"x":1}"#).await.unwrap();
    let middle = data.head();
    data.set(BOB, None, "c", r#"{"x":1}"#).await.unwrap();
    data.set(ALICE, None, "a", r#"{"again":true}"#).await.unwrap();
    let end = data.head();
    // "a" is newer than `middle`, so it belongs to the next sync.
    assert_eq!(data.types(Some(start), middle).await, ["b"]);
    assert_eq!(data.types(Some(middle), end).await, ["a"]);
    assert_eq!(data.types(Some(start), end).await, ["b", "a"]);
    assert_eq!(data.types(Some(end), end).await, Vec::<String>::new());
    let mut all = data.types(None, end).await;
    all.sort_unstable();
    assert_eq!(all, ["a", "b"]);
    assert_eq!(data.types(None, middle).await, ["b"]);
}

#[tokio::test]
async fn large_data_is_stored_in_parts_and_shrinks_again() {
    let data = service().await;
    let large = format!(r#"{{"text":"{}"}}"#, "ä".repeat(200_000));
    data.set(ALICE, None, "a", &large).await.unwrap();
    let end = data.head();
    assert_eq!(data.get(ALICE, None, "a").await.unwrap().unwrap().content.get(), large);
    let changes = data.changes(ALICE, Some(Position::ZERO), end).await.unwrap();
    assert_eq!(changes[0].content.get(), large);
    let changes = data.changes(ALICE, None, end).await.unwrap();
    assert_eq!(changes[0].content.get(), large);
    data.set(ALICE, None, "a", r#"{"small":1}"#).await.unwrap();
    assert_eq!(data.get(ALICE, None, "a").await.unwrap().unwrap().content.get(), r#"{"small":1}"#);
    let usage = data.database.get::<AccountDataUsage>(&ALICE).await.unwrap().unwrap();
    assert_eq!(usage, DataUsage { count: 1, bytes: 11 });
}

#[tokio::test]
async fn the_largest_datum_fits_a_batch_and_a_larger_one_is_refused() {
    let data = service().await;
    let of = |bytes: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8));
    data.set(ALICE, None, "a", &of(CONTENT_BYTES_MAX)).await.unwrap();
    let refused = data.set(ALICE, None, "a", &of(CONTENT_BYTES_MAX + 1)).await;
    assert!(matches!(refused, Err(AccountDataError::TooLarge)));
    let refused = data.set(ALICE, None, "a", "[]").await;
    assert!(matches!(refused, Err(AccountDataError::NotAnObject)));
}

#[tokio::test]
async fn a_user_cannot_fill_the_disk() {
    let data = service().await;
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(CONTENT_BYTES_MAX - 8));
    let mut stored = 0;
    let refused = loop {
        match data.set(ALICE, None, &format!("type {stored}"), &large).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AccountDataError::TooMany));
    assert_eq!(stored, BYTES_PER_USER_MAX / u64::try_from(CONTENT_BYTES_MAX).unwrap());
    data.set(ALICE, None, "type 0", r#"{"x":1}"#).await.unwrap();
}

#[tokio::test]
async fn concurrent_changes_are_all_applied() {
    let data = service().await;
    let add = |name: String| {
        let data = data.clone();
        async move {
            data.update(ALICE, None, "list", |datum| {
                let mut list: BTreeMap<String, bool> =
                    datum.map(|datum| serde_json::from_str(datum.content.get()).unwrap()).unwrap_or_default();
                list.insert(name.clone(), true);
                Ok::<_, AccountDataError>(Some(serde_json::to_string(&list).unwrap()))
            })
            .await
        }
    };
    let results = futures_util::future::join_all((0..8).map(|n| add(format!("n{n}")))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let list = data.get(ALICE, None, "list").await.unwrap().unwrap();
    let list: BTreeMap<String, bool> = serde_json::from_str(list.content.get()).unwrap();
    assert_eq!(list.len(), 8);
}

#[tokio::test]
async fn a_deleted_datum_is_told_to_who_saw_it_and_gone_for_all_others() {
    let data = service().await;
    data.delete(ALICE, None, "a").await.unwrap();
    let before = data.head();
    let set = data.set(ALICE, None, "a", r#"{"x":1}"#).await.unwrap();
    assert_eq!(set, before.next(), "deleting nothing writes nothing");
    for way in ["delete", "set"] {
        data.set(ALICE, None, "a", r#"{"x":1}"#).await.unwrap();
        let since = data.head();
        match way {
            "delete" => data.delete(ALICE, None, "a").await.unwrap(),
            _ => drop(data.set(ALICE, None, "a", " { } ").await.unwrap()),
        }
        let upto = data.head();
        assert!(data.get(ALICE, None, "a").await.unwrap().is_none());
        let told = data.changes(ALICE, Some(since), upto).await.unwrap();
        assert_eq!(told.len(), 1);
        assert!(told[0].is_deleted());
        assert!(data.changes(ALICE, None, upto).await.unwrap().is_empty());
    }
}
