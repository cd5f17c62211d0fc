//! What goes by itself: blobs that a crash left over, media ids that nobody uploaded to, files past their time.

use std::time::Duration;

use allod_storage::BlobName;

use super::{DAY_MS, Media};
use crate::{
    database::{Error, Range},
    numbers::{Hash128, UserNumber},
    tables::media::{MediaFile, MediaRow, UnownedBlob},
};

/// How often is looked for what has outlived its time.
const PAUSE: Duration = Duration::from_secs(3600);
/// Longer than any upload takes, in milliseconds.
const UNOWNED_MS_MAX: u64 = 7 * DAY_MS;
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
        self.discard_forgotten().await?;
        let mut range = Range::<MediaFile>::whole();
        loop {
            let page = self.0.database.scan(&range).await?;
            for (key, row) in &page.rows {
                if self.is_past(row, self.expires_ms(*key, row).await?) {
                    self.delete_by_key(*key).await?;
                }
            }
            let (true, Some((last, _))) = (page.more, page.rows.last()) else { return Ok(()) };
            range = range.continued_after(last);
        }
    }

    /// Removes blobs that have been unowned for so long that nobody can still be writing them.
    async fn discard_forgotten(&self) -> Result<(), Error> {
        let before_ms = self.0.clock.now_ms().saturating_sub(UNOWNED_MS_MAX);
        let unowned = self.0.database.scan_all(Range::<UnownedBlob>::whole()).await?;
        let forgotten = unowned.into_iter().filter(|(_, since_ms)| *since_ms < before_ms);
        let forgotten: Vec<BlobName> = forgotten.map(|(name, _)| BlobName(name)).collect();
        for blobs in forgotten.chunks(DISCARDED_AT_ONCE) {
            self.discard(blobs).await;
        }
        Ok(())
    }

    /// How much of other servers and of previews may be left when room is made: some less than the quota, so that room is
    /// made seldom. `None`: no limit.
    pub(super) fn remote_bytes_left(&self) -> Option<u64> {
        let quota = self.options().remote_quota?.0;
        Some(quota.saturating_sub(quota / 10))
    }

    /// Makes room if there is more of other servers and of previews than the quota allows, in the background.
    pub(super) async fn keep_remote_quota(&self) -> Result<(), Error> {
        let Some(quota) = self.options().remote_quota else { return Ok(()) };
        if self.usage(UserNumber::default()).await?.bytes <= quota.0 {
            return Ok(());
        }
        let media = self.clone();
        self.0.tasks.spawn("media room", async move {
            let Ok(_one_at_a_time) = media.0.making_room.try_lock() else { return };
            if let Err(error) = media.make_room().await {
                tracing::warn!(%error, "old files of other servers could not be removed; trying again later");
            }
        });
        Ok(())
    }

    /// Deletes what is nobody's here and was not fetched for longest, until there is room.
    async fn make_room(&self) -> Result<(), Error> {
        let Some(left) = self.remote_bytes_left() else { return Ok(()) };
        let mut files = Vec::new();
        let mut range = Range::<MediaFile>::whole();
        loop {
            let page = self.0.database.scan(&range).await?;
            for (key, row) in &page.rows {
                let bytes = row.content.as_ref().map(|content| content.bytes);
                if let Some(bytes) = bytes.filter(|_| row.uploader.is_none() && is_deletable(row)) {
                    files.push((row.accessed_day, row.created_ms, *key, bytes));
                }
            }
            let (true, Some((last, _))) = (page.more, page.rows.last()) else { break };
            range = range.continued_after(last);
        }
        files.sort_unstable();
        let mut used = self.usage(UserNumber::default()).await?.bytes;
        for (_, _, key, bytes) in files {
            if used <= left {
                break;
            }
            self.delete_by_key(key).await?;
            used = used.saturating_sub(bytes);
        }
        Ok(())
    }

    /// When a file goes because it was made for a while. One that was to be attached to an event, and was, stays.
    async fn expires_ms(&self, key: Hash128, row: &MediaRow) -> Result<Option<u64>, Error> {
        let past = row.expires_ms.is_some_and(|expires_ms| expires_ms <= self.0.clock.now_ms());
        let waits = row.uploader.is_none() || past && self.is_unattached(key).await?;
        Ok(row.expires_ms.filter(|_| waits))
    }

    /// Whether a file's time is over.
    fn is_past(&self, row: &MediaRow, expires_ms: Option<u64>) -> bool {
        if !is_deletable(row) || row.content.is_none() {
            return false;
        }
        let now_ms = self.0.clock.now_ms();
        let options = self.options();
        let retention = if row.server.is_none() {
            options.retention.map(|time| row.created_ms.saturating_add(time.as_ms()))
        } else {
            let accessed_ms = u64::from(row.accessed_day).saturating_mul(DAY_MS);
            options
                .remote_retention
                .map(|time| accessed_ms.saturating_add(DAY_MS).saturating_add(time.as_ms()))
        };
        [expires_ms, retention].into_iter().flatten().any(|end_ms| end_ms <= now_ms)
    }
}

/// Whether a file may go by itself: not one that is protected, and not what must stay known so that it is not fetched
/// again.
pub(super) fn is_deletable(row: &MediaRow) -> bool {
    let is_kept_away = row.quarantined && row.server.is_some();
    !row.protected && !is_kept_away
}
