//! Which ranges are erased and when, and that the bytes are gone.

use allod_storage::{OpenOptions, Store};
use ruma::server_name;

use super::*;
use crate::{
    numbers::{EventNumber, RoomNumber, UserNumber},
    random::Random,
    tables::{EVENT_JSON, FORMAT, rooms::EventJson},
};

const WITHIN: Duration = Duration::from_secs(24 * 3600);

async fn erasure(store: Store) -> Erasure {
    let clock = Clock::manual(1_700_000_000_000);
    let database = Database::open(store, &Random::seeded(1)).await.unwrap();
    Erasure::new(database, clock, WITHIN)
}

fn note(room: u32, low: u32, high: u32) -> ErasedRange {
    let key = |event: u32| [&[61], &room.to_be_bytes()[..], &event.to_be_bytes()].concat();
    ErasedRange { space: EVENT_JSON.id, low: key(low), high: key(high) }
}

#[test]
fn ranges_of_a_room_are_one_and_many_rooms_are_their_table() {
    let notes = [note(1, 7, 8), note(1, 3, 4), note(2, 1, 2)];
    let ranges = merged(notes.iter());
    assert_eq!(ranges.len(), 2);
    assert_eq!((&ranges[0].low, &ranges[0].high), (&notes[1].low, &notes[0].high));
    let notes: Vec<_> = (0..100).map(|room| note(room, 5, 6)).collect();
    let ranges = merged(notes.iter());
    assert_eq!(ranges.len(), 1);
    assert_eq!((&ranges[0].low, &ranges[0].high), (&notes[0].low, &notes[99].high));
    let given_up = ErasedRange { space: 200, ..note(1, 1, 2) };
    assert!(merged([&given_up].into_iter()).is_empty());
}

#[tokio::test]
async fn notes_wait_half_the_time_and_survive_until_they_are_done() {
    let erasure = erasure(Store::memory(SPACES)).await;
    assert_eq!(erasure.run_if_due().await.unwrap(), Some(Erased::default()));
    let redact = async || {
        let mut write = Write::new();
        write.erase::<EventJson>(&(RoomNumber(1), EventNumber(1)));
        let mut more = Write::new();
        more.erase::<EventJson>(&(RoomNumber(2), EventNumber(1)));
        write.append(more);
        erasure.database.commit(write).await.unwrap();
    };
    redact().await;
    assert_eq!(erasure.run_if_due().await.unwrap(), Some(Erased { notes: 2, ranges: 2 }));
    redact().await;
    assert_eq!(erasure.run_if_due().await.unwrap(), None);
    erasure.clock.advance(WITHIN / 2);
    assert_eq!(erasure.run_if_due().await.unwrap(), Some(Erased { notes: 2, ranges: 2 }));
    assert_eq!(erasure.run().await.unwrap(), Erased::default());
}

/// The rows of an erased user are nowhere in the files of the database, also when it was restarted in between.
#[tokio::test]
async fn bytes_of_an_erased_user_leave_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("database");
    let open = || {
        let options = OpenOptions::new(&path, SPACES, FORMAT, server_name!("example.org").as_str());
        Store::open(OpenOptions { compressed: false, ..options }).unwrap()
    };
    let secret = "Rumpelstiltskin, so I am called";
    let stored = || {
        std::fs::read_dir(&path)
            .unwrap()
            .filter_map(|entry| std::fs::read(entry.unwrap().path()).ok())
            .any(|bytes| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
    };
    let first = erasure(open()).await;
    let user = UserNumber(7);
    let account_data = crate::account_data::AccountData::new(first.database.clone());
    let content = serde_json::json!({ "name": secret }).to_string();
    account_data.set(user, None, "m.test", &content).await.unwrap();
    first.database.store().compact(crate::tables::USER_DATA).await.unwrap();
    let mut write = Write::new();
    write.delete_rows_of_user(user);
    first.database.commit(write).await.unwrap();
    assert!(stored());
    first.database.store().close().await;
    drop((first, account_data));

    let second = erasure(open()).await;
    assert!(second.run_if_due().await.unwrap().unwrap().notes > 0);
    // The engine removes files that it has replaced in the background.
    while stored() {
        tokio::task::yield_now().await;
    }
}
