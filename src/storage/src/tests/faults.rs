//! The fault-injecting wrapper does what it says.

use std::time::Duration;

use crate::conformance::{POINT, SPACES};
use crate::faults::{Faults, FaultyStore};
use crate::{Batch, Check, CommitError, Error, Key, Mode, Op, Position, Store};

fn put(number: u64) -> Batch {
    let key = Key::new(POINT, number.to_be_bytes());
    Batch {
        checks: vec![Check::Absent(key.clone())],
        ops: vec![Op::Put(key, vec![1].into())],
        ..Batch::default()
    }
}

async fn holds(store: &Store, number: u64) -> bool {
    store.get(&Key::new(POINT, number.to_be_bytes())).await.unwrap().is_some()
}

fn faulty(seed: u64, faults: Faults) -> (FaultyStore, Store) {
    let control = FaultyStore::new(Store::memory(SPACES), seed, faults);
    let store = control.store();
    (control, store)
}

#[tokio::test]
async fn conflicts_write_nothing() {
    let (_, store) = faulty(1, Faults { conflict: 500, ..Faults::default() });
    let mut refused = 0;
    for number in 0..200 {
        match store.commit(put(number)).await {
            Ok(_) => assert!(holds(&store, number).await),
            Err(CommitError::Conflict(0)) => {
                refused += 1;
                assert!(!holds(&store, number).await);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!((60..140).contains(&refused), "{refused}");
}

#[tokio::test]
async fn write_errors_make_it_read_only_until_recovery() {
    for late in [false, true] {
        let rate = |on| if on { 1000 } else { 0 };
        let (control, store) =
            faulty(1, Faults { write_error: rate(!late), write_error_late: rate(late), ..Faults::default() });
        control.set(Faults::default());
        assert_eq!(store.commit(put(1)).await.unwrap(), Position::new(1));
        control.set(Faults { write_error: rate(!late), write_error_late: rate(late), ..Faults::default() });
        assert!(matches!(store.commit(put(2)).await, Err(CommitError::Unknown)));
        assert!(matches!(store.mode(), Mode::ReadOnly { .. }));
        assert!(matches!(store.commit(put(3)).await, Err(CommitError::ReadOnly(_))));
        assert!(!holds(&store, 2).await, "not before the recovery");
        control.set(Faults::default());
        store.try_recover().await.unwrap();
        assert_eq!(store.mode(), Mode::ReadWrite);
        assert_eq!(holds(&store, 2).await, late);
        assert_eq!(store.commit(put(3)).await.unwrap().get(), if late { 3 } else { 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_by_itself() {
    let (control, store) =
        faulty(1, Faults { write_error: 1000, outage: Duration::from_secs(5), ..Faults::default() });
    assert!(matches!(store.commit(put(1)).await, Err(CommitError::Unknown)));
    control.set(Faults::default());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(matches!(store.commit(put(1)).await, Err(CommitError::ReadOnly(_))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    store.commit(put(1)).await.unwrap();
}

#[tokio::test]
async fn reads_fail() {
    let (_, store) = faulty(1, Faults { read_error: 1000, ..Faults::default() });
    let key = Key::new(POINT, []);
    assert!(matches!(store.get(&key).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.multi_get(&[key]).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.read_log(Position::ZERO, 1).await, Err(Error::Unavailable(_))));
}

/// After a crash, all that was acknowledged is there, and of the rest a prefix.
#[tokio::test(start_paused = true)]
async fn crashes_keep_what_was_acknowledged() {
    let mut lost = 0;
    for seed in 0..100 {
        let faults = Faults { commit_delay: 300, delay_max: Duration::from_millis(100), ..Faults::default() };
        let (control, store) = faulty(seed, faults);
        let commits: Vec<_> = (0..40).map(|number| store.submit(put(number))).collect();
        tokio::time::sleep(Duration::from_millis(seed)).await;
        control.crash();
        assert!(matches!(store.commit(put(100)).await, Err(CommitError::Unavailable)));
        assert!(store.get(&Key::new(POINT, [])).await.is_err());
        control.restart();
        let head = store.head().get();
        for (number, commit) in (0..).zip(commits) {
            let there = holds(&store, number).await;
            assert_eq!(there, number < head, "not a prefix");
            match commit.await {
                Ok(position) => assert!(there && position.get() == number + 1),
                Err(CommitError::Unknown) => lost += u32::from(!there),
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(lost > 100, "{lost}");
}

/// A seed means the same faults, always.
#[tokio::test(start_paused = true)]
async fn seeds_repeat() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let faults = Faults {
            conflict: 100,
            commit_delay: 100,
            write_error: 20,
            write_error_late: 20,
            delay_max: Duration::from_millis(10),
            outage: Duration::from_millis(20),
            ..Faults::default()
        };
        let (_, store) = faulty(seed, faults);
        let mut outcomes = Vec::new();
        for number in 0..300 {
            outcomes.push(format!("{:?}", store.commit(put(number)).await));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        runs.push(outcomes);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}
