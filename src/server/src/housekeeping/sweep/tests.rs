//! Which rows a sweep deletes, and where it goes on.

use std::{collections::BTreeSet, time::Duration};

use allod_storage::{Position, Store};

use super::*;
use crate::{
    numbers::{DeviceNumber, Hash128, UserNumber},
    random::Random,
    tables::{self, SPACES, rooms::TransactionRecord, upkeep::PendingErasure},
};

const START_MS: u64 = 1_700_000_000_000;

async fn sweeper() -> Sweeper {
    let database = Database::open(Store::memory(SPACES), &Random::seeded(1)).await.unwrap();
    Sweeper::new(database, Clock::manual(START_MS))
}

impl Sweeper {
    async fn round(&self) {
        self.sweep(&CancellationToken::new()).await.unwrap();
    }

    async fn rows<T: Table>(&self) -> usize {
        self.database.scan_all(Range::<T>::whole()).await.unwrap().len()
    }

    async fn transactions(&self, count: u16) {
        for chunk in (0..count).collect::<Vec<_>>().chunks(500) {
            let mut write = Write::new();
            for number in chunk {
                let key = (DeviceNumber(1), Hash128(u128::from(*number).to_be_bytes()));
                let row = TransactionRecord { event_id: "$a".to_owned(), at_ms: self.clock.now_ms() };
                write.put::<Transaction>(&key, &row);
            }
            self.database.commit(write).await.unwrap();
        }
    }
}

/// A table whose rows go after a time must say how old they are: implement [`Aged`] and add it to [`sweeps`].
#[test]
fn every_table_with_a_time_to_live_is_swept() {
    let swept: BTreeSet<_> = sweeps().iter().map(|sweep| sweep.info.name).collect();
    let declared = tables::all().filter(|table| matches!(table.lifetime, Lifetime::Seconds(_)));
    let declared: BTreeSet<_> = declared.map(|table| table.name).collect();
    assert_eq!(swept, declared);
}

#[tokio::test]
async fn rows_go_when_their_time_is_over_and_not_before() {
    let sweeper = sweeper().await;
    sweeper.transactions(1200).await;
    sweeper.round().await;
    sweeper.clock.advance(Duration::from_secs(7 * 86_400));
    sweeper.round().await;
    assert_eq!(sweeper.rows::<Transaction>().await, 1200);
    sweeper.clock.advance(Duration::from_secs(86_400));
    let young = (DeviceNumber(1), Hash128([255; 16]));
    let mut write = Write::new();
    let row = TransactionRecord { event_id: "$b".to_owned(), at_ms: sweeper.clock.now_ms() };
    write.put::<Transaction>(&young, &row);
    sweeper.database.commit(write).await.unwrap();
    sweeper.round().await;
    assert_eq!(sweeper.rows::<Transaction>().await, 1);
    assert_eq!(sweeper.rows::<PendingErasure>().await, 0, "these rows name nobody");
}

#[tokio::test]
async fn a_round_that_is_stopped_is_continued_by_the_next() {
    let sweeper = sweeper().await;
    sweeper.transactions(1200).await;
    sweeper.clock.advance(Duration::from_secs(8 * 86_400));
    let times = sweeper.note_time().await.unwrap();
    let sweep = &sweeps()[2];
    let first = (sweep.run)(&sweeper.database, &times, None).await.unwrap();
    assert_eq!((first.deleted, first.cursor.is_some()), (500, true));
    let mut write = Write::new();
    write.put::<Chore>(&sweep.info.id, &ChoreRow { finished_ms: 0, cursor: first.cursor });
    sweeper.database.commit(write).await.unwrap();
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(sweeper.sweep_table(sweep, &times, &stopped).await.unwrap(), 0);
    assert_eq!(sweeper.rows::<Transaction>().await, 700);
    assert_eq!(sweeper.sweep_table(sweep, &times, &CancellationToken::new()).await.unwrap(), 700);
    assert_eq!(sweeper.sweep_table(sweep, &times, &CancellationToken::new()).await.unwrap(), 0);
}

#[tokio::test]
async fn rows_that_know_only_their_position_go_too_and_are_erased() {
    let sweeper = sweeper().await;
    let change = async |user: u32| {
        let mut write = Write::new();
        write.put::<DeviceListChange>(&(Position::PENDING, UserNumber(user)), &());
        sweeper.database.commit(write).await.unwrap();
    };
    change(1).await;
    sweeper.round().await;
    sweeper.clock.advance(Duration::from_secs(20 * 86_400));
    change(2).await;
    sweeper.round().await;
    sweeper.clock.advance(Duration::from_secs(11 * 86_400));
    sweeper.round().await;
    let left = sweeper.database.scan_all(Range::<DeviceListChange>::whole()).await.unwrap();
    assert_eq!(left.iter().map(|((_, user), ())| user.0).collect::<Vec<_>>(), [2]);
    assert_eq!(sweeper.rows::<PendingErasure>().await, 1);
}
