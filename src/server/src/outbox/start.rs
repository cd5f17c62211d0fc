//! Going on where the server was stopped.

use std::{sync::Arc, time::Duration};

use ruma::ServerName;

use super::{Outbox, backoff::Backoff, destination::Lag};
use crate::{
    database::{Error, Range, Write},
    numbers::Hash128,
    tables::outbox::{CursorRecord, Destination, LaggingRoom, OutboxCursor, QueuedEdu},
};

/// The key of the one row of [`OutboxCursor`].
pub(super) const CURSOR: u8 = 0;

impl Outbox {
    /// Reads what was left, and starts all tasks.
    pub(super) async fn resume(&self) -> Result<(), Error> {
        let inner = &self.0;
        let database = &inner.sources.database;
        // Older than the cursor that is read next, so that nothing falls in between.
        let subscription = database.store().subscribe();
        let cursor = self.cursor().await?;
        inner.book().handed_out = cursor;
        self.read_servers(cursor).await?;
        self.read_queued().await?;
        let names = inner.book().with_work();
        for server in names {
            inner.start_delivery(&server);
        }
        inner.start_fan_out(subscription);
        inner.start_checkpoints();
        inner.start_typing();
        inner.start_presence();
        Ok(())
    }

    /// Where reading the log goes on; at its end, if it was never read: what happened before federation was switched on
    /// is nobody else's business.
    async fn cursor(&self) -> Result<u64, Error> {
        let database = &self.0.sources.database;
        if let Some(cursor) = database.get::<OutboxCursor>(&CURSOR).await? {
            return Ok(cursor.position);
        }
        let position = database.store().head().get();
        let mut write = Write::new();
        write.put::<OutboxCursor>(&CURSOR, &CursorRecord { position });
        database.commit(write).await?;
        Ok(position)
    }

    async fn read_servers(&self, cursor: u64) -> Result<(), Error> {
        let database = &self.0.sources.database;
        let mut book_of = std::collections::HashMap::new();
        for (hash, row) in database.scan_all(Range::<Destination>::whole()).await? {
            let Ok(server) = ServerName::parse(&row.server) else { continue };
            let mut book = self.0.book();
            book.entry(&server, || hash).backoff = Backoff {
                fail_since_ms: row.fail_since_ms,
                next_at_ms: row.next_at_ms,
                failures: row.failures,
            };
            book_of.insert(hash, server);
        }
        for ((hash, room), row) in database.scan_all(Range::<LaggingRoom>::whole()).await? {
            // Rows of rooms are written together with those of their servers.
            let Some(server) = book_of.get(&hash) else { continue };
            let lag = Lag { from: row.from, upto: cursor.max(row.from) };
            self.0.book().was_lagging(server, hash, room, lag);
        }
        Ok(())
    }

    /// Finds the servers that have rows waiting, one look for each.
    async fn read_queued(&self) -> Result<(), Error> {
        let database = &self.0.sources.database;
        let mut range = Range::<QueuedEdu>::whole().limit(1);
        loop {
            let page = database.scan(&range).await?;
            let Some(((hash, ..), row)) = page.rows.first() else { return Ok(()) };
            if let Ok(server) = ServerName::parse(&row.server) {
                self.0.book().entry(&server, || *hash).tell_rows();
            }
            let Some(next) = after(*hash) else { return Ok(()) };
            range = Range::<QueuedEdu>::between(&next, &Hash128([u8::MAX; 16])).limit(1);
        }
    }
}

/// The next possible hash.
fn after(hash: Hash128) -> Option<Hash128> {
    u128::from_be_bytes(hash.0).checked_add(1).map(|next| Hash128(next.to_be_bytes()))
}

/// How long is waited after a failure of the machine before something is tried again.
pub(super) const STORAGE_PAUSE: Duration = Duration::from_secs(5);

impl super::Inner {
    /// Waits after a failure of the machine; whether the server goes on.
    pub(super) async fn pause(self: &Arc<Self>, error: &Error) -> bool {
        tracing::warn!(%error, "the outbox cannot read or write; trying again");
        tokio::select! {
            () = tokio::time::sleep(STORAGE_PAUSE) => true,
            () = self.sources.tasks.stopping().cancelled() => false,
        }
    }
}
