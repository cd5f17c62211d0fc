//! The suite on each engine, and the stress that shows what positions promise.

use std::cell::RefCell;

use super::open;
use crate::Store;
use crate::conformance::{self, SPACES};
use crate::faults::{Faults, FaultyStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory() {
    conformance::run(|| Store::memory(SPACES)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rocks() {
    let directories = RefCell::new(Vec::new());
    conformance::run(|| {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("db"));
        directories.borrow_mut().push(directory);
        store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faulty_without_faults() {
    conformance::run(|| FaultyStore::new(Store::memory(SPACES), 1, Faults::default()).store()).await;
}

/// Only late: every promise must hold, just slower.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn visibility_with_delays() {
    let faults = Faults {
        commit_delay: 200,
        read_delay: 200,
        delay_max: std::time::Duration::from_millis(3),
        ..Faults::default()
    };
    conformance::visibility(&FaultyStore::new(Store::memory(SPACES), 2, faults).store(), 16, 16, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn visibility_memory() {
    conformance::visibility(&Store::memory(SPACES), 64, 64, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn visibility_rocks() {
    let directory = tempfile::tempdir().unwrap();
    conformance::visibility(&open(directory.path()), 64, 64, 60).await;
}
