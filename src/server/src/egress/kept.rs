//! The register over restarts: what has changed in it is written down every now and then, and when the server stops.

use std::time::Duration;

use super::register::{Contact, Purpose, Register};
use crate::{
    database::{Database, Error, Range, Write},
    numbers::Hash128,
    tables::whereabouts::{EgressContact, EgressContactRow},
    tasks::Tasks,
};

/// How long after a request at the latest it is written down; a crash loses no more.
const PAUSE: Duration = Duration::from_secs(5);
/// Rows of one commit.
const CHUNK_ROWS: usize = 1_000;

impl Register {
    /// Goes on with what is written down, and writes down what comes.
    pub async fn keep(&self, database: Database, tasks: &Tasks) -> Result<(), Error> {
        for ((purpose, _), row) in database.scan_all(Range::<EgressContact>::whole()).await? {
            if let Some(purpose) = Purpose::from_id(purpose) {
                self.restore(purpose, row.host.clone(), contact(&row));
            }
        }
        let (register, stopping) = (self.clone(), tasks.stopping().clone());
        drop(tasks.spawn("egress register", async move {
            loop {
                tokio::select! {
                    () = register.changed() => {}
                    () = stopping.cancelled() => {}
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stopping.cancelled() => {}
                }
                if let Err(error) = register.write_down(&database).await {
                    tracing::warn!(%error, "whom this server has spoken to is not written down; trying again");
                }
                if stopping.is_cancelled() {
                    return;
                }
            }
        }));
        Ok(())
    }

    /// Writes down what changed.
    pub(super) async fn write_down(&self, database: &Database) -> Result<(), Error> {
        let changed = self.take_changed();
        for chunk in changed.chunks(CHUNK_ROWS) {
            let mut write = Write::new();
            for (purpose, host, contact) in chunk {
                write.put::<EgressContact>(&key(database, *purpose, host), &row(host, contact));
            }
            if let Err(error) = database.commit(write).await {
                self.put_back(changed.iter().map(|(purpose, host, _)| (*purpose, host.clone())));
                return Err(error.into());
            }
        }
        Ok(())
    }
}

fn key(database: &Database, purpose: Purpose, host: &str) -> (u8, Hash128) {
    (purpose.id(), database.hash("egress host", host))
}

fn row(host: &str, contact: &Contact) -> EgressContactRow {
    let Contact { requests, refused, bytes_received, bytes_sent, first_ms, last_ms } = *contact;
    EgressContactRow {
        host: host.to_owned(),
        requests,
        refused,
        bytes_received,
        bytes_sent,
        first_ms,
        last_ms,
    }
}

fn contact(row: &EgressContactRow) -> Contact {
    let EgressContactRow { host: _, requests, refused, bytes_received, bytes_sent, first_ms, last_ms } = *row;
    Contact { requests, refused, bytes_received, bytes_sent, first_ms, last_ms }
}

#[cfg(test)]
mod tests {
    use allod_storage::Store;

    use super::*;
    use crate::{random::Random, tables::SPACES};

    #[tokio::test]
    async fn whom_was_spoken_to_is_known_after_a_restart() {
        let store = Store::memory(SPACES);
        let mut last_ms = 0;
        for run in 1..=3_u64 {
            let database = Database::open(store.clone(), &Random::seeded(1)).await.unwrap();
            let (register, tasks) = (Register::default(), Tasks::new());
            register.keep(database, &tasks).await.unwrap();
            last_ms = run * 10;
            for (purpose, host) in [(Purpose::Push, "push.example"), (Purpose::Federation, "a.example")] {
                register.note(purpose, host, last_ms, |contact| contact.requests += run);
            }
            assert!(tasks.shut_down(Duration::from_secs(10)).await);
        }
        let database = Database::open(store, &Random::seeded(1)).await.unwrap();
        let (register, tasks) = (Register::default(), Tasks::new());
        register.keep(database, &tasks).await.unwrap();
        let contact = Contact { requests: 6, first_ms: 10, last_ms, ..Contact::default() };
        let expected = [(Purpose::Federation, "a.example"), (Purpose::Push, "push.example")];
        let expected = expected.map(|(purpose, host)| (purpose, host.to_owned(), contact));
        assert_eq!(register.list(), expected);
    }
}
