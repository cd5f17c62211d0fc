//! Media ids that are given out before their files come.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create>

use ruma::OwnedMxcUri;

use super::Media;
use crate::{
    database::{Error, Range, Write},
    numbers::{Hash128, UserNumber},
    tables::media::{MediaFile, MediaRestriction, PendingMedia, Restriction},
};

/// Why no media id is given out.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The user holds too many; the next of them expires in so many milliseconds.
    #[error("too many media ids wait for their files")]
    TooMany {
        /// When there is one less, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Media {
    /// Gives out a media id, and says until when it waits for its file, in milliseconds since the Unix epoch.
    pub async fn create(&self, uploader: UserNumber) -> Result<(OwnedMxcUri, u64), CreateError> {
        self.create_for(uploader, None).await
    }

    /// The same for a file that its uploader alone may fetch until it is attached to an event (MSC3911).
    pub async fn create_restricted(&self, uploader: UserNumber) -> Result<(OwnedMxcUri, u64), CreateError> {
        self.create_for(uploader, Some(Restriction::Unattached)).await
    }

    async fn create_for(
        &self,
        uploader: UserNumber,
        restriction: Option<Restriction>,
    ) -> Result<(OwnedMxcUri, u64), CreateError> {
        let options = self.options();
        let now_ms = self.0.clock.now_ms();
        let pending = self.0.database.scan_all(Range::<PendingMedia>::prefix(&uploader)).await?;
        let alive: Vec<u64> = pending
            .into_iter()
            .map(|(_, expires_ms)| expires_ms)
            .filter(|expires_ms| *expires_ms > now_ms)
            .collect();
        if alive.len() >= usize::try_from(options.pending_uploads).unwrap_or(usize::MAX) {
            let first = alive.into_iter().min().unwrap_or(now_ms);
            return Err(CreateError::TooMany { retry_after_ms: first.saturating_sub(now_ms) });
        }
        let mut row = self.new_row(uploader);
        let expires_ms = now_ms.saturating_add(options.pending_time.as_ms());
        row.expires_ms = Some(expires_ms);
        let key = self.key(&self.0.server_name, &row.media_id);
        let mut write = Write::new();
        write.absent::<MediaFile>(&key);
        write.put::<MediaFile>(&key, &row);
        write.put::<PendingMedia>(&(uploader, key), &expires_ms);
        if let Some(restriction) = &restriction {
            write.put::<MediaRestriction>(&key, restriction);
        }
        self.0.database.commit(write).await.map_err(Error::from)?;
        Ok((self.uri(&row), expires_ms))
    }

    /// Forgets the media ids whose time is over.
    pub(super) async fn forget_expired(&self) -> Result<(), Error> {
        let now_ms = self.0.clock.now_ms();
        let mut range = Range::<PendingMedia>::whole();
        loop {
            let page = self.0.database.scan(&range).await?;
            for (key, expires_ms) in &page.rows {
                if *expires_ms <= now_ms {
                    self.forget_pending(*key).await?;
                }
            }
            let (true, Some((last, _))) = (page.more, page.rows.last()) else { return Ok(()) };
            range = range.continued_after(last);
        }
    }

    async fn forget_pending(&self, key: (UserNumber, Hash128)) -> Result<(), Error> {
        let row = self.row(key.1).await?;
        let mut write = Write::new();
        if let Some(row) = row.filter(|row| row.content.is_none()) {
            write.equals::<MediaFile>(&key.1, &row);
            write.delete::<MediaFile>(&key.1);
            write.delete::<MediaRestriction>(&key.1);
        }
        write.delete::<PendingMedia>(&key);
        match self.0.database.commit(write).await {
            // Its file has come at the last moment.
            Err(error) if super::is_conflict(&error) => Ok(()),
            outcome => Ok(outcome.map(|_| ())?),
        }
    }
}
