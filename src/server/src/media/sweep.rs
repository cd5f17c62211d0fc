//! What goes by itself: blobs that a crash left over, media ids that nobody uploaded to, files past their time.

use std::time::Duration;

use allod_storage::BlobName;

use super::Media;
use crate::{
    database::{Error, Range},
    tables::media::{MediaFile, MediaRow},
};

/// How often is looked for what has outlived its time.
const PAUSE: Duration = Duration::from_secs(3600);
/// Blobs removed at a time: two rows each, well below the limit of a batch.
const DISCARDED_AT_ONCE: usize = 500;

/// Removes what an earlier run left over, then sweeps every hour.
pub(super) fn start(media: &Media, left_over: Vec<BlobName>) {
    let (media, stopping) = (media.clone(), media.0.tasks.stopping().clone());
    media.0.tasks.clone().spawn("media sweep", async move {
        if !left_over.is_empty() {
            tracing::info!(
                files = left_over.len(),
                "removing what was being written or deleted at the last stop"
            );
        }
        for blobs in left_over.chunks(DISCARDED_AT_ONCE) {
            media.discard(blobs).await;
        }
        loop {
            if let Err(error) = media.sweep().await {
                tracing::warn!(%error, "old files could not be removed; trying again in an hour");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    });
}

impl Media {
    /// Forgets media ids and deletes files whose time is over.
    pub async fn sweep(&self) -> Result<(), Error> {
        self.forget_expired().await?;
        let mut range = Range::<MediaFile>::whole();
        loop {
            let page = self.0.database.scan(&range).await?;
            for (key, row) in &page.rows {
                if self.is_past(row) {
                    self.delete_by_key(*key).await?;
                }
            }
            let (true, Some((last, _))) = (page.more, page.rows.last()) else { return Ok(()) };
            range = range.continued_after(last);
        }
    }

    /// Whether a file's time is over.
    fn is_past(&self, row: &MediaRow) -> bool {
        if row.protected || row.content.is_none() {
            return false;
        }
        let now_ms = self.0.clock.now_ms();
        let retention = self.options().retention.map(|time| row.created_ms.saturating_add(time.as_ms()));
        [row.expires_ms, retention].into_iter().flatten().any(|end_ms| end_ms <= now_ms)
    }
}
