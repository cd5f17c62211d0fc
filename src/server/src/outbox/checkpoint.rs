//! Making durable how far the outbox is: the cursor, who is behind in which rooms, and the ledger, in one commit.

use std::{sync::Arc, time::Duration};

use super::{Inner, book::Dirty, start::CURSOR};
use crate::{
    database::{Error, Write},
    tables::outbox::{
        CursorRecord, Destination, DestinationRecord, LaggingRecord, LaggingRoom, OutboxCursor,
    },
};

/// Shortest time between two checkpoints.
const PAUSE: Duration = Duration::from_millis(500);
/// Rows in one commit, well below the limit of a batch.
const ROWS_MAX: usize = 4_000;

impl Inner {
    /// Starts the task that writes checkpoints. The last one is written when the server stops.
    pub(super) fn start_checkpoints(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        let stopping = self.sources.tasks.stopping().clone();
        self.sources.tasks.spawn("outbox checkpoint", async move {
            loop {
                tokio::select! {
                    () = inner.checkpoint_due.notified() => {}
                    () = stopping.cancelled() => break,
                }
                if let Err(error) = inner.checkpoint().await
                    && !inner.pause(&error).await
                {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stopping.cancelled() => break,
                }
            }
            if let Err(error) = inner.checkpoint().await {
                tracing::warn!(%error, "the outbox's last checkpoint was not written; it sends some events again");
            }
        });
    }

    pub(super) async fn checkpoint(&self) -> Result<(), Error> {
        let (position, dirty, rows) = {
            let mut book = self.book();
            let dirty = std::mem::take(&mut book.dirty);
            let rows = self.rows(&mut book, &dirty);
            (book.safe(), dirty, rows)
        };
        let outcome = self.write_checkpoint(position, &dirty, rows).await;
        if outcome.is_err() {
            let mut book = self.book();
            book.dirty.rooms.extend(dirty.rooms);
            book.dirty.servers.extend(dirty.servers);
            book.dirty.ledger.restore(dirty.ledger);
            drop(book);
            self.checkpoint_due.notify_one();
        }
        outcome
    }

    async fn write_checkpoint(&self, position: u64, dirty: &Dirty, rows: Vec<Write>) -> Result<(), Error> {
        let database = &self.sources.database;
        let stored = database.get::<OutboxCursor>(&CURSOR).await?.map(|cursor| cursor.position);
        if dirty.is_empty() && stored == Some(position) {
            return Ok(());
        }
        let mut write = Write::new();
        for (count, row) in (1_usize..).zip(rows) {
            write.append(row);
            if count.checked_rem(ROWS_MAX) == Some(0) {
                database.commit(std::mem::take(&mut write)).await?;
            }
        }
        // The cursor comes last: what it has passed is in the rows.
        write.put::<OutboxCursor>(&CURSOR, &CursorRecord { position });
        dirty.ledger.write(database, &mut write).await?;
        database.commit(write).await?;
        Ok(())
    }

    /// The rows as they are to be now; to be called with the positions that they belong to.
    fn rows(&self, book: &mut super::book::Book, dirty: &Dirty) -> Vec<Write> {
        let mut rows = Vec::new();
        let of_rooms = dirty.rooms.iter().map(|(server, _)| server);
        for server in of_rooms.clone().chain(&dirty.servers).collect::<std::collections::BTreeSet<_>>() {
            let hash = self.hash(server);
            let mut write = Write::new();
            match book.get(server) {
                Some(destination) if destination.is_remembered() => {
                    let backoff = destination.backoff;
                    let record = DestinationRecord {
                        server: server.to_string(),
                        fail_since_ms: backoff.fail_since_ms,
                        next_at_ms: backoff.next_at_ms,
                        failures: backoff.failures,
                    };
                    write.put::<Destination>(&hash, &record);
                }
                _ => write.delete::<Destination>(&hash),
            }
            rows.push(write);
        }
        for (server, room) in &dirty.rooms {
            let hash = self.hash(server);
            let mut write = Write::new();
            match book.get(server).and_then(|destination| destination.lags_from(*room)) {
                Some(from) => write.put::<LaggingRoom>(&(hash, *room), &LaggingRecord { from }),
                None => write.delete::<LaggingRoom>(&(hash, *room)),
            }
            rows.push(write);
        }
        rows
    }
}
