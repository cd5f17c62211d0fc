//! Tests of receipts.

use ruma::user_id;
use serde_json::{Value, json};

use super::*;
use crate::room_lookup::tests::{FakeRooms, database};

const ALICE: UserNumber = UserNumber(1);
const BOB: UserNumber = UserNumber(2);
const ROOM: RoomNumber = RoomNumber(1);

async fn service() -> Receipts {
    let database = database().await;
    let events = [("$1", 1), ("$2", 2), ("$3", 3)].map(|(id, position)| (id.to_owned(), position));
    let rooms = Arc::new(FakeRooms { events: events.into_iter().collect() });
    Receipts::new(database.clone(), AccountData::new(database), rooms, Clock::manual(1_000))
}

fn event(id: &str) -> OwnedEventId {
    id.try_into().unwrap()
}

fn read(id: &str) -> Marks {
    Marks { read: Some(event(id)), ..Marks::default() }
}

impl Receipts {
    fn head(&self) -> Position {
        self.database.store().head()
    }

    async fn alice(&self, marks: Marks) -> Result<(), ReceiptError> {
        self.mark(ROOM, ALICE, user_id!("@alice:a"), &marks).await
    }

    async fn seen_by(&self, user: UserNumber, since: Option<Position>) -> Vec<Value> {
        let changes = self.changes(&[(ROOM, since)], user, self.head()).await.unwrap();
        let contents = changes.into_iter().flat_map(|(_, contents)| contents);
        contents.map(|content| serde_json::from_str(content.get()).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_receipt_is_told_once_and_never_moves_back() {
    let receipts = service().await;
    let start = receipts.head();
    receipts.alice(read("$2")).await.unwrap();
    let told = json!({ "$2": { "m.read": { "@alice:a": { "ts": 1_000 } } } });
    assert_eq!(receipts.seen_by(BOB, Some(start)).await, std::slice::from_ref(&told));
    assert_eq!(receipts.seen_by(BOB, None).await, std::slice::from_ref(&told));
    let seen = receipts.head();
    receipts.alice(read("$1")).await.unwrap();
    receipts.alice(read("$2")).await.unwrap();
    assert_eq!(receipts.head(), seen);
    assert!(receipts.seen_by(BOB, Some(seen)).await.is_empty());
    receipts.alice(read("$3")).await.unwrap();
    let told = json!({ "$3": { "m.read": { "@alice:a": { "ts": 1_000 } } } });
    assert_eq!(receipts.seen_by(BOB, Some(start)).await, [told]);
    let unknown = receipts.alice(read("$elsewhere")).await;
    assert!(matches!(unknown, Err(ReceiptError::UnknownEvent)));
}

#[tokio::test]
async fn private_receipts_are_seen_by_nobody_else() {
    let receipts = service().await;
    receipts.alice(Marks { read_private: Some(event("$2")), ..Marks::default() }).await.unwrap();
    for since in [None, Some(Position::ZERO)] {
        assert!(receipts.seen_by(BOB, since).await.is_empty());
        let own = json!({ "$2": { "m.read.private": { "@alice:a": { "ts": 1_000 } } } });
        assert_eq!(receipts.seen_by(ALICE, since).await, [own]);
    }
}

#[tokio::test]
async fn switched_off_everybody_sees_only_their_own() {
    let receipts = service().await;
    receipts.set_shared(false);
    receipts.alice(read("$2")).await.unwrap();
    assert!(receipts.seen_by(BOB, None).await.is_empty());
    assert_eq!(receipts.seen_by(ALICE, None).await.len(), 1);
}

#[tokio::test]
async fn threads_have_receipts_of_their_own() {
    let receipts = service().await;
    receipts.alice(read("$2")).await.unwrap();
    receipts.alice(Marks { thread: ReceiptThread::Main, ..read("$2") }).await.unwrap();
    let contents = receipts.seen_by(BOB, Some(Position::ZERO)).await;
    assert_eq!(
        contents,
        [
            json!({ "$2": { "m.read": { "@alice:a": { "ts": 1_000 } } } }),
            json!({ "$2": { "m.read": { "@alice:a": { "ts": 1_000, "thread_id": "main" } } } }),
        ]
    );
    let mut threads: Vec<_> =
        receipts.own(ROOM, ALICE).await.unwrap().into_iter().map(|receipt| receipt.thread).collect();
    threads.sort();
    assert_eq!(threads, [None, Some("main".to_owned())]);
}

#[tokio::test]
async fn markers_are_set_together_and_the_read_marker_is_account_data() {
    let receipts = service().await;
    let before = receipts.head();
    let marks = Marks {
        fully_read: Some(event("$1")),
        read: Some(event("$2")),
        read_private: Some(event("$3")),
        ..Marks::default()
    };
    receipts.alice(marks).await.unwrap();
    assert_eq!(receipts.head(), before.next());
    let marker = async || {
        let datum = receipts.account_data.get(ALICE, Some(ROOM), FULLY_READ_TYPE).await.unwrap();
        datum.unwrap().content.get().to_owned()
    };
    assert_eq!(marker().await, r#"{"event_id":"$1"}"#);
    receipts.alice(Marks { fully_read: Some(event("$3")), ..Marks::default() }).await.unwrap();
    receipts.alice(Marks { fully_read: Some(event("$2")), ..Marks::default() }).await.unwrap();
    assert_eq!(marker().await, r#"{"event_id":"$3"}"#);
}

#[tokio::test]
async fn a_receipt_newer_than_the_sync_belongs_to_the_next() {
    let receipts = service().await;
    receipts.alice(read("$1")).await.unwrap();
    let upto = receipts.head();
    receipts.alice(read("$2")).await.unwrap();
    assert!(receipts.changes(&[(ROOM, Some(Position::ZERO))], BOB, upto).await.unwrap().is_empty());
    assert!(receipts.changes(&[(ROOM, None)], BOB, upto).await.unwrap().is_empty());
    assert_eq!(receipts.seen_by(BOB, Some(upto)).await.len(), 1);
}
